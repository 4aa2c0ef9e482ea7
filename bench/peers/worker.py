"""worker.py - one process for each peer, so that none can disturb or end another.

Libraries bring their own OpenMP, their own BLAS and sometimes instructions that this processor
lacks. Each lives in a process of its own that sleeps on a pipe until it is its turn; all indexes
it has built stay in memory. What a library prints goes to a log file.

A pass is timed here, around nothing but the calls. The processor time of the whole process is
measured along with it, and which thread used it: a search on one core must be one thread's work.
"""
import ctypes
import gc
import importlib
import os
import signal
import sys
import tempfile
import time

import numpy as np

WARM = 50  # queries asked before a pass, untimed: another peer had the caches


def pin(cores):
    """Moves every thread of this process; threads that start later inherit it."""
    for tid in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(tid), cores)
        except ProcessLookupError:
            pass


def thread_times():
    """Seconds that each living thread has run."""
    out = {}
    for tid in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{tid}/schedstat") as f:
                out[tid] = int(f.read().split()[0]) * 1e-9
        except (FileNotFoundError, ProcessLookupError):
            pass
    return out


def resident():
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pass
    with open("/proc/self/smaps_rollup") as f:
        for line in f:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    return 0


class Worker:
    def __init__(self, peer, tmp, threads, build_cores, search_core):
        os.environ["VSHARD_BENCH_TMP"] = tmp
        self.module = importlib.import_module("adapters." + peer)
        import threadpoolctl
        self.limits = threadpoolctl.threadpool_limits
        self.tmp, self.threads = tmp, threads
        self.build_cores, self.search_core = build_cores, search_core
        self.indexes = {}

    def grid(self, s):
        """[(class number, peer, params, knobs), ...]"""
        return [(i, c.peer, p, k) for i, c in enumerate(self.module.INDEXES) for p, k in c.grid(s)]

    def build(self, key, number, s, params):
        self.limits(self.threads)
        pin(self.build_cores)
        s.mapped = False
        before = resident()
        wall, cpu = time.perf_counter(), time.process_time()
        index = self.module.INDEXES[number](s, params, self.threads)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        grown = max(0, resident() - before - index.queries.nbytes)
        with tempfile.TemporaryDirectory(dir=self.tmp) as folder:
            size = index.bytes(folder)
        self.indexes[key] = index
        return {"build_s": wall, "build_cpu_s": cpu, "bytes": size / s.rows, "rss": grown / s.rows}

    def ready(self, index, knobs):
        self.limits(1)
        pin({self.search_core})
        index.one_thread()
        index.turn(knobs)

    def measure(self, key, knobs, k, single, want_ids):
        """One pass over the queries, or over each `single`-th of them one call at a time."""
        index = self.indexes[key]
        self.ready(index, knobs)
        if single:
            rows = np.ascontiguousarray(index.queries[::single])
            calls, one, answers = index.calls(rows, k), index.one, []
            for q in calls[:WARM]:
                one(q, k)
        else:
            rows = index.queries
            index.search(rows[:WARM], k)
        threads = thread_times()
        wall, cpu = time.perf_counter(), time.process_time()
        if single:
            for q in calls:
                answers.append(one(q, k))
        else:
            answers = index.search(rows, k)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after = thread_times()
        ran = [t - threads.get(tid, 0) for tid, t in after.items()]
        ran.append(cpu - sum(ran))  # by threads that came and went
        out = {"wall": wall, "cpu": cpu, "queries": len(rows),
               "busiest": max(ran) / cpu if cpu > 0 else 1.0}
        if want_ids:
            if single or answers.shape != (len(rows), k):
                answers = index.collect(answers, len(rows), k)
            out["ids"] = np.asarray(answers).astype(np.int64)
        return out


def main(pipe, log, *arguments):
    """Serves (method, arguments) until the pipe closes; a failure is an answer, not an end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(out, 1)
    os.dup2(out, 2)
    try:
        worker = Worker(*arguments)
        pipe.send(("ok", None))
    except BaseException as e:  # a library may call exit() while it is imported
        pipe.send(("failed", f"{type(e).__name__}: {e}"))
        return
    while True:
        try:
            name, args = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send(("ok", getattr(worker, name)(*args)))
        except Exception as e:
            pipe.send(("failed", f"{type(e).__name__}: {e}"))
    sys.stdout.flush()
    os._exit(0)  # some libraries crash when they are unloaded; nothing is left to do
