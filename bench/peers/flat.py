"""flat.py - exact scans, this library's beside faiss's.

    build/bench/venv/bin/python bench/peers/flat.py [--build build] [--data dir] [set ...]

Needs faiss-cpu and NumPy, libvshard.so and bench/libpool.so under the build folder (make
bench-peers makes all of them). Sets: glove100 and minilm384 (float32, cosine), sift128 (uint8,
squared L2; faiss takes float32), orb256 (bits, Hamming), and with f16 behind the name float16 as
the file has it, to which faiss has no like. Repeats are interleaved, one thread on one core; the
time is the process's own, since machines are busy. Batches are of 2,560 queries, from which on
faiss multiplies by BLAS; the ratio is the median of the repeats' own ratios, least and greatest
beside it. Every answer is judged by its distance, computed again in float64, against the tenth
nearest that faiss finds, before a line is printed; `--lean` leaves the bytes out. `--graph 64,96`
adds lines of a graph (m 32) at these beams, whose recall need not be 1.
"""
import argparse
import ctypes as c
import os
import sys
import time

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
parser = argparse.ArgumentParser()
parser.add_argument("sets", nargs="*", default=["glove100", "sift128", "minilm384", "orb256"])
parser.add_argument("--build", default="build")
parser.add_argument("--data", default="../shared/data")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--batch", type=int, default=2560)
parser.add_argument("--single", type=int, default=40)
parser.add_argument("--lean", action="store_true")
parser.add_argument("--graph", type=lambda s: [int(x) for x in s.split(",")], default=[])
options = parser.parse_args()
os.environ["VSHARD_BUILD"] = os.path.abspath(options.build)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import faiss  # noqa: E402
import numpy as np  # noqa: E402

from adapters import vshard as v  # noqa: E402

faiss.omp_set_num_threads(1)
K = 10
HAMMING, F16, BITS = 4, 3, 4


class Set:
    """What each side is given, and the index of each."""

    def __init__(self, name):
        base = name.removesuffix("f16")
        rows, queries = (np.load(f"{options.data}/{base}.{w}.npy") for w in ("base", "query"))
        queries = np.tile(queries, (1 + options.batch // len(queries), 1))[:options.batch]
        self.bits, self.cosine = base == "orb256", base in ("glove100", "minilm384")
        dim = rows.shape[1] * (8 if self.bits else 1)
        metric, element = v.L2SQ, v.U8
        if self.bits:
            metric, element = HAMMING, BITS
        if self.cosine:
            metric, element = v.COSINE, F16 if name != base else v.F32
            rows, queries = (x.astype(np.float32) for x in (rows, queries))
            rows, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
        if element == F16:
            rows, queries = (x.astype(np.float16) for x in (rows, queries))
        self.rows, self.queries = (np.ascontiguousarray(x) for x in (rows, queries))
        self.theirs_queries = queries if self.bits else queries.astype(np.float32)
        self.theirs = faiss.IndexBinaryFlat(dim) if self.bits else \
            (faiss.IndexFlatIP if self.cosine else faiss.IndexFlatL2)(dim)
        self.theirs.add(rows if self.bits else rows.astype(np.float32))
        o = v.Options(size=c.sizeof(v.Options), dim=dim, metric=metric, element=element)
        self.graph = self.build(o) if options.graph else None
        o.family, o.profile = v.FLAT, int(options.lean)
        self.ours = self.build(o)
        self.hits = np.zeros((len(queries), K), v.HIT)

    def build(self, o):
        index, ids = c.c_void_p(), np.arange(len(self.rows), dtype=np.uint64)
        v.must(v.LIB.vshard_index_create(c.byref(o), c.byref(index)))
        v.must(v.LIB.vshard_index_add(index, ids.ctypes.data, self.rows.ctypes.data, len(ids)))
        return index

    def ask_ours(self, count, each, ef):
        q, h = self.queries, self.hits
        o = v.SearchOptions(size=c.sizeof(v.SearchOptions), ef_search=ef)
        for i in range(0, count, each):
            v.must(v.SEARCH(self.graph if ef else self.ours, q.ctypes.data + i * q.strides[0], each, K,
                            h.ctypes.data + i * h.strides[0], c.byref(o)))
        return self.hits["id"][:count].astype(np.int64)

    def ask_theirs(self, count, each):
        return np.concatenate([self.theirs.search(self.theirs_queries[i:i + each], K)[1]
                               for i in range(0, count, each)])

    def distances(self, ids):
        """Float64, in blocks; of cosine, that of the rows as they were given."""
        out = np.empty(ids.shape)
        for i in range(len(ids)):
            rows, q = self.rows[ids[i]], self.queries[i]
            if self.bits:
                out[i] = np.unpackbits(rows ^ q, axis=1).sum(1)
                continue
            rows, q = rows.astype(np.float64), q.astype(np.float64)
            out[i] = ((rows - q) ** 2).sum(1) if not self.cosine else 1 - rows @ q / (
                np.linalg.norm(rows, axis=1) * np.linalg.norm(q))
        return out


def timed(ask, *arguments):
    before = time.process_time()
    ids = ask(*arguments)
    return (time.process_time() - before) / arguments[0], ids


def measure(name, s, count, each, ef=0):
    pairs = []
    for _ in range(options.repeats):
        (ours, mine), (theirs, other) = timed(s.ask_ours, count, each, ef), timed(s.ask_theirs, count, each)
        pairs.append((ours, theirs))
    some = slice(0, min(count, 1000 if ef else 200))
    tenth = s.distances(other[some]).max(axis=1, keepdims=True)
    right = (s.distances(mine[some]) <= tenth * (1 + 1e-5) + 1e-6).mean()
    assert all(len(set(row)) == K for row in mine[some]) and (ef or right == 1.0), (name, right)
    ratio = sorted(b / a for a, b in pairs)
    ours, theirs = (np.median([p[i] for p in pairs]) * 1e6 for i in (0, 1))
    print(f"{name}\t{'batch' if each > 1 else 'single'}\t{ef or 'flat'}\t{right:.4f}\t{ours:.1f}\t{theirs:.1f}\t"
          f"{ratio[len(ratio) // 2]:.2f}\t{ratio[0]:.2f}\t{ratio[-1]:.2f}", flush=True)


print("set\tmode\tef\trecall\tours_us\tfaiss_us\tratio\tleast\tgreatest")
for name in options.sets:
    s = Set(name)
    measure(name, s, options.batch, options.batch)
    measure(name, s, min(options.single, options.batch), 1)
    for ef in options.graph:
        measure(name, s, options.batch, options.batch, ef)
        measure(name, s, min(10 * options.single, options.batch), 1, ef)
