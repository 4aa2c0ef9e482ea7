"""usearch: a graph on rows of 16 bits (exact for bytes), or of 8 where the metric is cosine."""
import os

import numpy as np
from usearch.index import Index as Usearch

from . import Index, values


class UsearchIndex(Index):
    peer = "usearch"

    @classmethod
    def grid(cls, s):
        ef = values("ef", 10, 20, 30, 40, 60, 80, 120, 180, 260, 400, 600, 900)
        types = ("f16", "i8") if s.cosine else ("f16",)
        return [({"M": m, "efC": 200, "dtype": t}, ef) for m in (32, 16) for t in types]

    def __init__(self, s, params, threads):
        self.queries = s.queries
        self.index = Usearch(ndim=s.dim, metric="cos" if s.cosine else "l2sq",
                             dtype=params["dtype"], connectivity=params["M"],
                             expansion_add=params["efC"])
        self.index.add(np.arange(s.rows, dtype=np.uint64), s.base,
                       threads=threads)

    def turn(self, knobs):
        self.index.expansion_search = knobs["ef"]

    def search(self, queries, k):
        return self.index.search(queries, k, threads=1).keys

    def bytes(self, folder):
        self.index.save(folder + "/index")
        return os.path.getsize(folder + "/index")


INDEXES = [UsearchIndex]
