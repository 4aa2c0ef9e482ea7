#!/usr/bin/env python3
"""server_misuse.py - servers and vshardctl in the hands of who is in a hurry, and in bad weather.

A server is given configurations that are wrong, addresses that are another's, and the directory of another cluster: it names
the line, or the address, and ends. Each line of its log must be JSON whatever paths have in them. A line that cannot be
read is answered before the connection ends. SIGTERM ends a server with 0, also amid a load, and nothing that was
acknowledged is lost. Connections must have timers, since a machine that has vanished closes none."""
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
    return struct.pack('<%df' % DIM, *(float(key % 97 + i) for i in range(DIM)))


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
    test.say(cluster, (1,), 'create', 'words', DIM, 'l2', 1, 1)
    test.wait('a leader', 60, lambda: ctl.shards(server, 'words')[0]['leader'] == '1')
    unreadable(cluster)
    if sys.platform == 'linux':
        test.wait('a timer', 20, lambda: timers(cluster.client[1])[:1] == [2])
    server.close()
    stopped(cluster)
    return 'wrong configurations named, lines that cannot be read answered, stopped with what was acknowledged'


if __name__ == '__main__':
    sys.exit(test.perform('server-misuse', run))
