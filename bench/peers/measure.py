"""measure.py - what a list of answers is worth: recall by distance, and speed at a recall.

Recall is judged by distance and never by row number, because equal distances may stand in any
order. An answer counts when its distance, computed again here in float64 from the rows as the
peers got them, is no farther than the true tenth neighbour is; no row counts twice.

The speed at a recall is read off a peer's own Pareto front: of its points, over all settings,
those that no other beats in both recall and speed. Between two neighbours on the front the
logarithm of the speed is taken to be a straight line of the recall. A front says nothing about
a recall above its last point: there the answer is None, printed as "-".
"""
import math

import numpy as np

BLOCK = 1 << 22  # elements widened to float64 at a time
SLACK = 1e-6     # relative: two float32 sums of one distance may differ by that much


def distances(metric, base, queries, ids):
    """Exact distances, float64 [queries, k]; +inf where an id names no row."""
    ids = np.asarray(ids)
    out = np.full(ids.shape, np.inf)
    step = max(1, BLOCK // max(1, ids.shape[1] * base.shape[1]))
    for i in range(0, len(ids), step):
        block = ids[i:i + step].astype(np.int64)
        good = (block >= 0) & (block < len(base))
        rows = base[np.where(good, block, 0)].astype(np.float64)
        query = queries[i:i + step].astype(np.float64)[:, None, :]
        if metric == "l2":
            d = np.square(rows - query).sum(axis=2)
        else:  # cosine, of rows that have length 1
            d = 1.0 - (rows * query).sum(axis=2)
        out[i:i + step] = np.where(good, d, np.inf)
    return out


def recall(ids, exact, tenth):
    """The share of the k nearest that was found, 0..1.

    ids    [queries, k] as a peer gave them, in any order, -1 where it had none
    exact  [queries, k] their distances
    tenth  [queries] the distance of the true k-th neighbour
    """
    ids = np.asarray(ids).astype(np.int64)
    order = np.argsort(ids, axis=1, kind="stable")
    ids, exact = np.take_along_axis(ids, order, 1), np.take_along_axis(exact, order, 1)
    first = np.ones(ids.shape, bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    limit = (tenth + SLACK * (np.abs(tenth) + 1e-3))[:, None]
    return float((first & (exact <= limit)).mean())


def front(points):
    """The Pareto front of (recall, qps, ...) tuples, by rising recall and falling speed."""
    best, out = -1.0, []
    for p in sorted(points, key=lambda p: (-p[0], -p[1])):
        if p[1] > best:
            best = p[1]
            out.append(p)
    return out[::-1]


def qps_at(points, target):
    """QPS at a recall on the points' front, or None where it never gets there."""
    line = front(points)
    if not line or line[-1][0] < target:
        return None
    for low, high in zip(line, line[1:]):
        if low[0] < target <= high[0]:
            t = (target - low[0]) / (high[0] - low[0])
            return math.exp((1 - t) * math.log(low[1]) + t * math.log(high[1]))
    return line[0][1]  # every point is at or above the target: at least this fast


def point_at(points, target):
    """The fastest measured point whose recall is at least the target, or None."""
    good = [p for p in points if p[0] >= target]
    return max(good, key=lambda p: p[1]) if good else None


def nearest(metric, base, queries, k):
    """Rows of the k nearest, int32 [queries, k], nearest first, exact.

    Blocks of float32 products choose 3k + 16 candidates a query, far more than rounding can
    misplace; float64 decides between them.
    """
    keep = min(3 * k + 16, len(base))
    out = np.empty((len(queries), k), np.int32)
    for i in range(0, len(queries), 256):
        q = queries[i:i + 256].astype(np.float32)
        ids, scores = np.empty((len(q), 0), np.int64), np.empty((len(q), 0), np.float32)
        for j in range(0, len(base), 1 << 16):
            rows = base[j:j + (1 << 16)].astype(np.float32)
            s = -(q @ rows.T)
            if metric == "l2":
                s = 2 * s + np.square(rows).sum(axis=1)
            some = np.argpartition(s, min(keep, s.shape[1]) - 1, axis=1)[:, :keep]
            ids = np.concatenate([ids, some + j], axis=1)
            scores = np.concatenate([scores, np.take_along_axis(s, some, 1)], axis=1)
            some = np.argpartition(scores, keep - 1, axis=1)[:, :keep] \
                if scores.shape[1] > keep else np.arange(scores.shape[1])[None].repeat(len(q), 0)
            ids, scores = np.take_along_axis(ids, some, 1), np.take_along_axis(scores, some, 1)
        d = distances(metric, base, q, ids)
        order = np.lexsort((ids, d), axis=1)[:, :k]
        out[i:i + 256] = np.take_along_axis(ids, order, 1)
    return out
