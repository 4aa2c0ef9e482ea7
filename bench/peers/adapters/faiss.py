"""faiss: inverted lists of 4-bit codes scanned in registers and refined, a graph, and scans."""
import os

import faiss


from . import Index, power_of_two, values


def pairs(nprobe_and_more):
    return [{"nprobe": n, "kf": kf} for n, kf in nprobe_and_more]


class Faiss(Index):
    one_rank = 2

    def factory(self, s, params):
        raise NotImplementedError

    def __init__(self, s, params, threads):
        faiss.omp_set_num_threads(threads)
        self.queries = s.queries
        self.index = faiss.index_factory(
            s.dim, self.factory(s, params),
            faiss.METRIC_INNER_PRODUCT if s.cosine else faiss.METRIC_L2)
        self.started(params)
        base = s.base
        self.index.train(base)
        self.index.add(base)

    def started(self, params):
        pass

    def one_thread(self):
        faiss.omp_set_num_threads(1)

    def search(self, queries, k):
        return self.index.search(queries, k)[1]

    def bytes(self, folder):
        faiss.write_index(self.index, folder + "/index")
        return os.path.getsize(folder + "/index")


class IvfPqFastScan(Faiss):
    """Refined on full rows, or on bytes where the set has bytes: exact in both cases."""
    peer = "faiss-ivfpqfs"

    @classmethod
    def grid(cls, s):
        many = power_of_two((3.6 if s.name == "minilm384" else 1.8) * s.rows ** 0.5)
        refine = "sq8" if s.has_bytes else "f32"
        steps = pairs([(4, 4), (8, 6), (16, 8), (24, 10), (32, 10), (40, 12), (48, 12), (60, 20),
                       (75, 24), (100, 24), (150, 32), (220, 48), (320, 64), (450, 96)])
        steps = [k for k in steps if k["nprobe"] <= many]
        return [({"nlist": n, "refine": refine}, steps) for n in (many, many * 2)]

    def factory(self, s, params):
        return f"IVF{params['nlist']},PQ{s.dim // 2}x4fs," + (
            "Refine(SQ8_direct)" if params["refine"] == "sq8" else "RFlat")

    def turn(self, knobs):
        refine = faiss.downcast_index(self.index)
        refine.k_factor = knobs["kf"]
        faiss.extract_index_ivf(refine.base_index).nprobe = knobs["nprobe"]


class IvfFlat(Faiss):
    peer = "faiss-ivfflat"

    @classmethod
    def grid(cls, s):
        nlist = power_of_two(1.8 * s.rows ** 0.5)
        return [({"nlist": nlist}, [
            k for k in values("nprobe", 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 400)
            if k["nprobe"] <= nlist])]

    def factory(self, s, params):
        return f"IVF{params['nlist']},Flat"

    def turn(self, knobs):
        faiss.extract_index_ivf(self.index).nprobe = knobs["nprobe"]


class Hnsw(Faiss):
    peer = "faiss-hnsw"

    @classmethod
    def grid(cls, s):
        ef = values("ef", 10, 20, 32, 48, 64, 96, 128, 192, 256, 400, 600, 900)
        codes = "sq8_direct" if s.has_bytes else "sq8"
        return [({"M": 32, "efC": 200, "codes": c}, ef) for c in ("f32", codes)]

    def factory(self, s, params):
        return f"HNSW{params['M']}" + {"f32": ",Flat", "sq8": ",SQ8",
                                       "sq8_direct": ",SQ8_direct"}[params["codes"]]

    def started(self, params):
        self.index.hnsw.efConstruction = params["efC"]

    def turn(self, knobs):
        self.index.hnsw.efSearch = knobs["ef"]


class Flat(Faiss):
    peer = "faiss-flat"

    @classmethod
    def grid(cls, s):
        return [({}, [{}])]

    def factory(self, s, params):
        return "Flat"


INDEXES = [IvfPqFastScan, Hnsw, IvfFlat, Flat]
