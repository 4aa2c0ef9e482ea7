"""VSAG: its hierarchical graph on 8-bit codes, and a second look at full rows.

From Python it takes one query a call, so its batch is a loop."""
import json
import os

import numpy as np
import pyvsag

from . import Index, values


class Vsag(Index):
    peer = "vsag"

    @classmethod
    def grid(cls, s):
        ef = values("ef", 10, 20, 30, 45, 60, 90, 120, 180, 260, 400, 600, 900)
        best = (48, 120) if s.name == "glove100" else (32, 200)
        return [({"base": "sq8_uniform", "reorder": "fp32", "M": best[0], "efC": best[1]}, ef)]

    def __init__(self, s, params, threads):
        self.queries = s.queries
        self.index = pyvsag.Index("hgraph", json.dumps({
            "dtype": "float32", "metric_type": "ip" if s.cosine else "l2", "dim": s.dim,
            "index_param": {
                "base_quantization_type": params["base"], "use_reorder": True,
                "precise_quantization_type": params["reorder"], "max_degree": params["M"],
                "ef_construction": params["efC"], "build_thread_count": threads,
                "hgraph_init_capacity": s.rows}}))
        self.index.build(vectors=s.base.reshape(-1),
                         ids=np.arange(s.rows, dtype=np.int64), num_elements=s.rows, dim=s.dim)

    def turn(self, knobs):
        self.knobs = json.dumps({"hgraph": {"ef_search": knobs["ef"]}})

    def one(self, query, k):
        return self.index.knn_search(vector=query, k=k, parameters=self.knobs)[0]

    def search(self, queries, k):
        out = np.full((len(queries), k), -1, np.int64)
        for i, query in enumerate(queries):
            ids = self.one(query, k)
            out[i, :len(ids)] = ids
        return out

    def bytes(self, folder):
        self.index.save(folder + "/index")
        return os.path.getsize(folder + "/index")


INDEXES = [Vsag]
