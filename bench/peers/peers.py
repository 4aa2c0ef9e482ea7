"""peers.py - this library beside its peers: recall, speed, build and memory, in one run.

    make bench-peers                                   sets and peers that are usual
    make bench-peers SETS=glove100 PEERS=vshard,hnswlib ARGS='--rows 20000 --quick'
    build/bench/venv/bin/python bench/peers/peers.py --help

Only ratios within one run count: machines differ, and one machine differs from hour to hour.
So that they mean something, every peer gets the same:

  * Each index is built once for each setting, with two threads, and stays in memory.
  * Then every search point is measured in passes, round-robin over all indexes, so that a busy
    minute is shared by all and favours none; of a point's passes the fastest counts, since what
    disturbs can only slow down. How far the slowest was off is in the file ("spread").
  * One core, one thread. All queries in one call ("batch"); with --single also one call at a
    time, where Python's own cost of a call, about a microsecond, is in everybody's figure.
  * Every peer gets the same float32 rows, of length 1 where the metric is cosine; where rows
    are bytes, a peer that takes bytes gets bytes.
  * Answers are judged by exact distance against the exact nearest, see measure.py. Recall is
    of a point's first pass, whose answers are those that were timed.
  * Bytes per vector are of the peer's saved index, full-precision rows that it needs included;
    of this library, what it holds through its allocator. RSS is what the process grew by.

A point is marked when it may not be fair: "T" when other threads than one did more than 5 % of
the work or the process used more processor than there was time, "D" when even the best pass got
less than 90 % of the core (the machine was busy: --clock cpu divides by processor time instead).
A search setting is not turned further once it finds 99.7 %, and a pass that takes longer than
--slow seconds is not repeated.

Left out, since in a first comparison on words they were not the ones to beat: turbovec, whose
4 bits a number without full rows to rank by did not reach 0.90, and faiss's IVF-RaBitQ
fast-scan, at a quarter of IVF-PQ fast-scan's speed.

A peer that does not install, import or answer a tiny question here is left out with a note; so
is one that dies. Ctrl-C writes what there is.
"""
import argparse
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import numpy as np  # noqa: E402

import adapters  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import sets  # noqa: E402
import worker  # noqa: E402

ENOUGH = 0.997       # recall at which a setting is not turned further
QUICK_KNOBS = 6      # of a quick grid


class Gone(Exception):
    """A peer failed; the message says how."""


class Remote:
    """A peer's process."""

    def __init__(self, peer, run):
        context = multiprocessing.get_context("spawn")
        self.peer = peer
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker.main, daemon=True, args=(
            theirs, run.log, peer, run.tmp, run.threads, run.build_cores, run.search_core))
        self.process.start()
        theirs.close()
        self.answer()

    def answer(self, limit=None):
        try:
            if not self.pipe.poll(limit):
                raise Gone(f"no answer within {limit:.0f} s")
            status, value = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(10)
            code = self.process.exitcode
            raise Gone(f"its process died ({signal.Signals(-code).name})" if code and code < 0
                       else f"its process ended ({code})") from None
        if status != "ok":
            raise Gone(value)
        return value

    def ask(self, method, *arguments, limit=None):
        try:
            self.pipe.send((method, arguments))
        except (BrokenPipeError, OSError):
            pass
        return self.answer(limit)

    def close(self):
        self.pipe.close()
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class IndexOf:
    """An index that a peer's process holds."""

    def __init__(self, remote, key, peer, params, knobs, built):
        self.remote, self.key, self.peer = remote, key, peer
        self.params, self.knobs, self.built = params, knobs, built


class Point:
    """One setting of one index in one mode, and its passes."""

    def __init__(self, s, index, knobs, mode):
        self.set, self.index, self.knobs, self.mode = s, index, knobs, mode
        self.passes, self.recall, self.clock = [], 0.0, "wall"

    def speed(self, one):
        return one["queries"] / max(one[self.clock], 1e-9)

    @property
    def best(self):
        return max(self.passes, key=self.speed)

    @property
    def qps(self):
        return self.speed(self.best)

    @property
    def spread(self):
        """The fastest pass over the slowest."""
        return self.qps / min(map(self.speed, self.passes))

    @property
    def cpu_per_wall(self):
        return self.best["cpu"] / max(self.best["wall"], 1e-9)

    @property
    def marks(self):
        out = ""
        if self.clock == "wall" and self.cpu_per_wall < 0.9:
            out += "D"
        if self.best["busiest"] < 0.95 or self.cpu_per_wall > 1.05:
            out += "T"
        return out


class Run:
    def __init__(self, options):
        self.options = options
        self.out = os.path.join(options.build, "bench")
        self.cache = os.path.join(self.out, "sets")
        self.tmp = os.path.join(self.out, "tmp")
        self.log = os.path.join(self.out, "peers.log")
        self.threads = options.threads
        cores = sorted(os.sched_getaffinity(0))
        self.build_cores = set(cores[:max(1, options.threads)])
        self.search_core = cores[-1] if options.core is None else options.core
        self.points, self.started, self.shown = [], time.monotonic(), 0
        self.where = self.describe()
        shutil.rmtree(self.tmp, ignore_errors=True)
        os.makedirs(self.tmp)
        os.environ["VSHARD_BUILD"] = os.path.abspath(options.build)
        os.environ.update(OMP_WAIT_POLICY="passive", OPENBLAS_NUM_THREADS=str(options.threads))

    def say(self, text):
        spent = time.monotonic() - self.started
        print(f"{spent // 60:3.0f}:{spent % 60:02.0f}  {text}", flush=True)

    def tries(self, peer):
        """A child of its own imports the peer, builds a small index of each kind and asks it;
        what kills the child is only reported."""
        remote = None
        try:
            remote = Remote(peer, self)
            small = sets.Set("small", "cosine", self.small, False)
            kinds = {}
            for number, name, params, knobs in remote.ask("grid", small):
                kinds.setdefault(name, (number, name, params, knobs))
            for number, name, params, knobs in kinds.values():
                remote.ask("build", (name, str(params)), number, small, params, limit=120)
                got = remote.ask("measure", (name, str(params)), knobs[-1], sets.K, 0, True,
                                 limit=120)
                found = self.recall(small, got["ids"])
                if found < 0.5:
                    raise Gone(f"{name} finds {found:.2f} of a tiny set's neighbours")
            return True
        except Gone as e:
            self.say(f"{peer}: left out: {e}")
            return False
        finally:
            if remote is not None:
                remote.close()

    def tiny(self):
        """The set for that: clustered, 64-dimensional."""
        self.small = os.path.join(self.tmp, "small")
        os.makedirs(self.small)
        rng = np.random.default_rng(7)
        centre = rng.standard_normal((20, 64))
        base, query = (sets.unit(centre[rng.integers(20, size=n)] +
                                 0.5 * rng.standard_normal((n, 64))) for n in (3000, 100))
        sets.save(self.small, "base", base)
        sets.save(self.small, "query", query)
        sets.save(self.small, "truth", measure.nearest("cosine", base, query, sets.K))

    def recall(self, s, ids, each=1):
        queries = s.queries[::each]
        true = measure.distances(s.metric, s.base, queries, s.truth[::each])
        exact = measure.distances(s.metric, s.base, queries, ids)
        return measure.recall(ids, exact, true.max(axis=1))

    def chosen(self, module, grid):
        """The part of a peer's grid that was asked for: (number, peer, params, knobs)."""
        count, out = {}, []
        for number, peer, params, knobs in grid:
            count[peer] = count.get(peer, 0) + 1
            if self.options.kinds.get(module) and peer not in self.options.kinds[module]:
                continue
            if count[peer] <= self.options.builds:
                if self.options.quick and len(knobs) > QUICK_KNOBS:
                    at = np.unique(np.linspace(0, len(knobs) - 1, QUICK_KNOBS).round().astype(int))
                    knobs = [knobs[i] for i in at]
                out.append((number, peer, params, knobs))
        return out

    def build(self, s, remotes):
        plan = [(r, *entry) for r in remotes for entry in self.chosen(r.peer, r.ask("grid", s))]
        indexes, dead, spent = [], set(), 0.0
        for n, (remote, number, peer, params, knobs) in enumerate(plan):
            if remote in dead:
                continue
            key = (peer, report.words(params))
            try:
                built = remote.ask("build", key, number, s, params)
            except Gone as e:
                self.say(f"{s.name} {peer} {key[1]}: not built: {e}")
                if not remote.process.is_alive():
                    dead.add(remote)
                    indexes = [i for i in indexes if i.remote is not remote]
                continue
            indexes.append(IndexOf(remote, key, peer, params, knobs, built))
            spent += built["build_s"]
            left = spent / (n + 1) * (len(plan) - n - 1)
            self.say(f"{s.name} built {n + 1}/{len(plan)} {peer} {key[1]}: {built['build_s']:.1f} s "
                     f"({built['build_cpu_s']:.1f} s CPU), {built['bytes']:.0f} bytes a vector; "
                     f"builds left: about {left:.0f} s")
        return indexes

    def search(self, s, indexes):
        """The passes: the first also finds out how far each knob needs turning."""
        modes = ["batch"] + ["single"] * (self.options.single > 0)
        points = {(i.key, m): [Point(s, i, k, m) for k in i.knobs] for i in indexes for m in modes}
        for turn in range(self.options.passes):
            steps = [p for together in itertools.zip_longest(*points.values())
                     for p in together if p is not None]
            over, begin = set(), time.monotonic()
            for n, p in enumerate(steps):
                at = (p.index.key, p.mode)
                if at in over or (turn and min(q["wall"] for q in p.passes) > self.options.slow):
                    continue
                if not self.one_pass(s, p, turn == 0):
                    over.update((p.index.key, m) for m in modes)
                elif turn == 0 and p.recall >= ENOUGH:
                    over.add(at)
                each = (time.monotonic() - begin) / (n + 1)
                left = each * (len(steps) - n - 1 + len(steps) * (self.options.passes - turn - 1))
                if turn == 0 or time.monotonic() - self.shown > 20:
                    self.shown = time.monotonic()
                    self.say(f"{s.name} pass {turn + 1}/{self.options.passes} {n + 1}/{len(steps)} "
                             f"{p.index.peer} {report.words(p.index.params)} / "
                             f"{report.words(p.knobs)} {p.mode}: "
                             + (f"recall {p.recall:.4f}, {p.qps:,.0f} QPS" if p.passes else "failed")
                             + f"; left: at most {left:.0f} s")
            points = {at: [p for p in some if p.passes] for at, some in points.items()}

    def one_pass(self, s, p, first):
        single = max(1, len(s.queries) // self.options.single) if p.mode == "single" else 0
        try:
            got = p.index.remote.ask("measure", p.index.key, p.knobs, sets.K, single, first)
        except Gone as e:
            self.say(f"{s.name} {p.index.peer} {report.words(p.knobs)}: {e}")
            return False
        if first:
            p.clock = self.options.clock
            p.recall = self.recall(s, got.pop("ids"), single or 1)
            self.points.append(p)
        p.passes.append(got)
        return True

    def write(self):
        points = [p for p in self.points if p.passes]
        if not points:
            return
        path = os.path.join(self.out, "peers.tsv")
        report.write(path, points)
        print("\n# " + self.where)
        print("\n".join(report.tables(points)))
        print(f"\nT: more than one thread worked. D: the core was shared. Points: {path}")
        try:
            picture = os.path.join(self.out, "peers.png")
            report.picture(picture, points)
            print(f"Picture: {picture}")
        except ImportError:
            print("no picture: matplotlib is not there")

    def describe(self):
        try:
            with open("/proc/cpuinfo") as f:
                cpu = next(l.split(":")[1].strip() for l in f if l.startswith("model name"))
        except (OSError, StopIteration):
            cpu = "unknown processor"
        commit = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"],
                                capture_output=True, text=True).stdout.strip() or "no commit"
        return (f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f} at the start; "
                f"{commit}; best of {self.options.passes} by {self.options.clock} time; "
                f"peers.py {' '.join(sys.argv[1:])}")

    def go(self):
        remotes = []
        try:
            self.tiny()
            able = [p for p in self.options.peers if self.tries(p)]
            for name in self.options.sets:
                s = sets.prepare(name, self.options.data, self.cache, self.options.rows,
                                 self.options.queries, self.say)
                self.say(f"{name}: {s.rows} rows of {s.dim}, {len(s.queries)} queries, "
                         f"{s.metric}; {' '.join(able)}")
                remotes = [Remote(p, self) for p in able]
                self.search(s, self.build(s, remotes))
                for r in remotes:
                    r.close()
                remotes = []
        except KeyboardInterrupt:
            print("\nstopped; what was measured so far:")
        finally:
            for r in remotes:
                r.process.kill()
            self.write()
            shutil.rmtree(self.tmp, ignore_errors=True)


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0].split(" - ", 1)[1],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = lambda text: [w for w in text.replace(",", " ").split() if w]  # noqa: E731
    p.add_argument("--sets", type=names, default="glove100,sift128,minilm384",
                   help="of " + " ".join(sets.NAMES))
    p.add_argument("--peers", type=names, default=",".join(adapters.ALL),
                   help="names, or one kind of index as faiss-ivfpqfs")
    p.add_argument("--data", default=os.environ.get("VSHARD_DATA", "."),
                   help="the folder with SET.base.npy, SET.query.npy, SET.gt.npy")
    p.add_argument("--build", default="build", help="the folder the library was built in")
    p.add_argument("--rows", type=int, default=0, help="use the first of a set's rows; 0 all")
    p.add_argument("--queries", type=int, default=0, help="and queries; 0 all")
    p.add_argument("--single", type=int, nargs="?", const=2000, default=0, metavar="QUERIES",
                   help="also one call at a time, of about this many, evenly drawn")
    p.add_argument("--quick", action="store_true", help="one build a peer, six points, 1,000 queries")
    p.add_argument("--builds", type=int, default=2, help="build settings a peer, its best first")
    p.add_argument("--passes", type=int, default=3, help="how often each point is measured")
    p.add_argument("--threads", type=int, default=2, help="of builds")
    p.add_argument("--core", type=int, help="that searches run on, not the last")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                   help="cpu on a machine that others use")
    p.add_argument("--slow", type=float, default=20, help="seconds of a pass that is not repeated")
    o = p.parse_args()
    if o.quick:
        o.builds, o.queries = 1, o.queries or 1000
    o.kinds, modules = {}, []
    for n in o.peers:
        module = n if n in adapters.ALL else n.split("-")[0]
        modules.append(module)
        if n != module:
            o.kinds.setdefault(module, set()).add(n)
    o.kinds = {m: kinds for m, kinds in o.kinds.items() if m not in o.peers}
    modules = list(dict.fromkeys(modules))
    unknown = [m for m in modules if m not in adapters.ALL]
    if unknown:
        p.error(f"no peer {' '.join(unknown)}; there are {' '.join(adapters.ALL)}")
    o.peers = modules
    if o.core is not None and o.core not in os.sched_getaffinity(0):
        p.error(f"--core {o.core}: of {' '.join(map(str, sorted(os.sched_getaffinity(0))))}")
    return o


if __name__ == "__main__":
    Run(options()).go()
