"""Hand-computed values, and what must hold of any ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.ranking_metrics import logloss, lower_bound, ranked_metrics

rankings = st.lists(st.booleans(), min_size=1, max_size=40)


def test_first_and_third_of_three_positives_found_in_the_top_ten():
    found = [True, False, True] + [False] * 7 + [True]  # the third positive is at place 11
    metrics = ranked_metrics(found, positives=3)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics["ndcg_at_10"] == pytest.approx((1 + 1 / math.log2(4)) / ideal)
    assert metrics["recall_at_10"] == pytest.approx(2 / 3)
    assert metrics["hit_rate_at_10"] == 1.0
    assert metrics["mrr"] == 1.0


def test_a_positive_at_place_four_only():
    metrics = ranked_metrics([False, False, False, True], positives=1)
    assert metrics == pytest.approx(
        {"ndcg_at_10": 1 / math.log2(5), "recall_at_10": 1.0, "hit_rate_at_10": 1.0, "mrr": 0.25}
    )


def test_a_positive_that_was_not_retrieved_lowers_the_ideal_never_the_gain():
    assert ranked_metrics([True], positives=2)["ndcg_at_10"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ranked_metrics([False, False], positives=2) == {
        "ndcg_at_10": 0.0,
        "recall_at_10": 0.0,
        "hit_rate_at_10": 0.0,
        "mrr": 0.0,
    }


def test_more_than_ten_positives_can_still_reach_one():
    assert ranked_metrics([True] * 12, positives=12)["ndcg_at_10"] == pytest.approx(1.0)


@pytest.mark.parametrize("positives", [0, 1])
def test_a_slate_that_cannot_be_is_refused(positives):
    with pytest.raises(ValueError, match="at least one positive"):
        ranked_metrics([True, True], positives)


@given(rankings)
def test_metrics_lie_between_zero_and_one(found):
    positives = max(1, sum(found))
    assert all(0 <= value <= 1 + 1e-12 for value in ranked_metrics(found, positives).values())


@given(rankings, st.integers(0, 38))
def test_moving_a_positive_up_one_place_never_hurts(found, at):
    at = min(at, len(found) - 2)
    if at < 0 or found[at] or not found[at + 1]:
        return
    better = [*found[:at], True, False, *found[at + 2 :]]
    before, after = (ranked_metrics(one, sum(found)) for one in (found, better))
    assert all(after[name] >= before[name] - 1e-12 for name in before)


def test_logloss_of_a_coin_is_log_two():
    assert logloss(np.zeros(4, np.float32), np.array([True, False, True, False])) == pytest.approx(math.log(2))


def test_logloss_of_a_sure_mistake_is_finite():
    assert logloss(np.array([1e4], np.float32), np.array([False])) == pytest.approx(-math.log(1e-7))


def test_the_lower_bound_of_a_constant_difference_is_that_difference():
    assert lower_bound(np.full(20, 0.1), np.arange(20) // 2) == pytest.approx(0.1)


def test_slates_of_one_user_count_as_one():
    rng = np.random.default_rng(1)
    of_user = rng.normal(size=10)
    spread_out, together = np.arange(100), np.arange(100) // 10
    difference = np.repeat(of_user, 10)
    assert lower_bound(difference, together) < lower_bound(difference, spread_out)
