"""This library, through ctypes: arrays are passed as they lie, nothing is copied on the way.

The pool of threads for the build is a host's affair; the one of the tests is compiled into
libpool.so for this."""
import ctypes as c
import os

import numpy as np

from . import Index, values


class Executor(c.Structure):
    _fields_ = [("run", c.c_void_p), ("ctx", c.c_void_p), ("width", c.c_uint32),
                ("reserved", c.c_uint32)]


class Options(c.Structure):
    _fields_ = [(n, c.c_uint32) for n in (
        "size", "dim", "family", "metric", "element", "m", "ef_construction", "ef_search",
        "train_rows", "flags")] + [("seed", c.c_uint64)] + [(n, c.c_void_p) for n in (
            "allocator", "logger", "executor", "storage")] + [
                (n, c.c_uint32) for n in ("numa_node", "profile")]


class SearchOptions(c.Structure):
    _fields_ = [(n, c.c_uint32) for n in ("size", "ef_search", "flags", "reserved")] + [
        ("found", c.c_void_p), ("info", c.c_void_p)]


class Stats(c.Structure):
    _fields_ = [(n, c.c_uint32) for n in (
        "size", "dim", "family", "metric", "element", "m", "ef_construction", "ef_search",
        "train_rows", "trained", "mapped", "entries")] + [(n, c.c_uint64) for n in (
            "rows", "removed_rows", "free_rows", "heap_bytes", "mapped_bytes", "element_bytes",
            "code_bytes", "edge_bytes", "id_bytes", "scratch_bytes")]


HIT = np.dtype([("id", "u8"), ("distance", "f4"), ("reserved", "u4")])
HNSW, FLAT, L2SQ, COSINE, F32, U8 = 0, 1, 0, 2, 0, 1

LIB = c.CDLL(os.path.join(os.environ["VSHARD_BUILD"], "libvshard.so"))
POOL = c.CDLL(os.path.join(os.environ["VSHARD_BUILD"], "bench", "libpool.so"))
LIB.vshard_strerror.restype = c.c_char_p
LIB.vshard_index_search.argtypes = [c.c_void_p, c.c_void_p, c.c_size_t, c.c_size_t, c.c_void_p,
                                    c.c_void_p]
SEARCH = LIB.vshard_index_search
LIB.vshard_index_add.argtypes = [c.c_void_p, c.c_void_p, c.c_void_p, c.c_size_t]
LIB.vshard_index_create.argtypes = [c.c_void_p, c.c_void_p]
LIB.vshard_index_stats.argtypes = [c.c_void_p, c.c_void_p]
POOL.pool_create.restype = POOL.pool_executor.restype = c.c_void_p
POOL.pool_executor.argtypes = [c.c_void_p]


def must(status):
    if status != 0:
        raise RuntimeError(LIB.vshard_strerror(status).decode())


class Graph(Index):
    peer = "vshard"
    family = HNSW

    @classmethod
    def grid(cls, s):
        ef = values("ef", 10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536)
        best = {"glove100": (32, 16), "minilm384": (24, 16)}.get(s.name, (16, 32))
        return [({"m": m, "efc": 200}, ef) for m in best]

    def __init__(self, s, params, threads):
        self.queries = s.queries_bytes if s.has_bytes else s.queries
        base = s.base_bytes if s.has_bytes else s.base
        pool = POOL.pool_create(threads)
        o = Options(size=c.sizeof(Options), dim=s.dim, family=self.family,
                    metric=COSINE if s.cosine else L2SQ, element=U8 if s.has_bytes else F32,
                    m=params.get("m", 0), ef_construction=params.get("efc", 0), seed=1,
                    executor=POOL.pool_executor(pool))
        self.index, self.rows = c.c_void_p(), s.rows
        must(LIB.vshard_index_create(c.byref(o), c.byref(self.index)))
        ids = np.arange(s.rows, dtype=np.uint64)
        must(LIB.vshard_index_add(self.index, ids.ctypes.data, base.ctypes.data, s.rows))
        self.options = SearchOptions(size=c.sizeof(SearchOptions))
        self.at = c.addressof(self.options)

    def turn(self, knobs):
        self.options.ef_search = knobs.get("ef", 0)

    def search(self, queries, k):
        hits = np.empty((len(queries), k), HIT)
        must(SEARCH(self.index, queries.ctypes.data, len(queries), k,
                    hits.ctypes.data, self.at))
        return hits["id"]

    def calls(self, queries, k):
        """Addresses, since asking NumPy for one costs as much as the call."""
        self.hits = np.zeros((len(queries), k), HIT)
        return [(queries.ctypes.data + i * queries.strides[0],
                 self.hits.ctypes.data + i * self.hits.strides[0]) for i in range(len(queries))]

    def one(self, call, k):
        must(SEARCH(self.index, call[0], 1, k, call[1], self.at))

    def collect(self, answers, count, k):
        return self.hits["id"].astype(np.int64)

    def bytes(self, folder):
        stats = Stats(size=c.sizeof(Stats))
        must(LIB.vshard_index_stats(self.index, c.byref(stats)))
        return stats.heap_bytes - stats.scratch_bytes


class Flat(Graph):
    peer = "vshard-flat"
    family = FLAT

    @classmethod
    def grid(cls, s):
        return [({}, [{}])]


INDEXES = [Graph, Flat]
