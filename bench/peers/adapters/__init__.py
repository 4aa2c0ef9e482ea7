"""adapters - the peers, one file each.

A file has a list INDEXES of classes, each one way that a library has of indexing:

    peer                  the name in tables; the file's name, or that and a dash and more
    grid(set)             [(params, [knobs, ...]), ...]: build settings, the best known first, and
                          for each what is turned to find more, from fast to thorough. params and
                          knobs are dicts. Empty where the peer cannot index the set
    __init__(set, params, threads)  builds
    one_thread()          called once before the first search; here if the index needs telling
    turn(knobs)           called before searches, not timed
    queries               the queries in the type the peer wants; set by __init__
    search(queries, k)    all in one call -> ids [queries, k]
    calls(queries, k)     -> what one() is given for each query, made before time is taken: a row
                          or, where the peer insists on a matrix (one_rank = 2), one of one row
    one(call, k)          one call -> ids, or anything that collect() makes ids of
    collect(answers, ..)  -> ids [queries, k] of what one() returned, after time is taken
    bytes(folder)         memory that searches need, full-precision rows included; `folder` is
                          empty and may be written to
"""
import os

import numpy as np

# In the order of the tables; by the name of the module here.
ALL = ["vshard", "faiss", "hnswlib", "usearch", "scann", "svs", "rabitq", "vsag", "ngt", "voyager",
       "zvec"]


class Index:
    one_rank = 1

    def one_thread(self):
        pass

    def turn(self, knobs):
        pass

    def calls(self, queries, k):
        many = self.one_rank == 2
        return [queries[i:i + 1] if many else queries[i] for i in range(len(queries))]

    def one(self, call, k):
        return self.search(call, k)

    def collect(self, answers, count, k):
        """-1 where a peer had no answer."""
        out = np.full((count, k), -1, np.int64)
        for i, a in enumerate(answers):
            a = np.asarray(a).reshape(-1)[:k]
            out[i, :len(a)] = a.astype(np.int64)
        return out


def folder_bytes(folder):
    """Bytes of all files under a folder."""
    return sum(os.path.getsize(os.path.join(at, f)) for at, _, files in os.walk(folder)
               for f in files)


def power_of_two(x):
    return 1 << max(4, round(float(np.log2(x))))


def values(name, *them):
    return [{name: v} for v in them]


def beams():
    """Of a graph over rows as they are, from fast to thorough."""
    return values("ef", 10, 20, 30, 40, 60, 80, 120, 180, 260, 400, 600, 900, 1300)
