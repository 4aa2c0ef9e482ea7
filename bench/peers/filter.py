"""filter.py - searches among allowed rows, this library's beside faiss's and hnswlib's.

    build/bench/venv/bin/python bench/peers/filter.py [--build build] [--data dir] [set:rows ...]

Needs faiss-cpu, hnswlib and NumPy, libvshard.so and bench/libpool.so under the build folder (make
bench-peers makes all of them). Of a set, as glove100:100000, the first rows are indexed by each
library with M 32 and ef_construction 200, under cosine. Each query is a call of its own, with a
filter of its own: a bitmap over ids for us and faiss (IDSelectorBitmap); for hnswlib, which knows no
other from Python, a function, whose calls are most of its time. Allowed is a share of the rows: at
random, or those nearest to the query, or farthest from it. Reported is the narrowest beam that
finds 0.95 of the 10 nearest allowed, or the widest there is, its recall, and the thread's processor
time a query, Python's part included; the three take turns, query by query.
"""
import argparse
import ctypes as c
import os
import sys
import time

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="2")
parser = argparse.ArgumentParser()
parser.add_argument("sets", nargs="*", default=["glove100:100000", "minilm384:40000"])
parser.add_argument("--build", default="build")
parser.add_argument("--data", default="../shared/data")
parser.add_argument("--queries", type=int, default=40)
options = parser.parse_args()
os.environ["VSHARD_BUILD"] = os.path.abspath(options.build)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import faiss  # noqa: E402
import hnswlib  # noqa: E402
import numpy as np  # noqa: E402

from adapters import vshard as v  # noqa: E402

K, LEAST, BITS = 10, 0.95, 2
LADDER = (10, 16, 32, 64, 128, 384, 1536)
CASES = [("random", s) for s in (0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.001)] + \
        [(kind, s) for kind in ("nearest", "farthest") for s in (0.5, 0.1, 0.01)]


class Filter(c.Structure):
    _fields_ = [("size", c.c_uint32), ("kind", c.c_uint32), ("count", c.c_uint64)] + [
        (n, c.c_void_p) for n in ("ids", "bits", "allow", "ctx")] + [
        ("share", c.c_float), ("reserved", c.c_uint32)]


class Options(v.SearchOptions):
    _fields_ = [("filter", c.c_void_p)]


class Ours:
    name = "vshard"

    def __init__(self, rows):
        o = v.Options(size=c.sizeof(v.Options), dim=rows.shape[1], metric=v.COSINE,
                      m=32, ef_construction=200)
        self.index, ids = c.c_void_p(), np.arange(len(rows), dtype=np.uint64)
        v.must(v.LIB.vshard_index_create(c.byref(o), c.byref(self.index)))
        v.must(v.LIB.vshard_index_add(self.index, ids.ctypes.data, rows.ctypes.data, len(rows)))
        self.hits = np.zeros(K, v.HIT)

    def prepare(self, mask, bits):
        return Filter(c.sizeof(Filter), BITS, len(mask), bits=bits.ctypes.data)

    def search(self, query, f, ef):
        o = Options(size=c.sizeof(Options), ef_search=ef, filter=c.addressof(f))
        v.must(v.SEARCH(self.index, query.ctypes.data, 1, K, self.hits.ctypes.data, c.byref(o)))
        return self.hits["id"].astype(np.int64)


class Faiss:
    name = "faiss"

    def __init__(self, rows):
        faiss.omp_set_num_threads(2)
        self.index = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = 200
        self.index.add(rows)
        faiss.omp_set_num_threads(1)

    def prepare(self, mask, bits):
        return faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits.view(np.uint8)))

    def search(self, query, f, ef):
        return self.index.search(query[None], K, params=faiss.SearchParametersHNSW(
            sel=f, efSearch=ef))[1][0]


class Hnswlib:
    name = "hnswlib"

    def __init__(self, rows):
        self.index = hnswlib.Index("ip", rows.shape[1])
        self.index.init_index(len(rows), M=32, ef_construction=200)
        self.index.add_items(rows, num_threads=2)

    def prepare(self, mask, bits):
        return mask.tolist().__getitem__

    def search(self, query, f, ef):
        self.index.set_ef(ef)
        try:
            return self.index.knn_query(query, K, num_threads=1, filter=f)[0][0].astype(np.int64)
        except RuntimeError:  # fewer than K were found
            return np.empty(0, np.int64)


def masks(kind, share, distances):
    """Of each query; a random one serves all."""
    count = max(1, int(share * distances.shape[1]))
    if kind == "random":
        return [np.random.default_rng(1).random(distances.shape[1]) < share] * len(distances)
    out = []
    for d in distances:
        mask = np.zeros(len(d), bool)
        mask[np.argsort(d if kind == "nearest" else -d)[:count]] = True
        out.append(mask)
    return out


def measure(engines, queries, distances, allowed):
    packed = [np.packbits(np.pad(m, (0, -len(m) % 64)), bitorder="little").view(np.uint64)
              for m in allowed]
    filters = {e: [e.prepare(m, b) for m, b in zip(allowed, packed)] for e in engines}
    tenth = [np.sort(d[m])[min(K, m.sum()) - 1] + 1e-5 for d, m in zip(distances, allowed)]
    wanted = sum(min(K, int(m.sum())) for m in allowed)
    best = {}
    for ef in LADDER:
        left = [e for e in engines if best.get(e, (0, 0))[1] < LEAST]
        right, spent = dict.fromkeys(left, 0), dict.fromkeys(left, 0.0)
        for i, q in enumerate(queries):
            for e in left:
                e.search(q, filters[e][i], ef)
                before = time.thread_time()
                ids = e.search(q, filters[e][i], ef)
                spent[e] += time.thread_time() - before
                ids = ids[(ids >= 0) & (ids < len(allowed[i]))]
                assert allowed[i][ids].all(), e.name
                right[e] += int((distances[i][ids] <= tenth[i]).sum())
        for e in left:
            best[e] = (ef, right[e] / wanted, spent[e] / len(queries) * 1e6)
    return best


print("set\trows are\tshare\t" + "\t".join(f"{e} ef\trecall\tus" for e in ("vshard", "faiss", "hnswlib")))
for name in options.sets:
    name, count = name.split(":")
    rows, queries = (np.load(f"{options.data}/{name}.{w}.npy").astype(np.float32)
                     for w in ("base", "query"))
    rows, queries = (np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True))
                     for x in (rows[:int(count)], queries[:options.queries]))
    engines = [E(rows) for E in (Ours, Faiss, Hnswlib)]
    distances = 1 - queries.astype(np.float64) @ rows.T.astype(np.float64)
    for kind, share in CASES:
        best = measure(engines, queries, distances, masks(kind, share, distances))
        print(f"{name}\t{kind}\t{share:g}\t" + "\t".join(
            f"{best[e][0]}\t{best[e][1]:.3f}\t{best[e][2]:.0f}" for e in engines), flush=True)
