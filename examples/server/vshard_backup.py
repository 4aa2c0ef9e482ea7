"""vshard_backup.py - the backup and restore of vshardctl: exports of shards, and a manifest."""
import json
import os
import struct
import time
import urllib.parse
import zlib

from vshard_client import (AGAIN, PATIENCE, STALE, Progress, Refused, Servers, Usage, Write, check_name, clock, create, describe,
                           new_ids, note, write_all)
from vshard_rows import Attribute, batch_body, exported_rows, row_batches

MANIFEST = 'manifest.json'
ATTEMPTS = 5  # at the export of a shard whose server goes meanwhile


def put_file(path, write):
    """A file that is there whole or not at all; `write` gets it open."""
    aside = path + '.tmp'
    try:
        with open(aside, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
        folder = os.open(os.path.dirname(path) or '.', os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise


def find_replicas(servers, name):
    """For each shard the servers that have it, the leader first; and whether some do not know the collection."""
    have, late = {}, False
    for _, server, status, there in servers.each(name):
        if server is not None:
            server.socket.settimeout(600)
        late |= there is None
        for s in there or []:
            if s['here'] == '1':
                have.setdefault(int(s['shard']), []).insert(0 if s['leader'] == status['node'] else 99, server)
    return have, late


def replicas(servers, name, count):
    """Of all shards; a server that does not know the collection yet may have some, and is asked again."""
    until = clock() + PATIENCE
    while True:
        have, late = find_replicas(servers, name)
        missing = [shard for shard in range(count) if shard not in have]
        if not missing:
            return have
        if not late or clock() > until:
            raise RuntimeError('%s: none of the servers at %s (--at) has shard %d' % (name, servers.names(), missing[0]))
        time.sleep(0.2)


def export(have, name, shard):
    """The server that has a shard's export now, and what it says about it. While another comes to lead, or a replica is
    behind, none can: it is asked for again, here or elsewhere."""
    until, turn = clock() + PATIENCE, 0
    while True:
        server = have[turn % len(have)]
        try:
            return server, map(int, server.must('%s, shard %d' % (name, shard), 'export', name, shard))
        except Refused as problem:
            if problem.status not in (*AGAIN, STALE) or clock() > until:
                raise
        time.sleep(0.2)
        turn += 1


def copy_export(have, name, shard, path):
    """Returns what the manifest says about the file."""
    server, (size, position, rows) = export(have, name, shard)
    progress, crc, at = Progress('%s, shard %d' % (name, shard), size, 'bytes'), 0, 0

    def write(file):
        nonlocal crc, at
        while at < size:
            piece = server.take(int(server.must('reading', 'read', at)[0]))
            if not piece:
                raise RuntimeError('%s, shard %d: the export ends early' % (name, shard))
            file.write(piece)
            crc = zlib.crc32(piece, crc)
            at += len(piece)
            progress.add(len(piece))

    put_file(path, write)
    progress.end_shown()
    return {'file': os.path.basename(path), 'bytes': size, 'crc32': crc, 'position': position, 'rows': rows}


def export_path(folder, name, shard):
    """In the folder, whatever the name is."""
    return os.path.join(folder, '%s.%d.rows' % (urllib.parse.quote(name, safe=''), shard))


def copy_shard(servers, name, about, shard, folder):
    """Where the server that has it goes meanwhile, from another."""
    for attempt in range(ATTEMPTS):
        have = replicas(servers, name, about.fields['shards'])
        try:
            return copy_export(have[shard], name, shard, export_path(folder, name, shard))
        except (ConnectionError, TimeoutError) as problem:
            if attempt == ATTEMPTS - 1:
                raise
            note('%s, shard %d: %s; it is asked for again' % (name, shard, problem))
        finally:
            for server in {id(s): s for at in have.values() for s in at}.values():
                server.close()
        time.sleep(0.5)


def backup_collection(servers, folder, name):
    about = describe(servers.one(), name)
    files = [copy_shard(servers, name, about, shard, folder) for shard in range(about.fields['shards'])]
    return {'name': name, 'metric': about.metric, 'fields': about.fields, 'attributes': about.attributes,
            'files': files}


def do_backup(servers, folder, *names):
    manifest = os.path.join(folder, MANIFEST)
    if len(set(names)) < len(names):
        raise Usage('a collection is named twice')
    if os.path.exists(manifest):
        raise RuntimeError('%s has a backup already' % folder)
    try:
        os.makedirs(folder, exist_ok=True)
        made = {'format': 2, 'collections': [backup_collection(servers, folder, name) for name in names]}
        put_file(manifest, lambda file: file.write(json.dumps(made, indent=1).encode()))
    except BaseException:
        note('%s is not whole, and cannot be restored; the same command again makes it whole' % folder)
        raise
    for c in made['collections']:
        print('%s: %d rows in %d shards' % (c['name'], sum(f['rows'] for f in c['files']), c['fields']['shards']))


def read_manifest(folder):
    try:
        with open(os.path.join(folder, MANIFEST), 'rb') as file:
            made = json.loads(file.read())
    except FileNotFoundError:
        raise RuntimeError('%s is no whole backup: it has no %s' % (folder, MANIFEST))
    except ValueError as problem:
        raise RuntimeError('%s in %s cannot be read: %s' % (MANIFEST, folder, problem))
    try:
        if made['format'] not in (1, 2):
            raise RuntimeError('%s is of another version, %s' % (folder, made['format']))
        return [read_collection(c, made['format']) for c in made['collections']]
    except (KeyError, TypeError, ValueError, Usage) as problem:
        raise RuntimeError('%s in %s is damaged: %s: %s' % (MANIFEST, folder, type(problem).__name__, problem))


def read_collection(c, version):
    if version == 1:  # it had no attributes, and no other numbers
        c['fields'] = {name: c[name] for name in ('dim', 'shards', 'replicas')}
    c['attributes'] = [Attribute(*a) for a in c.get('attributes', ())]
    check_name(c['name'])
    c['metric'], [c['fields'][name] + 0 for name in ('dim', 'shards', 'replicas')]  # are there
    for about in c['files']:
        about['bytes'] + about['crc32'] + about['rows']
        if os.path.basename(about['file']) != about['file']:
            raise ValueError('%s is elsewhere' % about['file'])
    return c


def check_files(folder, collections):
    """Every byte is looked at before anything is written to a cluster."""
    files = [about for c in collections for about in c['files']]
    progress = Progress('checked', sum(about['bytes'] for about in files), 'bytes')
    for about in files:
        path, crc = os.path.join(folder, about['file']), 0
        with open(path, 'rb') as file:
            while True:
                piece = file.read(1 << 20)
                if not piece:
                    break
                crc = zlib.crc32(piece, crc)
                progress.add(len(piece))
            if file.tell() != about['bytes'] or crc != about['crc32']:
                raise RuntimeError('%s is damaged: %d bytes, and %d were written' % (path, file.tell(), about['bytes'])
                                   if file.tell() != about['bytes'] else '%s is damaged' % path)
    progress.end_shown()


def restore_writes(folder, collection):
    ids, attributes = new_ids(), collection['attributes']
    for about in collection['files']:
        path = os.path.join(folder, about['file'])
        for some in row_batches(exported_rows(path, 4 * collection['fields']['dim'], attributes)):
            yield Write(len(some), 'write', (collection['name'], len(some), next(ids)), batch_body(some, attributes))


def drop_part(servers, name):
    """What would look like a collection, and has not all rows."""
    try:
        Servers(servers.addresses).one().must(name, 'drop', name)
        note('%s was not whole, and is dropped' % name)
    except (OSError, RuntimeError) as problem:
        note('%s is not whole, and could not be dropped (%s): drop it, and restore it again' % (name, problem))


def restore_collection(servers, folder, c):
    progress = Progress(c['name'], sum(f['rows'] for f in c['files']))
    fields = dict(c['fields'])
    create(servers, c['name'], fields.pop('dim'), c['metric'], fields.pop('shards'), fields.pop('replicas'),
           *['%s=%d' % f for f in fields.items() if f[1] != 0], *['%s:%s' % a for a in c['attributes']])
    try:
        write_all(servers, restore_writes(folder, c), progress.add)
    except BaseException as problem:
        drop_part(servers, c['name'])
        if isinstance(problem, struct.error):
            raise RuntimeError('%s: the files have other rows than the manifest says' % c['name'])
        raise
    progress.end()


def do_restore(servers, folder, *names):
    wanted = [c for c in read_manifest(folder) if not names or c['name'] in names]
    missing = set(names) - {c['name'] for c in wanted}
    if missing:
        raise RuntimeError("%s has no collection '%s'" % (folder, missing.pop()))
    check_files(folder, wanted)
    for c in wanted:
        restore_collection(servers, folder, c)
