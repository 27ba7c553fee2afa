"""Metrics of many lists: hand-computed values, and scikit-learn as a second opinion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tasks.domain.list_metrics import (
    Bin,
    calibration_error,
    coverage,
    gini,
    grouped_auc,
    reliability,
    total_auc,
)


def logit(probability):
    return np.log(probability / (1 - np.asarray(probability))).astype(np.float32)


def test_gauc_weighs_each_users_auc_by_its_scores():
    # user 1: positive above one of two negatives and level with the other -> 0.75, 3 scores; user 2: 0, 2 scores
    scores = np.array([2, 2, 1, 5, 6], np.float32)
    relevant = np.array([True, False, False, True, False])
    user = np.array([1, 1, 1, 2, 2])
    assert grouped_auc(scores, relevant, user) == (pytest.approx((0.75 * 3 + 0 * 2) / 5), 2)


def test_users_with_one_kind_of_label_say_nothing_about_order():
    scores, user = np.array([1, 2, 3, 4], np.float32), np.array([1, 1, 2, 2])
    assert grouped_auc(scores, np.array([True, True, False, True]), user) == (1.0, 1)
    assert grouped_auc(scores, np.zeros(4, bool), user) is None
    assert grouped_auc(scores[:0], np.zeros(0, bool), user[:0]) is None


def test_gauc_is_what_scikit_learn_gives_user_by_user():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 6, 600).astype(np.float32)  # many ties
    relevant, user = rng.random(600) < 0.3, rng.integers(0, 20, 600)
    found = [(roc_auc_score(relevant[user == u], scores[user == u]), (user == u).sum()) for u in range(20)]
    expected = sum(area * n for area, n in found) / 600
    assert grouped_auc(scores, relevant, user) == (pytest.approx(expected), 20)
    assert total_auc(scores, relevant) == pytest.approx(roc_auc_score(relevant, scores))


def test_the_calibration_error_of_two_bins_by_hand():
    # four say 10 % and one of them came true, four say 60 % and two of them did
    scores = logit(np.repeat([0.1, 0.6], 4))
    relevant = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    bins = reliability(scores, relevant, bins=2)
    assert [(one.predicted, one.observed, one.count) for one in bins] == [
        (pytest.approx(0.1), 0.25, 4),
        (pytest.approx(0.6), 0.5, 4),
    ]
    assert calibration_error(bins) == pytest.approx((4 * 0.15 + 4 * 0.10) / 8)


def test_predictions_that_come_true_as_often_as_they_say_have_no_error():
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.01, 0.3, 200_000)
    bins = reliability(logit(probability), rng.random(200_000) < probability)
    assert calibration_error(bins) < 0.005 and sum(one.count for one in bins) == 200_000
    assert calibration_error(reliability(logit(probability / 3), rng.random(200_000) < probability)) > 0.09


def test_bins_of_fewer_predictions_than_bins_are_not_empty():
    assert [one.count for one in reliability(logit([0.2, 0.3]), np.array([True, False]))] == [1, 1]
    with pytest.raises(ValueError, match="no prediction"):
        calibration_error(reliability(logit([]), np.zeros(0, bool)))


def test_gini_of_exposure():
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(3 / 4)
    assert gini(np.array([3, 1])) == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="nothing was shown"):
        gini(np.zeros(3, int))


def test_coverage_is_the_share_of_the_catalogue_that_was_shown():
    assert coverage(np.array([3, 0, 1, 0])) == 0.5
    with pytest.raises(ValueError, match="catalogue is empty"):
        coverage(np.zeros(0, int))


def test_a_bin_is_plain_numbers():
    assert Bin(0.1, 0.2, 3).count == 3 and math.isfinite(calibration_error([Bin(0.1, 0.2, 3)]))
