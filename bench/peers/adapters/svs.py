"""Scalable Vector Search: a Vamana graph on 16-bit floats, or on bytes.

Its compressed vectors (LVQ, LeanVec) are closed and for Intel's processors only."""
import numpy as np
import svs

from . import Index, folder_bytes, values


class Svs(Index):
    one_rank = 2

    @classmethod
    def grid(cls, s):
        w = values("w", 10, 14, 20, 28, 40, 60, 80, 120, 160, 240, 360, 540, 800)
        build = {"glove100": (64, 80, 160), "sift128": (32, 100, 200)}
        best = build.get(s.name, (32, 128, 250))
        dtype = "u8" if s.has_bytes else "f16"
        return [({"dtype": dtype, "R": r, "W": win, "C": cap}, w)
                for r, win, cap in (best, (64 if best[0] == 32 else 32, 128, 256))]

    peer = "svs"

    def __init__(self, s, params, threads):
        base = s.base_bytes if s.has_bytes else s.base.astype(np.float16)
        self.queries = s.queries_bytes if s.has_bytes else s.queries
        settings = svs.VamanaBuildParameters(
            alpha=1.2, graph_max_degree=params["R"], window_size=params["W"],
            max_candidate_pool_size=params["C"])
        # Of rows of length 1 the nearest by angle are the nearest by L2, and alpha wants L2.
        self.index = svs.Vamana.build(settings, base, svs.DistanceType.L2, num_threads=threads)

    def one_thread(self):
        self.index.num_threads = 1

    def turn(self, knobs):
        self.index.search_window_size = knobs["w"]

    def search(self, queries, k):
        return self.index.search(queries, k)[0]

    def bytes(self, folder):
        self.index.save(folder + "/config", folder + "/graph", folder + "/data")
        return folder_bytes(folder)


INDEXES = [Svs]
