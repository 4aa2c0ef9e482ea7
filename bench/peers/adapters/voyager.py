"""Voyager: a descendant of hnswlib, on float32."""
import os

import numpy as np
import voyager

from . import Index, beams


class Voyager(Index):
    peer = "voyager"

    @classmethod
    def grid(cls, s):
        return [({"M": m, "efC": 200}, beams()) for m in (16, 32)]

    def __init__(self, s, params, threads):
        self.queries = s.queries
        space = voyager.Space.InnerProduct if s.cosine else voyager.Space.Euclidean
        self.index = voyager.Index(space, s.dim, M=params["M"], ef_construction=params["efC"],
                                   max_elements=s.rows)
        self.index.add_items(s.base, num_threads=threads)

    def turn(self, knobs):
        self.ef = knobs["ef"]

    def search(self, queries, k):
        return self.index.query(queries, k, num_threads=1, query_ef=self.ef)[0]

    def bytes(self, folder):
        self.index.save(folder + "/index")
        return os.path.getsize(folder + "/index")


INDEXES = [Voyager]
