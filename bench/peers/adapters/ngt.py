"""NGT: its graph and tree (ANNG), refined; its quantised graphs are not built from Python."""
import os
import tempfile

import ngtpy
import numpy as np

from . import Index, folder_bytes, values


class Ngt(Index):
    peer = "ngt"

    @classmethod
    def grid(cls, s):
        epsilon = values("epsilon", -0.1, -0.05, 0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3)
        return [({"edges": n}, epsilon) for n in (10, 20, 40)]

    def __init__(self, s, params, threads):
        self.queries = s.queries
        self.folder = tempfile.TemporaryDirectory(dir=os.environ["VSHARD_BENCH_TMP"])
        self.path = self.folder.name + "/index"
        ngtpy.create(self.path, s.dim, edge_size_for_creation=params["edges"],
                     edge_size_for_search=-2, distance_type="L2",
                     object_type="Byte" if s.has_bytes else "Float16")
        self.index = ngtpy.Index(self.path, log_disabled=True)
        self.index.batch_insert(s.base, num_threads=threads)
        self.index.save()

    def turn(self, knobs):
        self.index.set(epsilon=knobs["epsilon"])

    def one(self, query, k):
        return self.index.search(query, k, with_distance=False)

    def search(self, queries, k):
        results = ngtpy.BatchResults()
        self.index.batch_search(queries, results, k, with_distance=False)
        return results.get_ids().reshape(len(queries), k)

    def bytes(self, folder):
        return folder_bytes(self.path)


INDEXES = [Ngt]
