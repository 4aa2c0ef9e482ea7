#!/usr/bin/env python3
"""server_alone.py - a server without peers goes on by itself.

Among others, heartbeats wake it all the time. Alone, with all work done by its ticks, it has only
its timer: rows are written, and then one read is asked for that has to wait until they are
applied, and nothing more is said to the server until it answers. It did not, once, whenever the
timer was due before the loop polled: the poll then had no end."""
import os
import sys
import time

import server as test

ROUNDS, ROWS = 3, 2000


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


def run(folder):
    cluster = test.Cluster(folder)
    rows = test.ctl.Rows(os.path.join(test.root, 'examples/demo/data/glove30k.base.npy'))
    cluster.start(1, '--format', nodes=(1,), lines='workers = 0')
    server = cluster.connect(1)
    test.wait('founding', 120, lambda: server.ask('create', 'words', rows.dim, 'cosine', 1, 1)[0] or
              server.ask('describe', 'words')[0])
    return '%d rows were there after %.1f s at worst' % (ROWS, rounds(server, rows))


if __name__ == '__main__':
    sys.exit(test.perform('server-alone', run))
