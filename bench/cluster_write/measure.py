"""measure.py - rows through the replicated log: three processes of examples/server on loopback.

    python3 measure.py --server BIN --build BIN [--set NAME] [--rows N] [--shards S] [--rounds N]
                       [--seconds T] [--kills N] [PROBE...]

Probes, all unless said:

    ingest    all rows in batches of 1,000, 16 in flight: durable is when all are acknowledged,
              applied when every replica on every node has applied them. Beside it, in turns,
              three processes at once that build the same indexes from the same batches with
              as many threads, and do nothing else: what the machine has to give. On a machine
              with other work the seconds of processor of both say more than the clock
    lag       batches at half of the rate at which the first probe applied, for T seconds: from
              the acknowledgement of a batch until all three replicas have applied it
    found     one row at a time, at rest and then during `lag`: from the acknowledgement until
              a search at another server finds it
    restart   a node with all rows is killed and started: until it answers a search from
              its own replicas, and until it has applied what it had
    alone     likewise of a server without peers that has all rows in one shard, so that nobody
              else answers: until it listens, answers a search, acknowledges a write, and has
              applied what it had
    kill      the server that leads most shards is killed (-9) while the two others are searched, any
              replica will do, and written to; how long its shards took no writes, and what became of
              searches in the second after, beside those of two seconds before

Real files in TMPDIR, real fdatasync. A table to stdout, progress to stderr."""
import argparse
import math
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

root = os.path.abspath(os.environ.get('srcdir', '.'))
sys.path.insert(0, os.path.join(root, 'tests'))

import server as test  # noqa: E402

ctl = test.ctl

BATCH = 1000
BUILDERS = 2  # threads of a server that apply: one of its three workers is kept for syncs


def note(*words):
    print('   ', *words, file=sys.stderr, flush=True)


def at(values, q):
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)] if values else float('nan')


def processor(pid):
    """Seconds that a process has had."""
    with open('/proc/%d/stat' % pid) as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def batches(rows):
    """All rows as bodies of writes, made beforehand: the load is to cost little."""
    return [ctl.rows_body(range(first, min(first + BATCH, rows.count)), rows.read(first, BATCH))
            for first in range(0, rows.count, BATCH)]


class Load:
    """Keeps so many batches in flight at one server; `rate` rows a second, or 0 for all it takes."""

    def __init__(self, cluster, bodies, dim, flight=16, rate=0):
        self.server, self.bodies, self.flight, self.rate = cluster.connect(1), bodies, flight, rate
        self.row_bytes = 8 + 4 * dim
        self.sent, self.took, self.busy = {}, [], 0
        self.acknowledged = []  # (time, {group: index})
        self.rows = 0

    def send(self, body):
        count = len(body) // self.row_bytes
        tag = self.server.tag()
        self.sent[tag] = (time.time(), body)
        self.server.send('write', 'words', count, 0, body=body, tag=tag)

    def receive(self):
        tag, fine, words = self.server.receive()
        begun, body = self.sent.pop(tag)
        if not fine:
            if int(words[0]) != ctl.BUSY:
                raise ctl.Refused('a write', words)
            self.busy += 1
            time.sleep(0.01)
            self.send(body)
            return
        now = time.time()
        self.took.append(now - begun)
        self.acknowledged.append((now, dict(tuple(map(int, w.split(':'))) for w in words)))
        self.rows += len(body) // self.row_bytes

    def receive_until(self, when):
        while time.time() < when:
            if b'\n' in self.server.got or select.select([self.server.socket], [], [], max(0, when - time.time()))[0]:
                self.receive()

    def run(self, seconds=math.inf):
        begun, turn = time.time(), 0
        while turn < len(self.bodies) and time.time() - begun < seconds:
            if self.rate:
                self.receive_until(begun + turn * BATCH / self.rate)
            self.send(self.bodies[turn])
            turn += 1
            while len(self.sent) >= self.flight:
                self.receive()
        while self.sent:
            self.receive()
        return time.time() - begun


class Applied:
    """Looks every few ms how far each replica is: when each was seen to be where."""

    def __init__(self, cluster):
        self.servers = {n: cluster.connect(n) for n in test.NODES}
        self.seen = {}  # (node, group): [(time, applied)]
        self.ending = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.ending:
            for node, server in self.servers.items():
                for s in ctl.shards(server, 'words'):
                    self.seen.setdefault((node, int(s['group'])), []).append((time.time(), int(s['applied'])))
            time.sleep(0.004)

    def end(self):
        self.ending = True
        self.thread.join()

    def when(self, positions):
        """When the last of all replicas had applied that."""
        last = 0
        for (node, group), seen in self.seen.items():
            if group in positions:
                last = max(last, next((t for t, applied in seen if applied >= positions[group]), math.inf))
        return last


def has_applied(server, total):
    """Whether it has so many rows, and all of them in its indexes."""
    s = ctl.shards(server, 'words')
    return sum(int(x['rows']) for x in s) >= total and all(x['applied'] == x['committed'] for x in s)


def caught_up(cluster, total):
    servers = [cluster.connect(n) for n in test.NODES]
    test.wait('applying', 600, lambda: all(has_applied(s, total) for s in servers))


def gap_after(begun, times):
    """The longest time between these, from `begun` on."""
    times = [t for t in times if t > begun]
    if not times:
        raise RuntimeError('a shard took no more writes')
    return max(b - a for a, b in zip([begun] + times, times))


class Reader(threading.Thread):
    """Asks one server for rows in turn, one search after the other, until told to end. Each as
    (when, seconds, answer): whole, partial, or a refusal's words."""

    def __init__(self, cluster, node, rows):
        super().__init__()
        self.server, self.rows, self.searches, self.ending = cluster.connect(node), rows, [], False
        self.start()

    def run(self):
        turn = 0
        while not self.ending:
            turn += 1
            begun = time.time()
            fine, words = self.server.ask('search', 'words', 10, 0, 0, body=self.rows.read(turn * 7919 % self.rows.count, 1))
            answer = ' '.join(words) if not fine else 'whole' if len(set(words[0].split('/'))) == 1 else 'partial'
            self.searches.append((begun, time.time() - begun, answer))

    def between(self, first, last):
        return [(took, answer) for when, took, answer in self.searches if first <= when < last]


class Writer(threading.Thread):
    """Writes rows one after the other at one server, each until it is acknowledged: a list of (when, group)."""

    def __init__(self, cluster, node, rows, first):
        super().__init__()
        self.server, self.rows, self.key = cluster.connect(node), rows, first
        self.acknowledged, self.ending = [], False
        self.start()

    def run(self):
        for request in ctl.new_ids():
            if self.ending:
                return
            self.key += 1
            body = ctl.rows_body([self.key], self.rows.read(self.key % self.rows.count, 1))
            words = test.must('a write', self.server, 'write', 'words', 1, request, body=body)
            self.acknowledged.append((time.time(), int(words[0].split(':')[0])))


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        data = os.environ.get('VSHARD_DATA') or os.path.join(root, 'examples/demo/data')
        self.path = os.path.join(data, args.set + '.base.npy')
        self.rows = ctl.Rows(self.path)
        self.rows.count = min(self.rows.count, args.rows)
        self.bodies = batches(self.rows)
        self.applied_rate = 0
        test.build = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(args.server))))
        self.raw = os.path.join(folder, 'rows')
        with open(self.raw, 'wb') as f:
            for body in self.bodies:
                f.write(body[len(body) // (8 + 4 * self.rows.dim) * 8:])

    def found(self):
        folder = tempfile.mkdtemp(dir=self.folder)
        cluster = test.Cluster(folder)
        test.found(cluster, self.rows.dim, self.args.shards)
        return cluster

    def builds(self):
        """Rows a second that each of three processes adds while the others do so, too, as nice
        as workers of a server are; and the seconds of processor of all."""
        command = ['nice', '-n', '5', self.args.build, self.raw, str(self.rows.dim), str(self.args.shards),
                   str(BATCH), str(BUILDERS)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        took = [tuple(map(float, p.communicate()[0].split())) for p in running]
        return self.rows.count / max(t for t, _ in took), sum(cpu for _, cpu in took)

    def one_ingest(self):
        cluster = self.found()
        load = Load(cluster, self.bodies, self.rows.dim)
        begun = time.time()
        durable = self.rows.count / load.run()
        caught_up(cluster, self.rows.count)
        applied = self.rows.count / (time.time() - begun)
        return cluster, durable, applied, sum(processor(p.pid) for p in cluster.process.values()), load

    def ingest(self):
        results, took, busy = [], [], 0
        for turn in range(self.args.rounds):
            cluster, durable, applied, spent, load = self.one_ingest()
            cluster.stop()
            shutil.rmtree(cluster.folder)
            alone, spent_alone = self.builds()
            results.append((durable, applied, alone, applied / alone, spent, spent_alone, spent_alone / spent))
            took += load.took
            busy += load.busy
            note('durable %.0f/s, applied %.0f/s, alone %.0f/s (%.2f), processor %.0f and %.0f s (%.2f)' % results[-1],
                 'busy %d, load %.1f' % (load.busy, os.getloadavg()[0]))
        median = [statistics.median(column) for column in zip(*results)]
        self.applied_rate = median[1]
        print('ingest\tdurable_per_s\tlowest\tapplied_per_s\tthree_alone_per_s\tratio\tprocessor_s\talone_s\tratio'
              '\tbatch_p50_ms\tp99_ms\tbusy')
        print('\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\t%.0f\t%.0f\t%.2f\t%.0f\t%.0f\t%d' %
              (median[0], min(r[0] for r in results), *median[1:], at(took, 0.5) * 1e3, at(took, 0.99) * 1e3, busy))

    def find(self, cluster, seconds, first):
        """Times from an acknowledgement until a search finds the row."""
        writer, reader, took, key = cluster.connect(1), cluster.connect(2), [], first
        end = time.time() + seconds
        while time.time() < end:
            key += 1
            vector = self.rows.read(key % self.rows.count, 1)
            writer.must('a write', 'write', 'words', 1, 0, body=ctl.rows_body([key], vector))
            begun = time.time()
            while True:
                words = reader.must('a search', 'search', 'words', 10, 0, 0, body=vector)
                if any(w.startswith('%d:' % key) for w in words[1:]):
                    break
            took.append(time.time() - begun)
            time.sleep(0.01)
        return took

    def lag(self):
        rate = (self.applied_rate or self.args.rate) / 2
        cluster = self.found()
        Load(cluster, self.bodies[:20], self.rows.dim).run()
        caught_up(cluster, 20 * BATCH)
        quiet = self.find(cluster, 5, 1 << 40)
        applied, load = Applied(cluster), Load(cluster, self.bodies[20:], self.rows.dim, rate=rate)
        busy = []
        finding = threading.Thread(target=lambda: busy.extend(self.find(cluster, self.args.seconds, 1 << 41)))
        finding.start()
        load.run(self.args.seconds)
        finding.join()
        time.sleep(1)
        caught_up(cluster, 20 * BATCH + load.rows)
        applied.end()
        lags = [applied.when(positions) - when for when, positions in load.acknowledged]
        print('lag\trows_per_s\tbatches\tp50_ms\tp99_ms\tworst_ms')
        print('\t%.0f\t%d\t%.0f\t%.0f\t%.0f' % (rate, len(lags), *(at(lags, q) * 1e3 for q in (0.5, 0.99, 1))))
        print('found\trows\tp50_ms\tp99_ms\tworst_ms')
        for what, took in (('at rest', quiet), ('beside lag', busy)):
            print('%s\t%d\t%.1f\t%.1f\t%.1f' % (what, len(took), *(at(took, q) * 1e3 for q in (0.5, 0.99, 1))))
        cluster.stop()

    def restart(self):
        cluster = self.one_ingest()[0]
        answers, whole, vector = [], [], self.rows.read(0, 1)
        for turn in range(self.args.rounds):
            node = turn % 3 + 1
            before = sum(int(s['applied']) for s in ctl.shards(cluster.connect(node), 'words'))
            cluster.kill(node)
            begun = time.time()
            cluster.start(node)
            server = cluster.connect(node)
            while not server.ask('search', 'words', 10, 0, 0, body=vector)[0]:
                time.sleep(0.001)
            answers.append(time.time() - begun)
            test.wait('applying', 120, lambda: sum(int(s['applied']) for s in ctl.shards(server, 'words')) >= before)
            whole.append(time.time() - begun)
            note('restart: answers after %.2f s, whole after %.2f s' % (answers[-1], whole[-1]))
            time.sleep(1)
        cluster.stop()
        print('restart\trows\tanswers_median_s\tworst_s\twhole_median_s\tworst_s')
        print('\t%d\t%.2f\t%.2f\t%.2f\t%.2f' % (self.rows.count, statistics.median(answers), max(answers),
                                                statistics.median(whole), max(whole)))

    def kill(self):
        cluster = self.one_ingest()[0]
        writes, calm, storm, bad = [], [], [], []
        key = 1 << 40  # the same rows in each turn, or a node that comes back has ever more to apply
        for turn in range(self.args.kills):
            shards = ctl.shards(cluster.connect(1), 'words')
            leaders = [int(s['leader']) for s in shards]
            victim = max(test.NODES, key=leaders.count)
            lost = {int(s['group']) for s in shards if int(s['leader']) == victim}
            readers = [Reader(cluster, n, self.rows) for n in test.others(victim)]
            writers = [Writer(cluster, n, self.rows, key + (n << 20)) for n in test.others(victim)]
            time.sleep(2)
            begun = time.time()
            cluster.kill(victim)
            time.sleep(2)
            for thread in readers + writers:
                thread.ending = True
            for thread in readers + writers:
                thread.join()
            acknowledged = sorted(a for w in writers for a in w.acknowledged)
            writes.append(max(gap_after(begun, [when for when, g in acknowledged if g == group]) for group in lost))
            calm += [x for r in readers for x in r.between(begun - 2, begun)]
            storm += [x for r in readers for x in r.between(begun, begun + 1)]
            bad = sorted({answer for _, answer in calm + storm if answer != 'whole'})
            note('kill %d: %d shards took writes after %.0f ms; searches %s' %
                 (turn + 1, len(lost), writes[-1] * 1e3, bad or 'all whole'))
            cluster.start(victim)
            test.wait('settling', 120, lambda: test.settled(cluster))
        cluster.stop()
        print('kill\tkills\twrites_median_ms\tp99_ms\tworst_ms')
        print('\t%d\t%.0f\t%.0f\t%.0f' % (len(writes), *(at(writes, q) * 1e3 for q in (0.5, 0.99, 1))))
        print('searches\tn\tp50_ms\tp99_ms\tworst_ms\tpartial\trefused')
        for what, of in (('calm', calm), ('killed', storm)):
            took, answers = [t for t, _ in of], [a for _, a in of]
            print('%s\t%d\t%.2f\t%.2f\t%.2f\t%d\t%d' % (
                what, len(of), *(at(took, q) * 1e3 for q in (0.5, 0.99, 1)), answers.count('partial'),
                len(of) - answers.count('partial') - answers.count('whole')))

    def alone(self):
        cluster = test.Cluster(tempfile.mkdtemp(dir=self.folder))
        cluster.start(1, '--format', nodes=(1,))
        server, vector = cluster.connect(1), self.rows.read(0, 1)
        test.wait('founding', 20, lambda: server.ask('create', 'words', self.rows.dim, 'cosine', 1, 1)[0])
        test.wait('a leader', 20, lambda: ctl.shards(server, 'words')[0]['leader'] == '1')
        Load(cluster, self.bodies, self.rows.dim).run()
        test.wait('applying', 1200, lambda: has_applied(server, self.rows.count))
        time.sleep(5)  # a snapshot that is due
        print('alone\trows\tentries_behind\tlistens_s\tanswers_s\twrites_s\twhole_s')
        for turn in range(self.args.rounds):
            cluster.kill(1)
            begun = time.time()
            cluster.start(1, nodes=(1,))
            server = cluster.connect(1, 60)
            listens = time.time() - begun
            while not server.ask('search', 'words', 10, 0, 0, body=vector)[0]:
                time.sleep(0.001)
            answers = time.time() - begun
            shard = ctl.shards(server, 'words')[0]
            behind = int(shard['committed']) - int(shard['applied'])
            server.must('a write', 'write', 'words', 1, 0, body=ctl.rows_body([0], vector))
            writes = time.time() - begun
            test.wait('applying', 600, lambda: has_applied(server, self.rows.count))
            print('\t%d\t%d\t%.3f\t%.3f\t%.3f\t%.2f' % (
                self.rows.count, behind, listens, answers, writes, time.time() - begun), flush=True)
            time.sleep(1)
        cluster.stop()


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--server', required=True)
    p.add_argument('--build', required=True)
    p.add_argument('--set', default='glove30k')
    p.add_argument('--rows', type=int, default=1 << 30)
    p.add_argument('--shards', type=int, default=3)
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--kills', type=int, default=20)
    p.add_argument('--seconds', type=float, default=20)
    p.add_argument('--rate', type=float, default=10000, help='applied rows a second, where ingest is not measured')
    p.add_argument('probes', nargs='*', default=['ingest', 'lag', 'restart', 'alone', 'kill'])
    args = p.parse_args()
    folder = tempfile.mkdtemp(prefix='vshard-write.')
    bench = Bench(args, folder)
    try:
        for probe in args.probes:
            {'ingest': bench.ingest, 'lag': bench.lag, 'restart': bench.restart,
             'alone': bench.alone, 'kill': bench.kill}[probe]()
    finally:
        for cluster in test.Cluster.all:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
    main()
