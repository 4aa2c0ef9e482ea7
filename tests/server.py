#!/usr/bin/env python3
"""server.py - three real processes of examples/server over TCP, and some of them killed.

    server.py            words of the demo: some seconds
    server.py --whole    the main job on the whole of glove100, in $VSHARD_DATA: some minutes

The main job: vshardctl loads a set by way of the server that leads most shards, which is
killed with SIGKILL in the midst of it and started again. vshardctl must finish at another;
then every key is fetched, linearizable, from the one that was killed, and must show its
vector.

Without --whole, more follows. Rows are written one by one and the leader is killed again:
writes must go on at the others. A server loses its directory and joins again. A backup is made,
and restored in another cluster, and what is no whole backup is not. vshardctl is used as one
does who reads its help in haste."""
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from ports import free_ports

root = os.path.abspath(os.environ.get('srcdir', '.'))
build = os.environ.get('O', os.path.join(root, 'build'))
loader = importlib.machinery.SourceFileLoader('vshardctl', os.path.join(root, 'examples/server/vshardctl'))
spec = importlib.util.spec_from_loader('vshardctl', loader)
ctl = importlib.util.module_from_spec(spec)
loader.exec_module(ctl)

NODES = (1, 2, 3)


class Cluster:
    all = []

    def __init__(self, folder):
        Cluster.all.append(self)
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        self.peer = {n: free_ports() for n in NODES}
        self.client = {n: free_ports() for n in NODES}
        self.process = {}

    def start(self, n, *how, nodes=NODES, lines='', **process):
        """`nodes` are the founders, `lines` more of the configuration, which count last."""
        home = os.path.join(self.folder, str(n))
        os.makedirs(home, exist_ok=True)
        config = os.path.join(self.folder, '%d.conf' % n)
        with open(config, 'w') as f:
            f.write('node = %d\ncluster = test\ndir = %s\nworkers = 3\n' % (n, home))
            f.write('listen = 127.0.0.1:%d\nclient = 127.0.0.1:%d\n' % (self.peer[n], self.client[n]))
            for o in NODES:
                if o in nodes:
                    f.write('founder = %d\n' % o)
                if o != n:
                    f.write('peer = %d 127.0.0.1:%d\n' % (o, self.peer[o]))
            f.write(lines + '\n')
        log = open(os.path.join(self.folder, '%d.log' % n), 'ab')
        self.process[n] = subprocess.Popen([os.path.join(build, 'examples/server/server'), config, *how],
                                           stderr=log, **process)

    def kill(self, n):
        self.process[n].send_signal(signal.SIGKILL)
        self.process[n].wait()

    def connect(self, n, seconds=120):
        end = time.time() + seconds
        while True:
            try:
                return ctl.Server('127.0.0.1', self.client[n])
            except OSError:
                if self.process[n].poll() is not None:
                    raise RuntimeError('node %d has ended with %d' % (n, self.process[n].returncode))
                if time.time() > end:
                    raise
                time.sleep(0.05)

    def tell(self):
        """The ends of its logs."""
        for n in self.process:
            print('---- node %d in %s' % (n, os.path.basename(self.folder)))
            with open(os.path.join(self.folder, '%d.log' % n), errors='replace') as log:
                print(''.join(log.readlines()[-15:]))

    def stop(self):
        for p in self.process.values():
            if p.poll() is None:
                p.kill()
                p.wait()


def perform(name, run):
    """A test, in a folder of its own: `run` returns what is to be said of it. Returns an exit code."""
    # A shell that starts this behind itself has it, and what it starts, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix='vshard-%s.' % name)
    try:
        said = run(folder)
        if said is not None:
            print('pass %s (%s)' % (name, said))
        return 0
    except Exception as problem:
        print('FAIL %s: %s: %s' % (name, type(problem).__name__, problem))
        if not isinstance(problem, (RuntimeError, OSError)):
            traceback.print_exc(file=sys.stdout)
        for c in Cluster.all:
            c.tell()
        return 1
    finally:
        for c in Cluster.all:
            c.stop()
        shutil.rmtree(folder, ignore_errors=True)


# Statuses after which a client asks again: a leader has changed, or who was asked is behind.
PASSING = (*ctl.AGAIN, ctl.STALE)
# What vshardctl says of them, of answers that are not whole, and of servers that answer late.
UNKNOWN = ('the outcome is unknown', 'the deadline passed')
PARTIAL = ('shards have answered', 'cannot be read')
PASSING_WORDS = (*UNKNOWN, *PARTIAL, 'busy; try again later', 'another replica leads', 'older than what was', 'no answer',
                 'none of the servers at')


def must(what, server, word, *words, body=None, seconds=120):
    """The words of the answer, which is yes; asked for again as a client would."""
    end = time.time() + seconds
    while True:
        fine, answer = server.ask(word, *words, body=body)
        if fine:
            return answer
        if int(answer[0]) not in PASSING or time.time() > end:
            raise RuntimeError('%s: %s' % (what, ' '.join(answer)))
        time.sleep(0.02)


def caught_up(server):
    """Whether it knows its shards, and has applied what it knows to be committed."""
    fine, _ = server.ask('describe', 'words')
    return fine and all(s['here'] == '1' and int(s['rows']) > 0 and s['applied'] == s['committed']
                        for s in ctl.shards(server, 'words'))


def settled(cluster, nodes=NODES):
    """Whether all replicas of each shard are at these nodes, and have the same log, committed to its end. Then no change
    of members is under way, and each of them counts."""
    looks = []
    for n in nodes:
        server = cluster.connect(n)
        fine, words = server.ask('shards', 'words')
        server.close()
        there = [ctl.words_of(word.split(',')) for word in words] if fine else []
        if not there or any(s['here'] != '1' or not s['last'] == s['committed'] == s['applied'] for s in there):
            return False
        looks.append([(s['last'], s['last_term'], s['leader'], s['members']) for s in there])
    return all(look == looks[0] for look in looks) and all(
        s[2] in s[3].split('+') and sorted(s[3].split('+')) == sorted(map(str, nodes)) for s in looks[0])


def wait(what, seconds, test):
    end = time.time() + seconds
    while not test():
        if time.time() > end:
            raise RuntimeError('%s: not within %d s' % (what, seconds))
        time.sleep(0.02)


def check_rows(server, wanted):
    """Every key shows its vector, as the freshest of reads sees it; 32 at a time. One that no
    replica can answer in time, since all are behind, is asked for again."""
    keys, under_way, until = list(wanted), {}, time.time() + 300
    while keys or under_way:
        while keys and len(under_way) < 32:
            key = keys.pop()
            under_way[server.send('fetch', 'words', key, 3)] = key
        tag, fine, words = server.receive()
        key = under_way.pop(tag)
        if not fine and int(words[0]) in PASSING and time.time() < until:
            keys.append(key)
            continue
        if not fine or bytes.fromhex(words[1]) != wanted[key]:
            raise RuntimeError('key %d is lost: %s' % (key, ' '.join(words)[:60]))


def vshardctl(cluster, nodes, *words, **how):
    at = ','.join('127.0.0.1:%d' % cluster.client[n] for n in nodes)
    return subprocess.Popen([sys.executable, '-B', os.path.join(root, 'examples/server/vshardctl'), '--at', at,
                             *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


def ask_again(what, attempt, status, wanted):
    """What `attempt` says in the end, as (status, words). Where answers are late, as on a busy machine, or a leader has just
    changed, it is asked again; then what should be done may have been done already."""
    end, done = time.time() + 180, ()
    while True:
        got, said = attempt()
        if got == status and wanted in said and not (got == 0 and any(w in said for w in PARTIAL)):
            return said
        if status == 0 and any(w in said for w in done):
            return said
        if time.time() > end or not any(w in said for w in PASSING_WORDS):
            raise RuntimeError("%s: status %d, not %d with '%s': %s" % (what, got, status, wanted, said))
        if any(w in said for w in UNKNOWN):
            done = ('it exists already', 'not found')
        time.sleep(0.1)


def say(cluster, nodes, *words, status=0, wanted=''):
    """What vshardctl says, in this process, which is sooner than in one of its own."""
    at = ','.join('127.0.0.1:%d' % cluster.client[n] for n in nodes)

    def attempt():
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            got = ctl.main(['--at', at, *map(str, words)])
        return got, said.getvalue()
    return ask_again(words, attempt, status, wanted)


def call(cluster, nodes, *words, status=0, wanted='', **how):
    """What it says in a process of its own."""
    def attempt():
        process = vshardctl(cluster, nodes, *words, **how)
        out, err = process.communicate(timeout=600)
        return process.returncode, out + err
    return ask_again(words, attempt, status, wanted)


def must_say(what, process, status, wanted):
    """One that was started before ends so, and says that somewhere."""
    out, err = process.communicate(timeout=600)
    if process.returncode != status or wanted not in (out + err):
        raise RuntimeError("%s: status %d, not %d with '%s': %s" % (what, process.returncode, status, wanted, out + err))


def found(cluster, dim, count=4):
    """Three servers, a collection, and leaders for it."""
    for n in NODES:
        cluster.start(n, '--format')
    one = cluster.connect(1)
    wait('founding', 120, lambda: one.ask('create', 'words', dim, 'cosine', count, 3)[0] or one.ask('describe', 'words')[0])
    wait('leaders', 120, lambda: all(s['leader'] != '0' for s in ctl.shards(one, 'words')))
    return one


def others(victim):
    return [n for n in NODES if n != victim]


def load_and_kill(cluster, path, rows, victim):
    """The load, under way, and when it began; the server that it began with is dead. Where this process was held up for so long
    that nothing was left to be written, it begins anew."""
    other = cluster.connect(others(victim)[0])
    for _ in range(10):
        begun, before = time.time(), sum(int(s['committed']) for s in ctl.shards(other, 'words'))
        loading = vshardctl(cluster, [victim] + others(victim), 'load', 'words', path)
        wait('rows', 300, lambda: loading.poll() is not None or 0.2 * 4 * rows.count / 1000 <
             sum(int(s['committed']) for s in ctl.shards(other, 'words')) - before)
        if loading.poll() is None:
            cluster.kill(victim)
            return loading, begun
        must_say('loading', loading, 0, '%d of %d rows' % (rows.count, rows.count))
    raise RuntimeError('nothing was being written any more when the leader was to be killed')


def main_job(cluster, path):
    """Returns how many rows were loaded, how many a second, and the node that was killed."""
    rows = ctl.Rows(path)
    victim = ctl.leader_of(found(cluster, rows.dim), 'words')
    loading, begun = load_and_kill(cluster, path, rows, victim)
    time.sleep(1)
    cluster.start(victim)
    must_say('loading', loading, 0, '%d of %d rows' % (rows.count, rows.count))
    rate = rows.count / (time.time() - begun)
    again = cluster.connect(victim)
    wait('catching up', 900, lambda: caught_up(again))
    for first in range(0, rows.count, 20000):
        part = rows.read(first, 20000)
        check_rows(again, {first + i // (4 * rows.dim): part[i:i + 4 * rows.dim]
                           for i in range(0, len(part), 4 * rows.dim)})
    return rows, rate, victim


def nearest(server, query):
    """How far it is, when all shards have answered: where one is not heard in time the others answer without it."""
    for _ in range(10):
        answered, *hits = must('a search', server, 'search', 'words', 1, 0, 0, body=query)
        part, whole = answered.split('/')
        if part == whole:
            return float(hits[0].split(':')[1])
    raise RuntimeError('a search: only %s shards have answered' % answered)


def one_by_one(cluster, rows):
    """The busiest leader dies while rows are written at another server."""
    wait('all replicas', 600, lambda: settled(cluster))
    victim = ctl.leader_of(cluster.connect(1), 'words')
    other = cluster.connect(others(victim)[0])
    wanted = {rows.count + i: rows.read(i, 1) for i in range(300)}
    worst = 0
    for key, vector in wanted.items():
        if key == rows.count + 50:
            cluster.kill(victim)
        begun = time.time()
        must('a write', other, 'write', 'words', 1, 0, body=ctl.rows_body([key], vector))
        worst = max(worst, time.time() - begun)
        if key % 10 == 0:
            far = nearest(other, rows.read(key % 1000, 1))
            if far > 1e-6:
                raise RuntimeError('row %d is found at %g' % (key % 1000, far))
    cluster.start(victim)
    again = cluster.connect(victim)
    wait('catching up', 600, lambda: caught_up(again))
    check_rows(again, wanted)
    check_rows(other, wanted)
    return victim, wanted, worst


def lost_directory(cluster, victim, wanted):
    """It joins again, under another incarnation, and has what it had when another dies."""
    cluster.kill(victim)
    shutil.rmtree(os.path.join(cluster.folder, str(victim)))
    cluster.start(victim, '--joins')
    again = cluster.connect(victim)
    must('joining', again, 'join', others(victim)[0])
    wait('refilling', 600, lambda: caught_up(again))
    wait('members that count', 600, lambda: settled(cluster))
    third = others(victim)[1]
    cluster.kill(third)
    check_rows(again, wanted)
    cluster.start(third)
    back = cluster.connect(third)
    wait('catching up', 600, lambda: caught_up(back))


def kill_leader(cluster):
    """By vshardctl, which says who it was; returns that. Where another has come to lead most shards meanwhile, once more."""
    for _ in range(10):
        victim = ctl.leader_of(cluster.connect(1), 'words')
        killed = int(call(cluster, NODES, 'kill', 'leader', 'words', wanted='killed node').split('killed node')[1])
        cluster.process[killed].wait(timeout=60)
        if killed == victim:
            return killed
        cluster.start(killed)
        back = cluster.connect(killed)
        wait('catching up', 600, lambda: caught_up(back))
    raise RuntimeError('kill leader ends node %d, and node %d leads' % (killed, victim))


def in_haste(cluster, path):
    """What vshardctl says to those who ask for what there is not; (status, words, arguments)."""
    broken = os.path.join(cluster.folder, 'broken.npy')
    with open(path, 'rb') as f, open(broken, 'wb') as to:
        to.write(f.read(5000))
    cases = [(2, 'which command', ()), (2, "no command 'laod'", ('laod', 'words')),
             (2, 'usage', ('load', 'words')), (2, "DIM is a number, not 'x'", ('create', 'a', 'x', 'l2', 1, 1)),
             (2, "not 'l3'", ('create', 'a', 100, 'l3', 1, 1)), (1, 'exists', ('create', 'words', 100, 'l2', 1, 1)),
             (1, "no collection 'none'", ('load', 'none', path)), (1, 'shorter than', ('load', 'words', broken)),
             (1, 'No such file', ('load', 'words', 'none.npy')), (1, 'not an .npy', ('load', 'words', __file__)),
             (1, 'row 999999 is not one', ('search', 'words', path, 999999)),
             (1, 'not found', ('fetch', 'words', 1 << 63)), (1, "no collection 'none'", ('fetch', 'none', 1)),
             (2, "KEY is a number, not '-1'", ('fetch', 'words', -1)), (1, 'not found', ('drop', 'none')),
             (1, 'is node 9', ('kill', 9)), (2, 'usage', ('kill', 'leader')), (0, '0 0', ('search', 'words', path, 0, 1)),
             (0, 'ok', ('remove', 'words', 1 << 62, 77)), (0, 'node=2', ('status',))]
    for status, words, arguments in cases:
        call(cluster, NODES, *arguments, status=status, wanted=words)
    call(cluster, [], 'status', status=2, wanted='HOST:PORT')
    cluster.client[0] = free_ports()
    call(cluster, [0], 'fetch', 'words', 1, status=1, wanted='no server answers')
    call(cluster, [0, 1], 'status', wanted='127.0.0.1:%d no answer' % cluster.client[0])
    watching = vshardctl(cluster, NODES, 'watch', 'words')
    at = ':%d' % cluster.client[kill_leader(cluster)]
    for line in watching.stdout:
        if line.startswith('no answer: ') and at in line:
            break
    watching.send_signal(signal.SIGINT)
    must_say('watch', watching, 130, '')
    return len(cases) + 5


def backup(cluster, other, rows, wanted):
    """To a directory, and from it into another cluster."""
    folder = os.path.join(cluster.folder, 'backup')

    def must_fail(why, nodes, *words, **how):
        call(cluster, nodes, *words, status=1, wanted=why, **how)

    call(cluster, NODES, 'backup', folder, 'words', wanted='words: %d rows' % (rows.count + 300))
    must_fail('a backup already', NODES, 'backup', folder, 'words')
    must_fail('exists already', NODES, 'restore', folder)
    must_fail("no collection 'none'", NODES, 'restore', folder, 'none')
    part = folder + '.part'
    must_fail("no collection 'none'", NODES, 'backup', part, 'words', 'none')
    must_fail('no whole backup', NODES, 'restore', part)
    if [f for f in os.listdir(part) if f.endswith('.tmp')]:
        raise RuntimeError('a backup that failed leaves a file half written')
    must_fail('File too large', NODES, 'backup', folder + '.small', 'words',
              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)))
    must_fail('no whole backup', NODES, 'restore', folder + '.small')
    shutil.copytree(folder, folder + '.bad')
    with open(os.path.join(folder + '.bad', 'words.1.rows'), 'r+b') as file:
        file.seek(5000)
        file.write(b'?')
    must_fail('damaged', NODES, 'restore', folder + '.bad')
    cluster.process[1].send_signal(signal.SIGSTOP)
    stopped = vshardctl(cluster, [1], 'backup', folder + '.stopped', 'words')
    wait('a directory', 120, lambda: os.path.exists(folder + '.stopped'))
    stopped.send_signal(signal.SIGINT)
    must_say('a backup is stopped', stopped, 130, 'not whole')
    cluster.process[1].send_signal(signal.SIGCONT)

    for n in NODES:
        other.start(n, '--format')
        other.connect(n).close()
    call(other, NODES, 'restore', folder, wanted='%d of %d rows' % ((rows.count + 300,) * 2))
    one = other.connect(1)
    check_rows(one, wanted)
    wait('counting', 600, lambda: sum(int(s['rows']) for s in ctl.shards(one, 'words')) == rows.count + 300)
    other.stop()


class Scripted:
    """A server that gives one answer after the other: words, or the status of a refusal."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.socket = self

    def settimeout(self, seconds):
        pass

    def close(self):
        pass

    def one(self):
        return self

    def must(self, what, *words, body=None):
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            raise ctl.Refused(what, ['%d' % answer])
        return answer


def asks_again():
    """What vshardctl does not take for an answer."""
    busy, unknown, exists, there = -11, -14, -10, ['metric=l2', 'dim=8', 'shards=2', 'replicas=1']
    other = there[:3] + ['replicas=3']
    for answers, fine in (((busy, busy, []), True), ((unknown, []), True), ((unknown, exists, there), True),
                          ((unknown, exists, other), False), ((exists,), False), ((busy, exists), False)):
        server = Scripted(*answers)
        try:
            ctl.create(server, 'scripted', 8, 'l2', 2, 1)
            created = True
        except ctl.Refused:
            created = False
        if created != fine or server.answers:
            raise RuntimeError('create, answered %s: %s' % (answers, created))
    have = [Scripted(-13, -9), Scripted(-12), Scripted(['1', '2', '3'])]
    export = sys.modules['vshard_backup'].export
    if export(have, 'scripted', 0)[0] is not have[2]:
        raise RuntimeError('an export is not asked for where it can be had')
    try:
        export(have, 'scripted', 0)
        raise RuntimeError('an export of what is not there')
    except ctl.Refused:
        pass


def knows_late():
    """A server that has not heard of a collection yet is asked again, or is not waited for."""
    client, backup = sys.modules['vshard_client'], sys.modules['vshard_backup']
    here = ['shard=0,leader=1,here=1,members=1,rows=5,committed=7,applied=7']
    connect, not_found = client.Server, -9

    def scripted(*said):
        servers = [Scripted(['node=%d' % (n % 2 + 1)], there) for n, there in enumerate(said)]
        client.Server = lambda *address, timeout: servers.pop(0)
        return ctl.Servers([('one', 1), ('two', 2)])
    try:
        lines = ctl.overview(scripted(here, not_found), 'words')
        if len(lines) != 3 or lines[2] != 'not known yet: two:2':
            raise RuntimeError('watch, where one does not know it yet: %s' % lines)
        servers = scripted(not_found, not_found, not_found, here)
        if [len(at) for at in backup.replicas(servers, 'words', 1).values()] != [1]:
            raise RuntimeError('a backup finds no replica that is known a moment later')
        for what, why in ((lambda: ctl.overview(scripted(not_found, not_found), 'words'), 'no collection'),
                          (lambda: backup.replicas(scripted(here, here), 'words', 2), 'has shard 1'),
                          (lambda: sys.modules['vshard_recovery'].survivors(scripted(here, not_found), [3], 'words'), 'knows no')):
            try:
                what()
                raise AssertionError(why)
            except RuntimeError as problem:
                if why not in str(problem):
                    raise
    finally:
        client.Server = connect


def run_small(cluster):
    asks_again()
    knows_late()
    path = os.path.join(root, 'examples/demo/data/glove30k.base.npy')
    rows, rate, victim = main_job(cluster, path)
    victim, wanted, worst = one_by_one(cluster, rows)
    wanted.update({k: rows.read(k, 1) for k in range(0, rows.count, 7)})
    lost_directory(cluster, victim, wanted)
    backup(cluster, Cluster(os.path.join(cluster.folder, 'another')), rows, wanted)
    said = in_haste(cluster, path)
    return ('%d rows/s loaded, a leader killed, %d rows checked; killed again: the longest write took %.0f ms; a backup '
            'restored; vshardctl: %d cases' % (rate, rows.count, worst * 1000, said))


def run_whole(cluster):
    path = os.path.join(os.environ.get('VSHARD_DATA') or os.path.join(root, '../shared/data'), 'glove100.base.npy')
    if not os.path.exists(path):
        print('skip server-whole: there is no %s' % path)
        return None
    rows, rate, victim = main_job(cluster, path)
    return '%d rows/s loaded, node %d killed in the midst of it, %d rows checked' % (rate, victim, rows.count)


def main():
    if sys.argv[1:] == ['--whole']:
        return perform('server-whole', lambda folder: run_whole(Cluster(folder)))
    return perform('server', lambda folder: run_small(Cluster(folder)))


if __name__ == '__main__':
    sys.exit(main())
