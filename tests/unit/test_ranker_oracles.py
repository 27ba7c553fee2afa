"""The fast ways through arrays and neighbours against the plain ones that they replaced."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ranker import neighbours
from tasks.ranker.arrays import Groups, top
from tasks.ranker.neighbours import Neighbours
from tests.ranker_builders import DAY, a_log

codes = st.lists(st.integers(0, 2**20), max_size=200).map(lambda drawn: np.array(drawn, np.int32))
scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]), max_size=80).map(
    lambda drawn: np.array(drawn, np.float32)
)


@given(codes)
def test_groups_keep_the_order_of_equal_codes(drawn):
    groups = Groups(drawn)
    np.testing.assert_array_equal(groups.order, np.argsort(drawn, kind="stable"))
    keys, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(groups.keys, keys)
    np.testing.assert_array_equal(groups.counts, counts)


@given(scores, st.integers(0, 90))
def test_top_is_the_head_of_a_stable_sort(drawn, k):
    np.testing.assert_array_equal(top(drawn, k), np.argsort(-drawn, kind="stable")[:k])


def plainly(log, day, pool, user, row_of, size):
    """One user at a time, one neighbour at a time."""
    rates = {}
    for other in pool:
        mine = (log.user == other) & (log.day < day)
        trips = np.unique(log.day[mine])[-neighbours.RECENT_TRIPS :]
        rates[other] = np.zeros(len(row_of))
        for line_day, item in zip(log.day[mine], log.item[mine], strict=True):
            rates[other][item] += (line_day in trips) / max(len(trips), 1)
    norm = {other: max(np.linalg.norm(rate), 1e-9) for other, rate in rates.items()}
    similarity = {other: rates[user] @ rates[other] / norm[user] / norm[other] for other in pool if other != user}
    best = sorted(similarity, key=lambda other: -similarity[other])[: neighbours.NEIGHBOURS]
    weight = {other: similarity[other] ** neighbours.SHARPNESS for other in best}
    total = sum(weight.values())
    scores = np.zeros(size)
    for item, row in enumerate(row_of):
        if 0 <= row < size and total > 1e-12:
            scores[row] = sum(weight[other] * rates[other][item] for other in best) / total
    return scores


lines = st.lists(
    st.tuples(st.integers(-70, 3), st.integers(0, 3), st.integers(0, 11)), min_size=1, max_size=80, unique=True
)


@settings(max_examples=60, deadline=None)
@given(lines, st.permutations(range(12)), st.integers(1, 12))
def test_similar_users_are_those_of_the_plain_count(drawn, rows, size):
    log = a_log([(DAY + day, user, item) for day, user, item in drawn])
    pool, row_of = np.array([0, 1, 3], np.int32), np.array(rows, np.int32)
    found = Neighbours(log, pool).of(pool, DAY, row_of, size)
    for (cf_rows, cf_scores), user in zip(found, pool, strict=True):
        got = np.zeros(size)
        got[cf_rows] = cf_scores[:, 0]
        assert (np.diff(cf_rows) > 0).all()
        np.testing.assert_allclose(got, plainly(log, DAY, pool, user, row_of, size), rtol=1e-4, atol=1e-6)


def test_only_the_nearest_and_the_best_are_kept(monkeypatch):
    monkeypatch.setattr(neighbours, "KEPT", 2)
    log = a_log([(DAY - 1, 0, 0), *((DAY - 1, 1, item) for item in (0, 3, 4, 5)), (DAY - 2, 1, 4)])
    users = np.arange(2, dtype=np.int32)
    (rows, scores), _ = Neighbours(log, users).of(users, DAY, np.arange(12, dtype=np.int32), 12)
    assert rows.tolist() == [0, 4], "item 4 on both trips; of the equal others the lowest row"
    assert scores[:, 0] == pytest.approx([0.5, 1.0])
