#!/usr/bin/env python3
"""search.py - an index from Python: ctypes, numpy, and the C library as it is.

Arrays go in and come out without being copied, if they have the index's type and
lie in one piece. The library is libvshard.so where the system finds it, or what
VSHARD_LIBRARY names. Run as a program, it tries itself. It prints:

    3 vectors of 2 numbers, compared by l2
    nearest to [0, 1]: 12 at 0.02, 10 at 1.00
    exact, 4 wanted:   12 at 0.02, 10 at 1.00, 11 at 2.00
    without 12:        10 at 1.00, 11 at 2.00
    vector 11 is [1.0, 0.0]
    mapped: the same answer
    error -1: an argument breaks its contract
"""
import ctypes
import ctypes.util
import os
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    sys.exit("search.py: numpy is missing (apt install python3-numpy)")

METRICS = {"l2": 0, "ip": 1, "cosine": 2}
FAMILIES = {"hnsw": 0, "flat": 1}
ELEMENTS = {np.dtype("f4"): 0, np.dtype("u1"): 1, np.dtype("i1"): 2}
HIT = np.dtype([("id", "u8"), ("distance", "f4"), ("reserved", "u4")])
ID_NONE = 2**64 - 1
EXACT, MAPPED = 1, 1


def _struct(u32, u64="", ptr=""):
    """A C struct that opens with its size, then has fields of these types in turn."""
    kinds = (u32, ctypes.c_uint32), (u64, ctypes.c_uint64), (ptr, ctypes.c_void_p)
    fields = [(name, kind) for names, kind in kinds for name in names.split()]

    def init(self, **values):
        ctypes.Structure.__init__(self, size=ctypes.sizeof(self), **values)
    return type("Struct", (ctypes.Structure,), {
        "_fields_": [("size", ctypes.c_uint32)] + fields, "__init__": init})


_IndexOptions = _struct(
    u32="dim family metric element m ef_construction ef_search train_rows flags", u64="seed",
    ptr="allocator logger executor storage")
_OpenOptions = _struct(u32="flags", ptr="allocator logger executor storage")
_SearchOptions = _struct(u32="ef_search flags reserved", ptr="found info")
_Stats = _struct(
    u32="dim family metric element m ef_construction ef_search train_rows trained mapped"
    " entries", u64="rows removed_rows free_rows heap_bytes mapped_bytes element_bytes code_bytes"
    " edge_bytes id_bytes scratch_bytes")

_lib = ctypes.CDLL(os.environ.get("VSHARD_LIBRARY") or ctypes.util.find_library("vshard")
                   or "libvshard.so")
_lib.vshard_strerror.restype = ctypes.c_char_p
_lib.vshard_index_count.restype = ctypes.c_uint64


class VshardError(Exception):
    """A call failed: `status` is one of VSHARD_E*, the text is the library's."""

    def __init__(self, status):
        super().__init__(_lib.vshard_strerror(status).decode())
        self.status = status


def _call(function, *args):
    """Calls; a status is an exception. Arrays and numbers become pointers and size_t."""
    status = getattr(_lib, "vshard_index_" + function)(*[
        ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray)
        else ctypes.c_size_t(a) if isinstance(a, int) else a for a in args])
    if status != 0:
        raise VshardError(status)


def _ids(ids):
    return np.ascontiguousarray(ids, "u8").ravel()


class Index:
    """Vectors under 64-bit ids, searchable by distance. Usable with `with`."""

    def __init__(self, dim, *, metric="l2", family="hnsw", element="f4", **options):
        """options: m, ef_construction, ef_search, train_rows, seed."""
        o = _IndexOptions(dim=dim, metric=METRICS[metric], family=FAMILIES[family],
                          element=ELEMENTS[np.dtype(element)], **options)
        self._take(lambda p: _call("create", ctypes.byref(o), ctypes.byref(p)))

    @classmethod
    def open(cls, path, *, mapped=False):
        self, o = cls.__new__(cls), _OpenOptions(flags=MAPPED if mapped else 0)
        self._take(lambda p: _call("open", os.fsencode(path), ctypes.byref(o), ctypes.byref(p)))
        return self

    def _take(self, make):
        self._index = ctypes.c_void_p()
        make(self._index)
        stats = self.stats()
        self.dim, self.dtype = stats["dim"], list(ELEMENTS)[stats["element"]]

    def _rows(self, vectors):
        rows = np.atleast_2d(np.ascontiguousarray(vectors, self.dtype))
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"vectors of {self.dim} numbers wanted, not {rows.shape}")
        return rows

    def add(self, ids, vectors):
        ids, rows = _ids(ids), self._rows(vectors)
        if ids.size != len(rows):
            raise ValueError(f"{ids.size} ids for {len(rows)} vectors")
        _call("add", self._index, ids, rows, len(rows))

    def remove(self, ids):
        """Returns how many were there."""
        ids, removed = _ids(ids), ctypes.c_size_t()
        _call("remove", self._index, ids, ids.size, ctypes.byref(removed))
        return removed.value

    def fetch(self, ids):
        ids = _ids(ids)
        rows = np.empty((ids.size, self.dim), self.dtype)
        _call("fetch", self._index, ids, ids.size, rows, None)
        return rows

    def search(self, queries, k, *, ef_search=0, exact=False):
        """Returns ids and distances, [queries x k]; ID_NONE where there are fewer."""
        rows = self._rows(queries)
        o = _SearchOptions(ef_search=ef_search, flags=EXACT if exact else 0)
        hits = np.empty((len(rows), k), HIT)
        _call("search", self._index, rows, len(rows), k, hits, ctypes.byref(o))
        return hits["id"], hits["distance"]

    def save(self, path):
        _call("save", self._index, os.fsencode(path))

    def stats(self):
        stats = _Stats()
        _call("stats", self._index, ctypes.byref(stats))
        return {name: getattr(stats, name) for name, _ in stats._fields_[1:]}

    def __len__(self):
        return _lib.vshard_index_count(self._index)

    def close(self):
        _lib.vshard_index_destroy(self._index)
        self._index = ctypes.c_void_p()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _text(answer):
    return ", ".join(f"{i} at {d:.2f}" for i, d in zip(answer[0][0], answer[1][0]) if i != ID_NONE)


def main():
    query = np.array([0, 1], "f4")
    with tempfile.TemporaryDirectory() as folder, Index(2, metric="l2", seed=1) as index:
        index.add([10, 11, 12], np.array([[0, 0], [1, 0], [0.1, 0.9]], "f4"))
        print(f"{len(index)} vectors of {index.dim} numbers, compared by l2")
        print("nearest to [0, 1]:", _text(index.search(query, 2)))
        print("exact, 4 wanted:  ", _text(index.search(query, 4, exact=True)))
        index.remove([12])
        print("without 12:       ", _text(index.search(query, 2)))
        print("vector 11 is", index.fetch([11])[0].tolist())
        index.save(folder + "/vectors")
        with Index.open(folder + "/vectors", mapped=True) as mapped:
            same = all((a == b).all() for a, b in zip(mapped.search(query, 2), index.search(query, 2)))
            print("mapped:", "the same answer" if same else "another answer")
        try:
            index.search(query, 0)
        except VshardError as error:
            print(f"error {error.status}: {error}")


if __name__ == "__main__":
    main()
