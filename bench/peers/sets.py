"""sets.py - what is searched: real sets from a folder, and one made on the spot.

A set is prepared once and kept as .npy files under the build folder, so that every peer's
process maps the same bytes: float32 rows (of length 1 where the metric is cosine), and bytes as
they are where the set has bytes. A slice of a set (--rows) gets its own exact ground truth.
"""
import os

import numpy as np

import measure

K = 10
REAL = {"glove100": "cosine", "sift128": "l2", "minilm384": "cosine"}
SYNTHETIC = {"synth768": (768, 100000, 1000)}  # dim, rows, queries
NAMES = [*REAL, *SYNTHETIC]


class Set:
    """Paths and shapes of a prepared set; arrays are read when they are asked for: mapped, or
    into memory of their own, which is what a build is given."""

    mapped = True

    def __init__(self, name, metric, folder, has_bytes):
        self.name, self.metric, self.folder, self.has_bytes = name, metric, folder, has_bytes
        self.rows, self.dim = self.base.shape

    def load(self, what):
        return np.load(os.path.join(self.folder, what + ".npy"), mmap_mode="r" if self.mapped else None)

    @property
    def base(self):  # float32 [rows, dim]
        return self.load("base")

    @property
    def queries(self):  # float32 [queries, dim]
        return self.load("query")

    @property
    def base_bytes(self):  # uint8 [rows, dim]
        return self.load("base8")

    @property
    def queries_bytes(self):  # uint8 [queries, dim]
        return self.load("query8")

    @property
    def truth(self):  # int32 [queries, K]
        return self.load("truth")

    @property
    def cosine(self):
        return self.metric == "cosine"


def synthetic(dim, rows, queries, seed=1):
    """Clustered rows of low rank, as embeddings are: 1,000 centres of very unequal weight in a
    64-dimensional space whose axes shrink, noise around each centre, the whole turned into `dim`
    dimensions, and a little noise in all of those. It stands in for nothing in particular: read
    costs from it, not forecasts."""
    rng = np.random.default_rng(seed)
    rank, centres = 64, 1000
    axes = (np.arange(1, rank + 1) ** -0.5).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((dim, rank)))[0].T.astype(np.float32)
    centre = rng.standard_normal((centres, rank), np.float32) * axes
    weight = np.arange(1, centres + 1) ** -0.7

    def draw(n):
        at = rng.choice(centres, n, p=weight / weight.sum())
        x = (centre[at] + 0.7 * rng.standard_normal((n, rank), np.float32) * axes) @ turn
        return x + np.float32(0.01) * rng.standard_normal((n, dim), np.float32)

    return draw(rows), draw(queries)


def unit(x):
    x = x.astype(np.float32)
    return x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True).astype(np.float32)


def save(folder, what, array):
    path = os.path.join(folder, what)
    np.save(path + ".part.npy", np.ascontiguousarray(array))
    os.replace(path + ".part.npy", path + ".npy")


def prepare(name, data, cache, rows=0, queries=0, say=print):
    """Returns the Set, made if it is not there. Zero rows or queries: all."""
    if name not in NAMES:
        raise SystemExit(f"bench-peers: no set {name}; there are {' '.join(NAMES)}")
    folder = os.path.join(cache, f"{name}-{rows or 'all'}-{queries or 'all'}")
    metric = REAL.get(name, "cosine")
    done = os.path.join(folder, "truth.npy")
    if not os.path.exists(done):
        os.makedirs(folder, exist_ok=True)
        truth = None
        if name in REAL:
            source = os.path.join(data, name)
            if not os.path.exists(source + ".base.npy"):
                raise SystemExit(f"bench-peers: {source}.base.npy is not there; DATA=dir names "
                                 "the folder, or leave the set out")
            base = np.load(source + ".base.npy", mmap_mode="r")
            query = np.load(source + ".query.npy", mmap_mode="r")
            if (not rows or rows >= len(base)) and os.path.exists(source + ".gt.npy"):
                truth = np.load(source + ".gt.npy", mmap_mode="r")[:queries or None, :K]
        else:
            dim, n, q = SYNTHETIC[name]
            base, query = synthetic(dim, rows or n, queries or q)
        base, query = base[:rows or None], query[:queries or None]
        if base.dtype == np.uint8:
            save(folder, "base8", base)
            save(folder, "query8", query)
        as_float = unit if metric == "cosine" else (lambda x: x.astype(np.float32))
        base, query = as_float(base), as_float(query)
        save(folder, "base", base)
        save(folder, "query", query)
        if truth is None:
            say(f"# {name}: exact ground truth of {len(query)} queries over {len(base)} rows")
            truth = measure.nearest(metric, base, query, K)
        save(folder, "truth", truth)
    return Set(name, metric, folder, os.path.exists(os.path.join(folder, "base8.npy")))
