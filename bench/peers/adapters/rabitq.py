"""RaBitQ's library: SymphonyQG, a graph with its neighbours' codes in each row, and inverted
lists with codes of some bits, or of one bit and full rows (bits = 32)."""
import os

import numpy as np
import rabitqlib

from . import Index, power_of_two, values


class Rabitq(Index):
    one_rank = 2

    def bytes(self, folder):
        self.index.save(folder + "/index")
        return os.path.getsize(folder + "/index")


class SymphonyQG(Rabitq):
    """On L2: of rows of length 1 the nearest by angle are the nearest by L2."""
    peer = "rabitq-symqg"

    @classmethod
    def grid(cls, s):
        ef = values("ef", 10, 20, 30, 45, 60, 75, 100, 140, 190, 260, 360, 500, 700, 1000)
        best = (64, 300) if s.name == "glove100" else (32, 200)
        other = (32, 200) if best[0] == 64 else (64, 200)
        return [({"R": r, "efC": c}, ef) for r, c in (best, other)]

    def __init__(self, s, params, threads):
        self.queries = s.queries
        self.index = rabitqlib.SymqgIndex(s.dim, params["R"], metric="l2")
        self.index.build(s.base, params["efC"], num_threads=threads)

    def turn(self, knobs):
        self.ef = knobs["ef"]

    def search(self, queries, k):
        return self.index.search_batch(queries, k, self.ef, num_threads=1)[0]

    def one(self, query, k):
        return self.index.search(query, k, self.ef, num_threads=1)[0]


class Ivf(Rabitq):
    peer = "rabitq-ivf"

    @classmethod
    def grid(cls, s):
        nlist = power_of_two(3.6 * s.rows ** 0.5)
        bits = (7, 32) if s.has_bytes else (32, 7)
        steps = [k for k in values("nprobe", 4, 8, 16, 24, 40, 64, 100, 150, 220, 320, 480, 700)
                 if k["nprobe"] <= nlist]
        return [({"nlist": nlist, "bits": b}, steps) for b in bits]

    def __init__(self, s, params, threads):
        self.queries = s.queries
        base = s.base
        means = rabitqlib.RaBitQKMeans(s.dim, params["nlist"], num_threads=threads, seed=1)
        means.train(base)
        self.index = rabitqlib.IvfIndex(s.dim, s.rows, params["nlist"], params["bits"], metric="l2")
        self.index.build(base, means.centroids, means.assignments, num_threads=threads)

    def turn(self, knobs):
        self.nprobe = knobs["nprobe"]

    def search(self, queries, k):
        return self.index.search(queries, k, self.nprobe, num_threads=1)[0]


INDEXES = [SymphonyQG, Ivf]
