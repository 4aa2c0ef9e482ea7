#!/usr/bin/env python3
"""server_alone.py - a server without peers goes on by itself.

Among others, heartbeats wake it all the time. Alone, with all work done by its ticks, it has only
its timer: rows are written, and then one read is asked for that has to wait until they are
applied, and nothing more is said to the server until it answers. It did not, once, whenever the
timer was due before the loop polled: the poll then had no end.

Then a client asks for much and takes nothing: the server must not keep all of it ready, and must
have all of it when the client does. One that closes its half of the connection behind what it asks
for must be answered. Last, the directory is taken away under the node, which stops when its log
needs another file; then the process must end, too."""
import os
import shutil
import socket
import sys
import time

import server as test

ROUNDS, ROWS, MANY, READS, HALF, MOST = 3, 2000, 9000, 400, 40, 64 << 20


def rounds(server, rows):
    worst = 0
    for turn in range(ROUNDS):
        keys = range(turn * ROWS, (turn + 1) * ROWS)
        body = test.ctl.rows_body(keys, rows.read(keys[0], ROWS))
        test.must('a write', server, 'write', 'words', ROWS, 0, body=body)
        begun = time.time()
        while not server.ask('fetch', 'words', keys[-1], 3)[0]:
            if time.time() - begun > 300:
                raise RuntimeError('what was written is not there after five minutes')
        worst = max(worst, time.time() - begun)
    return worst


def memory(cluster):
    with open('/proc/%d/statm' % cluster.process[1].pid) as statm:
        return int(statm.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def greedy(cluster, server):
    """Asks for some hundred MB, and takes them later."""
    file_bytes, before = int(test.must('an export', server, 'export', 'words', 0)[0]), memory(cluster)
    for _ in range(READS):
        server.send('read', 0)
    until = time.time() + 3
    while time.time() < until:
        if memory(cluster) - before > MOST:
            raise RuntimeError('%d bytes are kept for who takes nothing' % (memory(cluster) - before))
        time.sleep(0.05)
    for _ in range(READS):
        _, fine, words = server.receive()
        count = int(words[0]) if fine else 0
        if count != min(file_bytes, 1 << 20) or len(server.take(count)) != count:
            raise RuntimeError('a piece of %d bytes' % count)


def half_closed(cluster, rows):
    """Who says that it asks for no more is answered first, also where its answers have to wait."""
    server = cluster.connect(1)
    piece = min(int(test.must('an export', server, 'export', 'words', 0)[0]), 1 << 20)
    asked = [server.send('write', 'words', 1, 0, body=test.ctl.rows_body([key], rows.read(key, 1))) for key in range(HALF)]
    asked += [server.send('read', 0) for _ in range(HALF)]
    asked += [server.send('fetch', 'words', key, 3) for key in range(HALF)]
    server.socket.shutdown(socket.SHUT_WR)
    answered = []
    try:
        while True:
            tag, fine, words = server.receive()
            answered.append(tag)
            if fine and words == [str(piece)]:
                server.take(piece)
    except ConnectionError:
        pass
    if sorted(answered) != sorted(asked):
        raise RuntimeError('%d of %d requests are answered to who has closed its half' % (len(answered), len(asked)))


def homeless(cluster, server, rows):
    test.must('create', server, 'create', 'flat', rows.dim, 'cosine', 1, 1, 'family=1')
    test.wait('a leader', 20, lambda: server.ask('write', 'flat', 1, 0, body=test.ctl.rows_body([0], rows.read(0, 1)))[0])
    shutil.rmtree(os.path.join(cluster.folder, '1'))
    body, fine = test.ctl.rows_body(range(MANY), rows.read(0, MANY)), True
    try:
        while fine:
            time.sleep(0.3)  # nothing else is due when it comes
            fine, _ = server.ask('write', 'flat', MANY, 0, body=body)
    except OSError:
        pass  # it has ended meanwhile
    if cluster.process[1].wait(timeout=20) != 1:
        raise RuntimeError('the server ends as if nothing were wrong')


def run(folder):
    cluster = test.Cluster(folder)
    rows = test.ctl.Rows(os.path.join(test.root, 'examples/demo/data/glove30k.base.npy'))
    cluster.start(1, '--format', nodes=(1,), lines='workers = 0')
    server = cluster.connect(1)
    test.wait('founding', 120, lambda: server.ask('create', 'words', rows.dim, 'cosine', 1, 1)[0] or
              server.ask('describe', 'words')[0])
    worst = rounds(server, rows)
    greedy(cluster, server)
    half_closed(cluster, rows)
    homeless(cluster, server, rows)
    return '%d rows were there after %.1f s at worst; greed, half-closed connections and loss are borne' % (ROWS, worst)


if __name__ == '__main__':
    sys.exit(test.perform('server-alone', run))
