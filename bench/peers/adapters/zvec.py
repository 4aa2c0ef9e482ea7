"""zvec: a graph over float32 rows, and over bytes with float32 rows to rank by.

It is a database: rows are documents with ids of text, and queries are asked one at a time, also
where there are many. What turning ids to numbers takes is in its figure in batches, not in that
of single calls."""
import os
import tempfile

import zvec

from . import Index, beams, folder_bytes

zvec.init(query_threads=1, log_level=zvec.LogLevel.ERROR)

INSERTED = 1000  # documents a call


class Graph(Index):
    peer = "zvec"
    quantize = zvec.QuantizeType.UNDEFINED

    @classmethod
    def grid(cls, s):
        return [({"M": m, "efC": 200}, beams()) for m in (32, 16)]

    def __init__(self, s, params, threads):
        self.queries = s.queries
        self.home = tempfile.TemporaryDirectory()
        how = zvec.HnswIndexParam(
            metric_type=zvec.MetricType.IP if s.cosine else zvec.MetricType.L2, m=params["M"],
            ef_construction=params["efC"], quantize_type=self.quantize,
            use_contiguous_memory=True)
        row = zvec.VectorSchema("v", zvec.DataType.VECTOR_FP32, s.dim, index_param=how)
        self.rows = zvec.create_and_open(
            os.path.join(self.home.name, "rows"), zvec.CollectionSchema("rows", vectors=row),
            zvec.CollectionOption(read_only=False, enable_mmap=False))
        for first in range(0, s.rows, INSERTED):
            last = min(first + INSERTED, s.rows)
            self.rows.insert([zvec.Doc(id=str(i), vectors={"v": s.base[i]})
                              for i in range(first, last)])
        self.rows.optimize(zvec.OptimizeOption(concurrency=threads))

    def turn(self, knobs):
        self.how = zvec.HnswQueryParam(ef=knobs["ef"],
                                       is_using_refiner=self.quantize != Graph.quantize)

    def one(self, query, k):
        return self.rows.query(zvec.Query("v", vector=query, param=self.how), topk=k,
                               output_fields=[])

    def search(self, queries, k):
        return self.collect([self.one(q, k) for q in queries], len(queries), k)

    def collect(self, answers, count, k):
        return super().collect([[int(d.id) for d in a] for a in answers], count, k)

    def bytes(self, folder):
        return folder_bytes(self.home.name)


class Bytes(Graph):
    peer = "zvec-int8"
    quantize = zvec.QuantizeType.INT8


INDEXES = [Graph, Bytes]
