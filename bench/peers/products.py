"""products.py - the greatest inner products of rows whose lengths differ, found by this library's
graph and by hnswlib's, side by side.

    build/bench/venv/bin/python bench/peers/products.py [--build build] [--data dir]
        [--rows 9000] [--m 32] [--ef 100,200] [--batch n] [set ...]

Needs hnswlib and NumPy, libvshard.so and bench/libpool.so under the build folder (make bench-peers
makes all of them). Sets, of 128 dimensions: spread0.2, normal numbers, each row times exp(0.2 times
a normal number), or any other number; bytes, of spread0.5, as int8; positive, evenly from 0 to 1;
around, of spread0.2 with 10 added to each number; elsewhere, the same rows, and queries to whom
nothing is added; rank, of rank 32 with lengths as of spread0.4; clusters, 100 of them with lengths
from 0.2 to 2.2; words, of glove100 as in the file. Queries, 200, are drawn as rows are.

Both build with ef_construction 200 and answer on one thread, one query a call; the time is the
process's own, the least of three passes. Rows are added in one call, or with --batch so many a
call. An answer is right if its product, computed again in float64, is not below the tenth
greatest.
"""
import argparse
import ctypes as c
import os
import sys
import time

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("sets", nargs="*",
                    default=["spread0", "spread0.2", "spread0.5", "spread1", "bytes", "positive",
                             "around", "elsewhere", "rank", "clusters"])
parser.add_argument("--build", default="build")
parser.add_argument("--data", default="../shared/data")
parser.add_argument("--rows", type=int, default=9000)
parser.add_argument("--batch", type=int, default=0)
parser.add_argument("--m", type=int, default=32)
parser.add_argument("--ef", type=lambda s: [int(x) for x in s.split(",")], default=[100, 200])
parser.add_argument("--ours", action="store_true", help="without hnswlib")
options = parser.parse_args()
os.environ["VSHARD_BUILD"] = os.path.abspath(options.build)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from adapters import vshard as v  # noqa: E402

K, QUERIES, DIM, IP, I8 = 10, 200, 128, 1, 2


def draw(name, rng):
    n = options.rows + QUERIES
    if name == "words":
        base = np.load(f"{options.data}/glove100.base.npy", mmap_mode="r")
        rows = np.sort(rng.permutation(len(base))[:options.rows])
        return base[rows].astype("f4"), \
            np.load(f"{options.data}/glove100.query.npy")[:QUERIES].astype("f4")
    if name == "positive":
        x = rng.random((n, DIM))
    elif name == "rank":
        x = rng.standard_normal((n, 32)) @ rng.standard_normal((32, DIM)) / 32**.5
        x *= np.exp(0.4 * rng.standard_normal((n, 1)))
    elif name == "clusters":
        x = rng.standard_normal((100, DIM))[rng.integers(0, 100, n)]
        x = (x + 0.5 * rng.standard_normal((n, DIM))) * (0.2 + 2 * rng.random((n, 1)))
    else:
        spread = {"bytes": 0.5, "around": 0.2, "elsewhere": 0.2}.get(name)
        spread = float(name.removeprefix("spread")) if spread is None else spread
        x = rng.standard_normal((n, DIM)) * np.exp(spread * rng.standard_normal((n, 1)))
    if name == "bytes":
        x = np.clip(np.rint(16 * x), -128, 127)
    if name in ("around", "elsewhere"):
        x[:options.rows if name == "elsewhere" else n] += 10
    x = np.ascontiguousarray(x, "i1" if name == "bytes" else "f4")
    return x[:options.rows], x[options.rows:]


class Ours:
    name = "ours"

    def __init__(self, rows):
        self.index, ids = c.c_void_p(), np.arange(len(rows), dtype=np.uint64)
        o = v.Options(size=c.sizeof(v.Options), dim=rows.shape[1], metric=IP, m=options.m,
                      element=I8 if rows.dtype == np.int8 else v.F32)
        v.must(v.LIB.vshard_index_create(c.byref(o), c.byref(self.index)))
        step = options.batch or len(rows)
        for i in range(0, len(rows), step):
            some = rows[i:i + step]
            v.must(v.LIB.vshard_index_add(self.index, ids[i:].ctypes.data, some.ctypes.data,
                                          len(some)))
        self.hits = np.zeros(K, v.HIT)

    def search(self, query, ef):
        o = v.SearchOptions(size=c.sizeof(v.SearchOptions), ef_search=ef)
        v.must(v.SEARCH(self.index, query.ctypes.data, 1, K, self.hits.ctypes.data, c.byref(o)))
        return self.hits["id"].copy()


class Hnswlib:
    name = "hnswlib"

    def __init__(self, rows):
        import hnswlib
        self.index = hnswlib.Index("ip", rows.shape[1])
        self.index.init_index(len(rows), M=options.m, ef_construction=200, random_seed=1)
        self.index.add_items(rows.astype("f4"), num_threads=1)

    def search(self, query, ef):
        self.index.set_ef(ef)
        return self.index.knn_query(query.astype("f4"), K, num_threads=1)[0][0]


def measure(name):
    rows, queries = draw(name, np.random.default_rng(7))
    products = queries.astype("f8") @ rows.T.astype("f8")
    least = np.partition(products, -K, 1)[:, -K]
    least -= 1e-6 * np.abs(least)
    for side in (Ours,) if options.ours else (Ours, Hnswlib):
        began = time.process_time()
        index = side(rows)
        line = f"{name}\t{side.name}\t{time.process_time() - began:.1f}"
        for ef in options.ef:
            times = []
            for _ in range(3):
                began = time.process_time()
                found = [index.search(q, ef) for q in queries]
                times.append(time.process_time() - began)
            right = sum((products[i, f.astype(int)] >= least[i]).sum() for i, f in enumerate(found))
            line += f"\t{right / (K * QUERIES):.3f}\t{min(times) / QUERIES * 1e6:.0f}"
        print(line, flush=True)


print("set\tindex\tbuild s\t" + "\t".join(f"recall, ef {e}\tus" for e in options.ef))
for one in options.sets:
    measure(one)
