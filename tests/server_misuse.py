#!/usr/bin/env python3
"""server_misuse.py - servers and vshardctl in the hands of who is in a hurry, and in bad weather.

A server is given configurations that are wrong, addresses that are another's, and the directory of another cluster: it names
the line, or the address, and ends. Each line of its log must be JSON whatever paths have in them. A line that cannot be
read is answered before the connection ends. SIGTERM ends a server with 0, also amid a load, and nothing that was
acknowledged is lost. Connections must have timers, since a machine that has vanished closes none.

vshardctl is given files that are no rows, rows that no collection takes, names that are no words, and manifests that are damaged:
each is named, and nothing is half done without a word. It is interrupted, nobody reads what it says, and what it reads fails."""
import json
import os
import signal
import socket
import struct
import subprocess
import sys

import server as test

ctl = test.ctl
DIM = 8


def vector(key):
    return struct.pack('<%df' % DIM, *(float(key % 97 + i + 1) for i in range(DIM)))


def log_of(path):
    """Its lines; each must be JSON."""
    with open(path, 'rb') as log:
        return [json.loads(line.decode()) for line in log.read().splitlines()]


def refused(folder, lines, wanted, *how):
    """A server with these lines ends with 1, and says that in its last line."""
    config, log = os.path.join(folder, 'bad.conf'), os.path.join(folder, 'bad.log')
    with open(config, 'wb') as f:
        f.write(b'\n'.join(line if isinstance(line, bytes) else line.encode() for line in lines) + b'\n')
    with open(log, 'wb') as f:
        ended = subprocess.run([os.path.join(test.build, 'examples/server/server'), config, *how], stderr=f, timeout=60)
    said = ' '.join('%s: %s' % pair for pair in log_of(log)[-1].items())
    if ended.returncode != 1 or wanted not in said:
        raise RuntimeError("%s: '%s' is not said, but %s" % (lines[-1], wanted, said))


def configured(folder):
    """What is wrong with a configuration is named."""
    port, home = test.free_ports(2), os.path.join(folder, 'made')
    base = ['node = 1', 'cluster = test', 'dir = %s' % home, 'founder = 1', 'listen = 127.0.0.1:%d' % port,
            'client = 127.0.0.1:%d' % (port + 1)]
    odd = folder.encode() + b'/"\xff\x01\\/1'
    for line, wanted in (
            ('nice = many', "nice: 'many' is no number up to 19 (line 7)"), ('workers =', 'workers: it has no value'),
            ('no line', 'no line (line 7)'), ('Node = 1', 'does not take: Node (line 7)'), (b'dir = ' + odd, '\ufffd\x01\\/1'),
            ('dir = /' + 'd' * 3000, 'dir: it has 3001 bytes, limit 2999'), ('#' * 5000, 'more than 4094 bytes (line 7)'),
            ('client = 127.0.0.1:0', "'127.0.0.1:0' is not an address"), ('client = 127.0.0.1:%d' % port, 'address of listen, too'),
            ('founder = 2', 'founder: 2 is no peer'), ('peer = 2', "peer: '2' is not a node and its address"),
            ('node = 0', "node: '0' is no number"), ('peer = 2 127.0.0.1:1\npeer = 2 127.0.0.1:2', 'has an address already (line 8)'),
            ('\n'.join('peer = %d 127.0.0.1:1' % (n + 2) for n in range(17)), 'peer: 18 127.0.0.1:1 is one more than the limit of 16'),
            ('\n'.join('founder = %d' % (n + 2) for n in range(16)), 'founder: 17 is one more than the limit of 16')):
        refused(folder, base + [line], wanted)
    refused(folder, base[:3] + base[4:], 'founder: this node is to be one', '--format')
    refused(folder, base[:1] + base[2:], 'cluster: it is needed', '--format')
    refused(folder, base[:4], 'there is no listen')
    # no address of this machine: once, any port was listened at instead
    refused(folder, base + ['listen = 192.0.2.1:%d' % port], 'listen: 192.0.2.1:%d: ' % port, '--format')
    if not os.path.isdir(home):
        raise RuntimeError('--format makes no directory')
    refused(folder, base, 'a node lives there already', '--format')
    refused(folder, base + ['cluster = other'], 'cluster: the node in this directory is of another one')
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', port))
        taken.listen()
        refused(folder, base, 'listen: 127.0.0.1:%d: address already in use' % port)


def answer_of(cluster, line):
    """All that is said to it, until the server closes the connection."""
    server = cluster.connect(1)
    server.socket.sendall(line)
    said = b''
    try:
        while True:
            server.more()
            said, server.got = said + server.got, b''
    except ConnectionError:
        return said.decode()


def unreadable(cluster):
    """Requests before it are answered, too."""
    for line, wanted in ((b'status 1\nfetch 2 ' + b'x' * 3000 + b'\n', '2 error -1'), (b'create tag ' + b'x ' * 40 + b'\n', 'tag error -1'),
                         (b'x' * 3000, '- error -1'), (b'write 7 words 1 0 99999999999\n', '7 error -1'),
                         (b'fetch ' + b'x' * 40 + b' words 1\n', '- error -1'), (b'\n', '- error -1')):
        said = answer_of(cluster, line)
        if '2048 bytes' not in said or wanted not in said or (b'status' in line and '1 ok node=1' not in said):
            raise RuntimeError("%s is answered by '%s'" % (line[:40], said))


def stopped(cluster):
    """SIGTERM amid a load: it ends with 0, and has what it acknowledged."""
    server, sent = cluster.connect(1), {}
    for key in range(400):
        sent[server.send('write', 'words', 1, 0, body=ctl.rows_body([key], vector(key)))] = key
        if key == 300:
            cluster.process[1].send_signal(signal.SIGTERM)
    there = set()
    try:
        while True:
            tag, fine, _ = server.receive()
            if fine:
                there.add(sent[tag])
    except OSError:
        pass
    if cluster.process[1].wait(timeout=60) != 0:
        raise RuntimeError('SIGTERM ends a server with %d' % cluster.process[1].returncode)
    if log_of(os.path.join(cluster.folder, '1.log'))[-1].get('why') != 'SIGTERM':
        raise RuntimeError('it is not said why the server ends')
    cluster.start(1, nodes=(1,))
    test.check_rows(cluster.connect(1), {key: vector(key) for key in there})


def npy(folder, name, descr='<f4', shape=(3, DIM), order=False, values=None, raw=None):
    """A file, with rows of 1, 2, .. unless it is given others."""
    head = ("{'descr': %r, 'fortran_order': %s, 'shape': %s}" % (descr, order, shape)).encode()
    body = struct.pack('<%df' % (3 * DIM), *(values or range(1, 3 * DIM + 1)))
    path = os.path.join(folder, name + '.npy')
    with open(path, 'wb') as f:
        f.write(raw if raw is not None else b'\x93NUMPY\x01\0' + struct.pack('<H', len(head)) + head + body)
    return path


def files(cluster, folder):
    """What is wrong with a file, or a row of it, is said, and what is not wrong is not."""
    def head(text):
        return b'\x93NUMPY\x01\0' + struct.pack('<H', len(text)) + text

    bad, nowhere = list(range(1, 3 * DIM + 1)), list(range(1, 3 * DIM + 1))
    bad[2 * DIM + 3], nowhere[DIM:2 * DIM] = float('nan'), [0] * DIM
    unreadable_head = 'head can be read'
    for path, wanted in (
            (npy(folder, 'f8', '<f8'), "elements of '<f8'"), (npy(folder, 'big', '>f4'), "elements of '>f4'"),
            (npy(folder, 'f', order=True), 'Fortran order'), (npy(folder, 'one', shape=(24,)), 'shape (24,)'),
            (npy(folder, 'less', shape=(-1, DIM)), 'a shape of (-1, 8)'), (npy(folder, 'five', shape=5), 'a shape of 5'),
            (npy(folder, 'long', shape=(4, DIM)), 'shorter than'), (npy(folder, 'no', descr=''), "elements of ''"),
            (npy(folder, 'int', raw=head(b'5')), unreadable_head), (npy(folder, 'cut', raw=head(b'{' * 100)[:40]), unreadable_head),
            (npy(folder, 'minus', raw=head(b'-' * 60000 + b'1')), unreadable_head), (npy(folder, 'none', raw=head(b'{}')), unreadable_head),
            (npy(folder, 'bytes', raw=head(b'\xff\xfe')), unreadable_head), (npy(folder, 'nan', values=bad), 'row 2: element 3 is nan'),
            (npy(folder, 'zero', values=nowhere), 'row 1: all elements are 0')):
        test.say(cluster, (1,), 'load', 'words', path, status=1, wanted=wanted)
    good = npy(folder, 'good')
    for row, path, wanted in ((2, 'nan', 'element 3 is nan'), (1, 'zero', 'all elements are 0')):
        test.say(cluster, (1,), 'search', 'words', os.path.join(folder, path + '.npy'), row, status=1, wanted=wanted)
        test.say(cluster, (1,), 'put', 'words', 1, os.path.join(folder, path + '.npy'), row, status=1, wanted=wanted)
    test.say(cluster, (1,), 'load', 'words', good, (1 << 64) - 2, status=2, wanted='keys of 3 rows')
    test.say(cluster, (1,), 'load', 'words', good, (1 << 64) - 3, wanted='3 of 3 rows')
    return good


def names(cluster):
    for name in ('a b', '', 'x\nend 1', 'a' * 65, '\u00e9' * 33, 'bad\udcff', 'tab\t', '\x7f'):
        test.say(cluster, (1,), 'create', name, DIM, 'l2', 1, 1, status=2, wanted='1 to 64 bytes')
    test.say(cluster, (1,), 'create', 'z', DIM, 'l2', 1, 1, 'm=4\nend 1', status=1, wanted='one line')
    test.say(cluster, (1,), 'create', 'z', DIM, 'l2', 1, 1, *range(40), status=1, wanted='32 words')
    test.say(cluster, (1,), 'fetch', 'words', '\u00b2', status=2, wanted='KEY is a number')
    test.say(cluster, (1,), '--help', wanted='vshardctl COMMAND --help')
    test.say(cluster, (1,), 'join', 1, wanted='node 1 is a member already')


def backups(cluster, folder, good):
    """Files stay in their folder, and a manifest that is damaged is said to be."""
    odd = '../../\u00e9vil'
    test.say(cluster, (1,), 'create', odd, DIM, 'cosine', 1, 1)
    test.say(cluster, (1,), 'load', odd, good, wanted='3 of 3 rows')
    home = os.path.join(folder, 'deep', 'er', 'backup')
    test.say(cluster, (1,), 'backup', home, odd, odd, status=2, wanted='named twice')
    test.say(cluster, (1,), 'backup', home, odd, wanted='3 rows in 1 shards')
    if len(os.listdir(home)) != 2 or os.listdir(os.path.join(folder, 'deep')) != ['er']:
        raise RuntimeError('a backup is elsewhere: %s' % os.listdir(home))
    test.say(cluster, (1,), 'drop', odd)
    manifest = os.path.join(home, 'manifest.json')
    with open(manifest) as file:
        whole = file.read()
    for text, wanted in (('', 'cannot be read'), (whole[:50], 'cannot be read'), ('[]', 'is damaged'), ('{"format": 2}', "KeyError: 'collections'"),
                         ('{"format": 2, "collections": [{}]}', "KeyError: 'name'"), (whole.replace('"format": 2', '"format": 3'), 'another version, 3'),
                         (whole.replace('"dim": 8', '"dim": "8"'), 'is damaged'), (whole.replace('"file": "', '"file": "../'), 'is elsewhere')):
        with open(manifest, 'w') as file:
            file.write(text)
        test.say(cluster, (1,), 'restore', home, status=1, wanted=wanted)
        test.say(cluster, (1,), 'describe', odd, status=1, wanted='no collection')
    with open(manifest, 'w') as file:
        file.write(whole.replace('"dim": 8', '"dim": 9'))
    test.say(cluster, (1,), 'restore', home, status=1, wanted='was not whole, and is dropped')
    with open(manifest, 'w') as file:
        file.write(whole)
    test.say(cluster, (1,), 'restore', home, wanted='3 of 3 rows')


def broken_source(cluster):
    """What cannot be read is not taken for a server that has gone: once, a load then ended well, without the rest."""
    def writes():
        yield ctl.Write(1, 'write', ('words', 1, 0), ctl.rows_body([1], vector(1)))
        raise OSError('the disk fails')
    try:
        ctl.write_all(ctl.Servers([('127.0.0.1', cluster.client[1])]), writes(), lambda rows: None)
    except OSError as problem:
        if 'the disk fails' in str(problem):
            return
        raise
    raise RuntimeError('half of what was to be written is called all of it')


def run_ctl(port, *words, **how):
    return subprocess.Popen([sys.executable, '-B', os.path.join(test.root, 'examples/server/vshardctl'), '--at',
                             '127.0.0.1:%d' % port, *words], stderr=subprocess.PIPE, text=True, **how)


def interrupted(cluster, good):
    """A load says what is there, and what to do, here of a server that takes a write and says no more. Where nobody reads what
    is said, that is no error to speak of."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        loading = run_ctl(listener.getsockname()[1], 'load', 'words', good, stdout=subprocess.PIPE)
        server, _ = listener.accept()
        server.recv(1000)
        said = loading.stderr.readline()
        server.sendall(b'1 ok metric=cosine dim=%d shards=1 replicas=1\n' % DIM)
        server.recv(1000)
        loading.send_signal(signal.SIGINT)
        test.must_say('a load', loading, 130, 'the same command again')
        server.close()
    if 'waiting for the answer' not in said:
        raise RuntimeError('a server that does not answer is waited for without a word: %s' % said)
    reads, writes = os.pipe()
    os.close(reads)
    unread = run_ctl(cluster.client[1], 'describe', 'words', stdout=writes)
    os.close(writes)
    said = unread.communicate(timeout=60)[1]
    if unread.returncode != 141 or said:
        raise RuntimeError('without a reader it ends with %d: %s' % (unread.returncode, said))


def watched(cluster):
    """A server that stops while it is watched may come back."""
    watching = test.vshardctl(cluster, (1,), 'watch', 'words')
    watching.stdout.readline()
    cluster.kill(1)
    for wanted in ('no server answers', 'shard  leader'):
        while wanted not in watching.stdout.readline():
            if watching.poll() is not None:
                raise RuntimeError('watch ends: %s' % watching.stderr.read())
        if wanted == 'no server answers':
            test.say(cluster, (1,), 'status', status=1, wanted='no server answers')
            cluster.start(1, nodes=(1,))
    watching.send_signal(signal.SIGINT)
    test.must_say('watch', watching, 130, '')


def timers(port):
    """Of each connection whose near end is the port, which timer runs; 2: that of keepalive."""
    with open('/proc/net/tcp') as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return [int(r[5].split(':')[0]) for r in rows if r[1].endswith(':%04X' % port) and r[3] == '01']


def run(folder):
    configured(folder)
    cluster = test.Cluster(os.path.join(folder, 'one'))
    cluster.start(1, '--format', nodes=(1,))
    server = cluster.connect(1)
    test.say(cluster, (1,), 'create', 'words', DIM, 'cosine', 1, 1)
    test.wait('a leader', 60, lambda: ctl.shards(server, 'words')[0]['leader'] == '1')
    unreadable(cluster)
    if sys.platform == 'linux':
        test.wait('a timer', 20, lambda: timers(cluster.client[1])[:1] == [2])
    server.close()
    good = files(cluster, folder)
    names(cluster)
    backups(cluster, folder, good)
    broken_source(cluster)
    interrupted(cluster, good)
    stopped(cluster)
    watched(cluster)
    return 'wrong configurations, lines, files, names and manifests are named; stopped with what was acknowledged'


if __name__ == '__main__':
    sys.exit(test.perform('server-misuse', run))
