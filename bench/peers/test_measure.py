"""test_measure.py - the judges of recall and of speed at a recall, on cases small enough to know.

Exact distances are compared with plain sums over a few rows; the nearest with a full sort; the
rest are cases whose answer is seen by eye."""
import math
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import numpy as np  # noqa: E402

import measure  # noqa: E402


class Recall(unittest.TestCase):
    def judged(self, ids, exact, tenth):
        return measure.recall(np.array(ids), np.array(exact, float), np.array(tenth, float))

    def test_counts_what_is_no_farther_than_the_true_last(self):
        self.assertEqual(self.judged([[1, 2, 3, 4]], [[.1, .2, .3, .4]], [.25]), 0.5)

    def test_counts_another_row_at_the_same_distance(self):
        self.assertEqual(self.judged([[9, 8]], [[.1, .2]], [.2]), 1.0)

    def test_counts_no_row_twice(self):
        self.assertEqual(self.judged([[7, 7, 7, 7]], [[.1, .1, .1, .1]], [.2]), 0.25)

    def test_does_not_count_answers_that_are_missing(self):
        base, query = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:1]
        ids = np.array([[0, -1, 3, 2**40]])
        exact = measure.distances("l2", base, query, ids)
        self.assertEqual(exact[0, 0], 0.0)
        self.assertTrue(np.isinf(exact[0, 1:]).all())
        self.assertEqual(measure.recall(ids, exact, np.array([9.0])), 0.25)

    def test_forgives_rounding_and_no_more(self):
        self.assertEqual(self.judged([[1]], [[.5 * (1 + 1e-7)]], [.5]), 1.0)
        self.assertEqual(self.judged([[1]], [[.5 * (1 + 1e-5)]], [.5]), 0.0)


class Nearest(unittest.TestCase):
    def test_distances_are_plain_sums(self):
        rng = np.random.default_rng(1)
        base, query = rng.integers(0, 256, (7, 5)), rng.integers(0, 256, (3, 5))
        ids = np.array([[0, 6], [1, 5], [2, 4]])
        got = measure.distances("l2", base, query, ids)
        for q in range(3):
            for j in range(2):
                self.assertEqual(got[q, j], sum((base[ids[q, j], i] - query[q, i]) ** 2
                                                for i in range(5)), f"query {q} answer {j}")

    def test_is_a_full_sort(self):
        rng = np.random.default_rng(2)
        for metric in ("l2", "cosine"):
            for rows in (10, 11, 45, 46, 47, 300):
                base = rng.standard_normal((rows, 6)).astype(np.float32)
                query = rng.standard_normal((300, 6)).astype(np.float32)
                b, q = base.astype(float), query.astype(float)
                d = ((q[:, None] - b) ** 2).sum(2) if metric == "l2" else 1 - q @ b.T
                got = measure.nearest(metric, base, query, 10)
                kept = np.take_along_axis(d, got, 1)
                self.assertTrue(np.allclose(kept, np.sort(d, axis=1)[:, :10], atol=1e-12),
                                f"{metric}, {rows} rows")


class SpeedAtRecall(unittest.TestCase):
    def test_front_keeps_what_nothing_beats(self):
        points = [(.9, 100.), (.8, 90.), (.95, 50.), (.95, 60.), (.99, 10.), (.97, 9.)]
        self.assertEqual(measure.front(points), [(.9, 100.), (.95, 60.), (.99, 10.)])

    def test_is_log_linear_between_neighbours(self):
        points = [(.9, 1000.), (1.0, 10.)]
        self.assertAlmostEqual(measure.qps_at(points, .95), 100.0)
        self.assertAlmostEqual(math.log10(measure.qps_at(points, .925)), 2.5)

    def test_is_the_point_itself_on_a_point(self):
        points = [(.9, 1000.), (.95, 300.), (.99, 10.)]
        for r, q in points:
            self.assertAlmostEqual(measure.qps_at(points, r), q)

    def test_is_nothing_above_the_last_point(self):
        self.assertIsNone(measure.qps_at([(.9, 1000.)], .9001))
        self.assertIsNone(measure.qps_at([], .5))

    def test_is_the_fastest_where_all_find_more(self):
        self.assertEqual(measure.qps_at([(.97, 500.), (1.0, 20.)], .9), 500.0)

    def test_crosses_settings_of_one_peer(self):
        points = [(.9, 1000.), (.99, 10.), (.85, 400.), (.96, 400.)]
        self.assertAlmostEqual(measure.qps_at(points, .96), 400.0)
        self.assertEqual(measure.point_at(points, .95), (.96, 400.))


if __name__ == "__main__":
    unittest.main(verbosity=0)
