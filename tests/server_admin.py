#!/usr/bin/env python3
"""server_admin.py - what an operator does to a cluster, by way of vshardctl.

A collection is altered, and each altered number is seen to act; a node is removed, and joins again. Each node is made to lead
a shard, and a replica moves. A node in another region follows as a
learner, and leads when its region is made the primary one. An answer comes from the cache.

Then two of three servers are killed for good. vshardctl must refuse to recover while one that is called
lost answers, while one is not accounted for, and without --yes; after that the one that is left
has every row and takes writes, the lost ones are shown as such and removed, and one comes back with
an empty directory."""
import os
import shutil
import struct
import subprocess
import sys

import server as test

ctl = test.ctl
ROWS, DIM = 200, 8


def vector(key):
    return struct.pack('<%df' % DIM, *(float(key % 97 + i) for i in range(DIM)))


def written(server, keys):
    return server.ask('write', 'words', len(keys), 0, body=ctl.rows_body(keys, b''.join(map(vector, keys))))


def write(server, keys):
    test.must('a write', server, 'write', 'words', len(keys), 0, body=ctl.rows_body(keys, b''.join(map(vector, keys))))


def status(server):
    return ctl.words_of(test.must('status', server, 'status'))


def found(cluster, nodes, *more, lines=''):
    for n in nodes:
        cluster.start(n, '--format', nodes=nodes, lines=lines)
    server = cluster.connect(nodes[0])
    test.say(cluster, nodes, 'create', 'words', DIM, 'l2', 2, len(nodes), *more)
    test.wait('leaders', 120, lambda: all(s['leader'] != '0' for s in ctl.shards(server, 'words')))
    return server


def node_of(server, n):
    said = map(ctl.words_of, (word.split(',') for word in test.must('nodes', server, 'nodes')))
    return next(node for node in said if node['node'] == str(n))


def come_back(cluster, n):
    """With an empty directory."""
    shutil.rmtree(os.path.join(cluster.folder, str(n)))
    cluster.start(n, '--joins', nodes=(1,))
    test.must('joining', cluster.connect(n), 'join', 1)


def altered(cluster, server):
    """Three numbers of a collection of three replicas."""
    def said(code, wanted, *words):
        test.say(cluster, (1, 2, 3), 'alter', 'words', *words, status=code, wanted=wanted)

    write(server, range(ROWS))
    said(0, 'ok', 'ef_search=50', 'max_rows=50')
    test.say(cluster, (1,), 'describe', 'words', wanted='ef_search=50')
    test.wait('a limit', 120, lambda: 'above its limit' in ' '.join(written(server, [1])[1]))  # a leader reads the map a moment later
    said(0, 'ok', 'max_rows=none')
    test.wait('no limit', 120, lambda: written(server, range(ROWS))[0])
    said(0, 'ok', 'replicas=2')
    test.wait('fewer replicas', 120, lambda: all(s['members'].count('+') == 1 for s in ctl.shards(server, 'words')))
    three = node_of(server, 3)['incarnation']
    test.say(cluster, (1, 2, 3), 'remove-node', 3, int(three) + 1, status=1, wanted='older than what was asked for')
    test.say(cluster, (1, 2, 3), 'remove-node', 3, 'x', status=2, wanted="INCARNATION is a number, not 'x'")
    test.say(cluster, (1, 2, 3), 'remove-node', 3, three, wanted='ok')
    test.wait('a node less', 120, lambda: status(server)['nodes'] == '2')
    test.say(cluster, (1, 2, 3), 'remove-node', 9, status=1, wanted='not found')
    test.wait('shards that do without it', 120, lambda: test.settled(cluster, (1, 2)))
    cluster.kill(3)
    come_back(cluster, 3)
    test.wait('a node more', 120, lambda: status(server)['nodes'] == '3')  # who is asked hears of it a moment later
    test.say(cluster, (1, 2, 3), 'remove-node', 3, three, status=1, wanted='older than what was asked for')
    said(0, 'ok', 'replicas=3')
    test.wait('more replicas', 120, lambda: all(s['members'].count('+') == 2 for s in ctl.shards(server, 'words')))
    for code, wanted, words in (
            (2, 'usage', ()), (2, "not 'dim'", ('dim=9',)), (2, "EF_SEARCH is a number, not 'x'", ('ef_search=x',)),
            (1, 'ef_search 20000, limit 16384', ('ef_search=20000',)), (1, 'replicas 8, limit 7', ('replicas=8',)),
            (1, 'replicas 4, limit 3', ('replicas=4',)), (2, "not 'replicas:2'", ('replicas:2',))):
        said(code, wanted, *words)
    test.say(cluster, (1,), 'alter', 'none', 'ef_search=5', status=1, wanted="no collection 'none'")
    fine, words = server.ask('alter', 'words', 'dim=9')
    if fine or 'dim 9' not in ' '.join(words):
        raise RuntimeError('the server does not name what cannot be altered: %s' % ' '.join(words))


def placed(cluster, server):
    """Each node leads a shard, and a replica moves there and back."""
    def shard(n, at=server):
        return next(s for s in ctl.shards(at, 'words') if s['shard'] == str(n))

    def said(code, wanted, *words):
        test.say(cluster, (1, 2, 3), *words, status=code, wanted=wanted)

    for node in ('3', '2', '1'):
        said(0, 'ok', 'lead', 'words', 1, node)
        test.wait('a leader that was chosen', 120, lambda: shard(1)['leader'] == node)
    said(0, 'ok', 'alter', 'words', 'replicas=2')
    test.wait('fewer replicas', 120, lambda: all(s['members'].count('+') == 1 for s in ctl.shards(server, 'words')))
    here, other = shard(0)['members'].split('+')
    free = next(n for n in '123' if n not in (here, other))
    said(1, 'not found', 'lead', 'words', 0, free)
    said(1, 'not found', 'replace', 'words', 0, 9, free)
    said(1, 'exists already', 'replace', 'words', 0, here, other)
    said(1, 'shard 2, and there are 2', 'lead', 'words', 2, 1)
    said(2, "SHARD is a number, not 'x'", 'lead', 'words', 'x', 1)
    said(2, 'usage', 'replace', 'words', 0, 1)
    said(0, 'ok', 'replace', 'words', 0, other, free)
    at = cluster.connect(int(free))
    test.wait('a replica elsewhere', 120, lambda: sorted(shard(0)['members'].split('+')) == sorted((here, free)) and
              int(shard(0, at)['rows']) > 0)
    said(0, 'ok', 'alter', 'words', 'replicas=3')
    test.wait('more replicas', 120, lambda: all(s['members'].count('+') == 2 for s in ctl.shards(server, 'words')))


def recovered(cluster, server):
    def said(nodes, code, wanted, *words):
        test.say(cluster, nodes, *words, status=code, wanted=wanted)

    test.wait('all replicas', 120, lambda: test.settled(cluster))
    cluster.kill(3)
    said((1, 2), 0, 'the others are a quorum', 'recover', 'words', 3, '--yes', 'a test')
    cluster.kill(2)
    lost = ('words', 2, 3)
    said((1,), 1, 'node 1 is called lost, and answers', 'recover-map', 1, 2)
    said((1,), 1, '1 more nodes are members', 'recover-map', 2, '--yes', 'a test')
    said((1,), 1, 'node 3 has a replica', 'recover', 'words', 2, '--yes', 'a test')
    said((1,), 1, 'no shard has a replica at node 7', 'recover', 'words', 7)
    said((1,), 2, 'which nodes', 'recover-map', '--yes', 'a test')
    said((1,), 2, 'followed by one word', 'recover', *lost, '--yes', 'a', 'test')
    said((1,), 2, 'followed by one word', 'recover', *lost, '--yes')
    said((1,), 2, 'has 1025 bytes', 'recover', *lost, '--yes', 'a' * 1025)
    said((1,), 2, "NODE is a number, not 'x'", 'recover-map', 'x')
    for words in (('recover-map', 2, 3), ('recover', *lost)):
        said((1,), 2, 'nothing was done', *words)
    if status(server)['map_epoch'] != '0' or any(s['epoch'] != '0' for s in ctl.shards(server, 'words')):
        raise RuntimeError('something was done without --yes')
    for wanted, statement, words in (('statement: 1025 bytes, limit 1024', 1025, (0, 1, 1, 1, '2+3')), ("not 'x'", 1, (0, 1, 1, 1, '2+x')),
                                     ('older than', 1, (0, 1, 999999, 1, '2+3')), ('name 0, limit 1024', 0, (0, 1, 1, 1, '2+3'))):
        fine, answer = server.ask('recover', *words, body=b'a' * statement)
        if fine or wanted not in ' '.join(answer):
            raise RuntimeError("recover %s: '%s' is not said, but %s" % (words, wanted, ' '.join(answer)))
    said((1,), 0, 'the map: node 1 goes on; what was acknowledged at', 'recover-map', 2, 3, '--yes', '2 and 3 were killed')
    said((1,), 0, 'words, shard 1: node 1 goes on', 'recover', *lost, '--yes', '2 and 3 were killed')
    write(server, range(ROWS, ROWS + 50))
    test.check_rows(server, {key: vector(key) for key in range(ROWS + 50)})
    said((1,), 0, ' lost silent for', 'nodes')
    for node in (2, 3):
        said((1,), 0, 'ok', 'remove-node', node)
    test.wait('lost nodes gone', 120, lambda: status(server)['nodes'] == '1' and all(s['members'] == '1' for s in ctl.shards(server, 'words')))
    come_back(cluster, 2)
    back = cluster.connect(2)
    test.wait('refilling', 120, lambda: test.caught_up(back))


def moved(cluster, server):
    """Node 2, in region 1, learns, and then leads."""
    cluster.start(2, '--joins', nodes=(1,), lines='region = 1')
    second = cluster.connect(2)
    write(server, range(ROWS))
    test.say(cluster, (1, 2), 'primary', 1, status=1, wanted='not found')
    test.say(cluster, (1, 2), 'primary', 'x', status=2, wanted="REGION is a number, not 'x'")
    test.must('joining', second, 'join', 1)
    test.say(cluster, (2,), 'status', wanted='region=1 primary=0')
    test.wait('learning', 120, lambda: test.caught_up(second))
    test.wait('the region', 120, lambda: server.ask('primary', 1)[0])
    test.wait('leading', 120, lambda: all(s['leader'] == '2' for s in ctl.shards(second, 'words')))
    test.say(cluster, (1, 2), 'status', wanted='region=0 primary=1')
    test.wait('reading', 120, lambda: second.ask('fetch', 'words', ROWS - 1, 3)[0])


def cached(server):
    query = struct.pack('<%df' % DIM, *range(DIM))

    def answered():
        """From the cache, which has what was asked for last: it is there until a replica is heard to have applied more."""
        server.ask('search', 'words', 5, 0, 0, body=query)
        now = status(server)
        return int(now['cache_answers']) > 0 and int(now['cache_bytes']) > 0
    test.wait('a repeated search', 120, answered)


def configured(cluster):
    """A server ends, and names the line that is wrong."""
    for wanted, how, lines in (('and founders stand in 0', '--format', 'region = 1'), ('no number up to', '--format', 'region = -1'),
                               ('no number up to', '--format', 'cache_bytes = many'), ('up to 64', '--format', 'workers = 65'),
                               ('not an address', '--format', 'client = 127.0.0.1:72010'),
                               ('was formatted in 0', None, 'region = 3'), ('does not take', None, 'cachebytes = 1')):
        cluster.start(1, *([how] if how else []), nodes=(1,), lines=lines)
        code = cluster.process[1].wait(timeout=120)
        with open(os.path.join(cluster.folder, '1.log')) as log:
            said = log.readlines()[-1]
        if code != 1 or wanted not in said or lines.split(' ')[0] not in said:
            raise RuntimeError("%s: '%s' is not said, but %s" % (lines, wanted, said))
        if wanted == 'up to 64':  # the next is about a node that is there
            found(cluster, (1,)).close()
            cluster.kill(1)
    short = os.path.join(cluster.folder, 'short.conf')
    with open(short, 'w') as f:
        f.write('node = 1\ndir = %s\nlisten = 127.0.0.1:%d\n' % (os.path.join(cluster.folder, '1'), cluster.peer[1]))
    said = subprocess.run([os.path.join(test.build, 'examples/server/server'), short], stderr=subprocess.PIPE, timeout=60)
    if said.returncode != 1 or b'client are needed' not in said.stderr:
        raise RuntimeError('a server that no client could find runs: %s' % said)


def niceness(pid):
    """Of each thread, that of the loop first."""
    def of(thread):
        with open('/proc/%d/task/%s/stat' % (pid, thread)) as stat:
            return int(stat.read().rsplit(')', 1)[1].split()[16])
    return [of(thread) for thread in sorted(os.listdir('/proc/%d/task' % pid), key=int)]


def nice(cluster):
    """Workers make room for the loop also where the server is started as one that makes room itself."""
    for more in (0, 7):
        cluster.start(1, *([] if more else ['--format']), nodes=(1,), preexec_fn=lambda: os.nice(more))
        cluster.connect(1).close()
        loop = niceness(cluster.process[1].pid)[0]
        wanted = [loop] + 3 * [min(19, loop + 5)]
        test.wait('workers that are nicer', 20, lambda: niceness(cluster.process[1].pid) == wanted)
        cluster.kill(1)


def run(folder):
    three, two, one, other = (test.Cluster(os.path.join(folder, name)) for name in ('three', 'two', 'one', 'other'))
    nice(other)
    configured(one)
    one.stop()
    server = found(two, (1,), 'learners=1', lines='cache_bytes = 1000000')
    moved(two, server)
    cached(server)
    two.stop()
    server = found(three, (1, 2, 3))
    altered(three, server)
    placed(three, server)
    recovered(three, server)
    return 'a collection altered, its leaders chosen, a region moved, a cluster of three recovered from one'


if __name__ == '__main__':
    sys.exit(test.perform('server-admin', run))
