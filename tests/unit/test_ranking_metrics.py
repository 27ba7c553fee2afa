"""Hand-computed values, and what must hold of any ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, ndcg_score, roc_auc_score

from tasks.domain.ranking_metrics import (
    accuracy,
    auc,
    diversity,
    logloss,
    novelty,
    ranked_metrics,
    value_ndcg,
)

rankings = st.lists(st.booleans(), min_size=1, max_size=40)


def test_first_and_third_of_three_positives_found_in_the_top_ten():
    found = [True, False, True] + [False] * 7 + [True]  # the third positive is at place 11
    metrics = ranked_metrics(found, positives=3)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics["ndcg_at_10"] == pytest.approx((1 + 1 / math.log2(4)) / ideal)
    assert metrics["dcg_at_10"] == pytest.approx(1 + 1 / math.log2(4))
    assert metrics["recall_at_10"] == pytest.approx(2 / 3)
    assert metrics["precision_at_10"] == pytest.approx(2 / 10)
    assert metrics["f1_at_10"] == pytest.approx(2 * (2 / 3) * (2 / 10) / (2 / 3 + 2 / 10))
    assert metrics["hit_rate_at_10"] == 1.0
    assert metrics["mrr"] == 1.0


def test_a_positive_at_place_four_only():
    metrics = ranked_metrics([False, False, False, True], positives=1)
    assert metrics == pytest.approx(
        {
            "ndcg_at_10": 1 / math.log2(5),
            "dcg_at_10": 1 / math.log2(5),
            "recall_at_10": 1.0,
            "precision_at_10": 0.1,
            "f1_at_10": 2 / 11,
            "hit_rate_at_10": 1.0,
            "mrr": 0.25,
        }
    )


def test_a_positive_that_was_not_retrieved_lowers_the_ideal_never_the_gain():
    assert ranked_metrics([True], positives=2)["ndcg_at_10"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert set(ranked_metrics([False, False], positives=2).values()) == {0.0}


def test_more_than_ten_positives_can_still_reach_one():
    assert ranked_metrics([True] * 12, positives=12)["ndcg_at_10"] == pytest.approx(1.0)


@pytest.mark.parametrize("positives", [0, 1])
def test_a_slate_that_cannot_be_is_refused(positives):
    with pytest.raises(ValueError, match="at least one positive"):
        ranked_metrics([True, True], positives)


@given(rankings)
def test_metrics_lie_between_zero_and_one(found):
    positives = max(1, sum(found))
    told = ranked_metrics(found, positives)
    assert all(0 <= value <= 1 + 1e-12 for name, value in told.items() if name != "dcg_at_10")
    assert 0 <= told["dcg_at_10"] <= 4.55


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


def test_auc_counts_a_tie_as_half():
    # the positive at .7 is above .2 and level with another .7; the one at .1 is below both negatives
    scores = np.array([0.7, 0.7, 0.2, 0.1], np.float32)
    relevant = np.array([True, False, False, True])
    assert auc(scores, relevant) == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert auc(scores, np.ones(4, bool)) is None and auc(scores, np.zeros(4, bool)) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_scikit_learns(pairs):
    scores = -np.sort(-np.array([score for score, _ in pairs], np.float32))
    relevant = np.array([label for _, label in pairs])
    if len(set(relevant.tolist())) == 2:
        assert auc(scores, relevant) == pytest.approx(roc_auc_score(relevant, scores))


def test_accuracy_reads_scores_as_logits():
    scores, relevant = np.array([2.0, 0.0, -0.1, -3.0], np.float32), np.array([True, False, True, False])
    assert accuracy(scores, relevant) == 0.5 == accuracy_score(relevant, scores >= 0)


def test_value_ndcg_by_hand_and_by_scikit_learn():
    # bought: 4.00 at place two, 1.00 at place three, 2.00 not retrieved
    found, paid = np.array([0.0, 4.0, 1.0]), np.array([1.0, 2.0, 4.0])
    ideal = 4 + 2 / math.log2(3) + 1 / math.log2(4)
    assert value_ndcg(found, paid) == pytest.approx((4 / math.log2(3) + 1 / math.log2(4)) / ideal)
    ranked = np.array([3.0, 0.0, 2.0, 0.0, 1.0])
    assert value_ndcg(ranked, ranked[ranked > 0]) == pytest.approx(ndcg_score([ranked], [np.arange(5)[::-1]], k=10))
    assert value_ndcg(np.zeros(3), np.zeros(2)) is None
    assert value_ndcg(np.array([0.0, 1.0]), np.array([1.0, -5.0])) == pytest.approx(1 / math.log2(3)), "money back"


def test_diversity_is_the_mean_distance_of_all_pairs():
    vectors = np.array([[1, 0], [0, 1], [1, 0]], np.float32)  # distances 1, 0 and 1
    assert diversity(vectors) == pytest.approx(2 / 3)
    assert diversity(vectors[[0, 2]]) == pytest.approx(0)
    assert diversity(vectors[:1]) is None


def test_novelty_is_the_mean_information_in_bits():
    assert novelty(np.array([0.5, 0.125])) == pytest.approx((1 + 3) / 2)
    assert novelty(np.zeros(0)) is None
