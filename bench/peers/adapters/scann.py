"""ScaNN: a tree, anisotropic 4-bit codes, and a second look at full rows."""
import math

import scann

from . import Index, folder_bytes


class Scann(Index):
    peer = "scann"

    @classmethod
    def grid(cls, s):
        root = s.rows ** 0.5
        aniso = {"aniso": 0.2} if s.cosine else {}
        settings = [{"leaves": round(3.5 * root)} | aniso, {"leaves": round(1.8 * root)} | aniso]
        if s.cosine:
            settings.append({"leaves": round(1.8 * root), "soar": 1.5} | aniso)
        if s.name == "minilm384":
            settings.reverse()
        steps = [(6, 30), (12, 50), (24, 80), (36, 120), (50, 120), (80, 120), (110, 150),
                 (150, 200), (220, 300), (320, 450), (480, 700), (700, 1000)]
        return [(p, [{"leaves": n, "re": r} for n, r in steps if n <= p["leaves"]])
                for p in settings]

    def __init__(self, s, params, threads):
        self.queries = s.queries
        builder = scann.scann_ops_pybind.builder(
            s.base, 10, "dot_product" if s.cosine else "squared_l2")
        builder.set_n_training_threads(threads)
        self.index = builder.tree(
            num_leaves=params["leaves"], num_leaves_to_search=10,
            training_sample_size=min(s.rows, 250000), soar_lambda=params.get("soar"),
        ).score_ah(2, anisotropic_quantization_threshold=params.get("aniso", math.nan),
                   training_sample_size=min(s.rows, 100000)).reorder(100).build()

    def turn(self, knobs):
        self.knobs = {"leaves_to_search": knobs["leaves"],
                      "pre_reorder_num_neighbors": knobs["re"]}

    def search(self, queries, k):
        return self.index.search_batched(queries, final_num_neighbors=k, **self.knobs)[0]

    def one(self, query, k):
        return self.index.search(query, final_num_neighbors=k, **self.knobs)[0]

    def bytes(self, folder):
        self.index.serialize(folder)
        return folder_bytes(folder)


INDEXES = [Scann]
