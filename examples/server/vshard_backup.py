"""vshard_backup.py - the backup and restore of vshardctl: exports of shards, and a manifest."""
import json
import os
import sys
import time
import zlib

from vshard_client import (AGAIN, PATIENCE, STALE, Progress, Refused, Servers, Write, create, describe, new_ids,
                           write_all)
from vshard_rows import Attribute, batch_body, exported_rows, row_batches

MANIFEST = 'manifest.json'


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
    until = time.time() + PATIENCE
    while True:
        have, late = find_replicas(servers, name)
        missing = [shard for shard in range(count) if shard not in have]
        if not missing:
            return have
        if not late or time.time() > until:
            raise RuntimeError('%s: none of the servers at %s (--at) has shard %d' % (name, servers.names(), missing[0]))
        time.sleep(0.2)


def export(have, name, shard):
    """The server that has a shard's export now, and what it says about it. While another comes to lead, or a replica is
    behind, none can: it is asked for again, here or elsewhere."""
    until, turn = time.time() + PATIENCE, 0
    while True:
        server = have[turn % len(have)]
        try:
            return server, map(int, server.must('%s, shard %d' % (name, shard), 'export', name, shard))
        except Refused as problem:
            if problem.status not in (*AGAIN, STALE) or time.time() > until:
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
    return {'file': os.path.basename(path), 'bytes': size, 'crc32': crc, 'position': position, 'rows': rows}


def backup_collection(servers, folder, name):
    about = describe(servers.one(), name)
    have, files = replicas(servers, name, about.fields['shards']), []
    for shard in range(about.fields['shards']):
        files.append(copy_export(have[shard], name, shard, os.path.join(folder, '%s.%d.rows' % (name, shard))))
    return {'name': name, 'metric': about.metric, 'fields': about.fields, 'attributes': about.attributes,
            'files': files}


def do_backup(servers, folder, *names):
    manifest = os.path.join(folder, MANIFEST)
    if os.path.exists(manifest):
        raise RuntimeError('%s has a backup already' % folder)
    try:
        os.makedirs(folder, exist_ok=True)
        made = {'format': 2, 'collections': [backup_collection(servers, folder, name) for name in names]}
        put_file(manifest, lambda file: file.write(json.dumps(made, indent=1).encode()))
    except BaseException:
        print('vshardctl: %s is not whole, and cannot be restored' % folder, file=sys.stderr)
        raise
    for c in made['collections']:
        print('%s: %d rows in %d shards' % (c['name'], sum(f['rows'] for f in c['files']), c['fields']['shards']))


def read_manifest(folder):
    try:
        with open(os.path.join(folder, MANIFEST), 'rb') as file:
            made = json.loads(file.read())
    except FileNotFoundError:
        raise RuntimeError('%s is no whole backup: it has no %s' % (folder, MANIFEST))
    if made.get('format') not in (1, 2):
        raise RuntimeError('%s is of another version' % folder)
    for c in made['collections']:
        if made['format'] == 1:  # it had no attributes, and no other numbers
            c['fields'] = {name: c[name] for name in ('dim', 'shards', 'replicas')}
        c['attributes'] = [Attribute(*a) for a in c.get('attributes', ())]
    return made['collections']


def check_files(folder, collection):
    """Every byte is looked at before anything is written to a cluster."""
    for about in collection['files']:
        path, crc = os.path.join(folder, about['file']), 0
        with open(path, 'rb') as file:
            while True:
                piece = file.read(1 << 20)
                if not piece:
                    break
                crc = zlib.crc32(piece, crc)
            if file.tell() != about['bytes'] or crc != about['crc32']:
                raise RuntimeError('%s is damaged' % path)


def restore_writes(folder, collection):
    ids, attributes = new_ids(), collection['attributes']
    for about in collection['files']:
        path = os.path.join(folder, about['file'])
        for some in row_batches(exported_rows(path, 4 * collection['fields']['dim'], attributes)):
            yield Write(len(some), 'write', (collection['name'], len(some), next(ids)), batch_body(some, attributes))


def restore_collection(servers, folder, c):
    progress = Progress(c['name'], sum(f['rows'] for f in c['files']))
    fields = dict(c['fields'])
    create(servers, c['name'], fields.pop('dim'), c['metric'], fields.pop('shards'), fields.pop('replicas'),
           *['%s=%d' % f for f in fields.items() if f[1] != 0], *['%s:%s' % a for a in c['attributes']])
    try:
        write_all(servers, restore_writes(folder, c), progress.add)
    except BaseException:
        print('vshardctl: %s is not whole, and is dropped' % c['name'], file=sys.stderr)
        Servers(servers.addresses).one().must(c['name'], 'drop', c['name'])
        raise
    progress.end()


def do_restore(servers, folder, *names):
    wanted = [c for c in read_manifest(folder) if not names or c['name'] in names]
    missing = set(names) - {c['name'] for c in wanted}
    if missing:
        raise RuntimeError("%s has no collection '%s'" % (folder, missing.pop()))
    for c in wanted:
        check_files(folder, c)
    for c in wanted:
        restore_collection(servers, folder, c)
