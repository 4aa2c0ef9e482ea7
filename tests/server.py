#!/usr/bin/env python3
"""server.py - three real processes of examples/server over TCP, and one of them killed.

Words of the demo are loaded through one server; while more are written one by one, the server
that leads most shards is killed with SIGKILL. Writes must go on at the others; then the
killed one comes back, and every acknowledged row is fetched, linearizable, from each. At
last a server loses its directory and joins again."""
import importlib.machinery
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

root = os.path.abspath(os.environ.get('srcdir', '.'))
build = os.environ.get('O', os.path.join(root, 'build'))
loader = importlib.machinery.SourceFileLoader('vshardctl', os.path.join(root, 'examples/server/vshardctl'))
spec = importlib.util.spec_from_loader('vshardctl', loader)
ctl = importlib.util.module_from_spec(spec)
loader.exec_module(ctl)

NODES = (1, 2, 3)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        self.peer = {n: free_port() for n in NODES}
        self.client = {n: free_port() for n in NODES}
        self.process = {}

    def start(self, n, *how):
        home = os.path.join(self.folder, str(n))
        os.makedirs(home, exist_ok=True)
        config = os.path.join(self.folder, '%d.conf' % n)
        with open(config, 'w') as f:
            f.write('node = %d\ncluster = test\ndir = %s\nworkers = 3\n' % (n, home))
            f.write('listen = 127.0.0.1:%d\nclient = 127.0.0.1:%d\n' % (self.peer[n], self.client[n]))
            for o in NODES:
                f.write('founder = %d\n' % o)
                if o != n:
                    f.write('peer = %d 127.0.0.1:%d\n' % (o, self.peer[o]))
        log = open(os.path.join(self.folder, '%d.log' % n), 'ab')
        self.process[n] = subprocess.Popen([os.path.join(build, 'examples/server/server'), config, *how],
                                           stderr=log)

    def kill(self, n):
        self.process[n].send_signal(signal.SIGKILL)
        self.process[n].wait()

    def connect(self, n, seconds=10):
        end = time.time() + seconds
        while True:
            try:
                return ctl.Server('127.0.0.1', self.client[n])
            except OSError:
                if time.time() > end:
                    raise
                time.sleep(0.05)

    def stop(self):
        for p in self.process.values():
            if p.poll() is None:
                p.kill()
                p.wait()


def must(what, answer):
    fine, words = answer
    if not fine:
        raise RuntimeError('%s: %s' % (what, ' '.join(words)))
    return words


def shards(server):
    return [dict(w.split('=') for w in word.split(',')) for word in must('shards', server.ask('shards', 'words'))]


def caught_up(server):
    """Whether it knows its shards, and has applied what it knows to be committed."""
    fine, words = server.ask('shards', 'words')
    return fine and all(s['here'] == '1' and int(s['rows']) > 0 and s['applied'] == s['committed']
                        for s in shards(server))


def wait(what, seconds, test):
    end = time.time() + seconds
    while not test():
        if time.time() > end:
            raise RuntimeError('%s: not within %d s' % (what, seconds))
        time.sleep(0.05)


def check_rows(server, wanted):
    """Every key shows its vector, as the freshest of reads sees it; 32 at a time."""
    keys, under_way = list(wanted), {}
    while keys or under_way:
        while keys and len(under_way) < 32:
            key = keys.pop()
            under_way[server.send('fetch', 'words', key, 3)] = key
        tag, fine, words = server.receive()
        key = under_way.pop(tag)
        if not fine or bytes.fromhex(words[1]) != wanted[key]:
            raise RuntimeError('key %d is lost: %s' % (key, ' '.join(words)[:60]))


def run(cluster):
    rows = ctl.Rows(os.path.join(root, 'examples/demo/data/glove30k.base.npy'))
    for n in NODES:
        cluster.start(n, '--format')
    one = cluster.connect(1)
    wait('founding', 20, lambda: one.ask('create', 'words', rows.dim, 'cosine', 4, 3)[0])
    wait('leaders', 20, lambda: all(s['leader'] != '0' for s in shards(one)))
    started = time.time()
    if ctl.load(one, 'words', rows, 0, 5000) != 5000:
        raise RuntimeError('not all rows were acknowledged')
    loaded = 5000 / (time.time() - started)
    wanted = {k: rows.read(k, 1) for k in range(5300)}

    # The busiest leader dies while rows are written at another server.
    led = [s['leader'] for s in shards(one)]
    victim = int(max(set(led), key=led.count))
    other = cluster.connect(victim % 3 + 1)
    worst = 0
    for key in range(5000, 5300):
        if key == 5050:
            cluster.kill(victim)
        begun = time.time()
        must('a write', other.ask('write', 'words', 1, 0, body=ctl.rows_body([key], wanted[key])))
        worst = max(worst, time.time() - begun)
        if key % 10 == 0:
            words = must('a search', other.ask('search', 'words', 1, 0, 0, body=wanted[key % 1000]))
            if not words[1].startswith('%d:' % (key % 1000)):
                raise RuntimeError('a search found %s' % words[1])
    cluster.start(victim)
    again = cluster.connect(victim)
    wait('catching up', 20, lambda: caught_up(again))
    check_rows(again, wanted)
    check_rows(other, {k: wanted[k] for k in range(4900, 5300)})

    # A directory is lost, and the node joins again under another incarnation.
    cluster.kill(victim)
    shutil.rmtree(os.path.join(cluster.folder, str(victim)))
    cluster.start(victim, '--joins')
    again = cluster.connect(victim)
    must('joining', again.ask('join', victim % 3 + 1))
    wait('refilling', 30, lambda: caught_up(again))
    third = (victim + 1) % 3 + 1
    cluster.kill(third)
    check_rows(again, {k: wanted[k] for k in range(0, 5300, 7)})
    print('pass server (%d rows/s loaded; a leader killed: the longest write took %.0f ms; '
          '%d rows checked)' % (loaded, worst * 1000, len(wanted)))


def main():
    folder = tempfile.mkdtemp(prefix='vshard-server.')
    cluster = Cluster(folder)
    try:
        run(cluster)
    except (RuntimeError, OSError, ConnectionError) as problem:
        print('FAIL server: %s' % problem)
        for n in NODES:
            path = os.path.join(folder, '%d.log' % n)
            if os.path.exists(path):
                print('---- node %d' % n)
                print(''.join(open(path, errors='replace').readlines()[-15:]))
        return 1
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
