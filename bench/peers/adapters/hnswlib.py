"""hnswlib: the graph everybody knows, on float32."""
import os

import hnswlib

from . import Index, values


class Hnswlib(Index):
    peer = "hnswlib"
    one_rank = 2

    @classmethod
    def grid(cls, s):
        ef = values("ef", 10, 20, 30, 40, 60, 80, 120, 150, 200, 300, 450, 700, 1000, 1500)
        ms = (16, 32) if s.name in ("sift128", "minilm384") else (32, 16)
        return [({"M": m, "efC": 200}, ef) for m in ms]

    def __init__(self, s, params, threads):
        self.queries = s.queries
        self.index = hnswlib.Index(space="ip" if s.cosine else "l2", dim=s.dim)
        self.index.init_index(max_elements=s.rows, M=params["M"], ef_construction=params["efC"],
                              random_seed=1)
        self.index.add_items(s.base, num_threads=threads)

    def one_thread(self):
        self.index.set_num_threads(1)

    def turn(self, knobs):
        self.index.set_ef(knobs["ef"])

    def search(self, queries, k):
        return self.index.knn_query(queries, k=k, num_threads=1)[0]

    def bytes(self, folder):
        self.index.save_index(folder + "/index")
        return os.path.getsize(folder + "/index")


INDEXES = [Hnswlib]
