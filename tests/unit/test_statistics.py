"""The paired bootstrap and Holm's correction, against numbers one can work out by hand or by a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.domain.statistics import holm, paired_difference, quantile_ratio, resampled_means


def test_equal_systems_differ_by_exactly_nothing():
    values = np.random.default_rng(0).random(200)
    result = paired_difference(np.arange(200), values, values, seed=1, resamples=500)
    assert (result.difference, result.lower, result.upper) == (0.0, 0.0, 0.0)


def test_bounds_cover_a_known_shift_and_slates_of_one_user_count_as_one():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(100), 20)
    shift = np.repeat(rng.normal(0.05, 0.1, 100), 20)  # every slate of a user shifts alike: 100 facts, not 2,000
    champion = rng.random(2000)
    clustered = paired_difference(user, champion, champion + shift, seed=1, resamples=2000)
    naive = paired_difference(np.arange(2000), champion, champion + shift, seed=1, resamples=2000)
    assert clustered.lower < shift.mean() < clustered.upper
    assert clustered.standard_error > 3 * naive.standard_error
    assert clustered.standard_error == pytest.approx(shift[::20].std(ddof=1) / 10, rel=0.1)


def test_the_matrix_product_equals_a_plain_loop():
    rng = np.random.default_rng(3)
    sums, counts = rng.random((7, 2)), rng.integers(1, 5, (7, 2)).astype(float)
    fast = resampled_means(sums, counts, seed=9, resamples=50)
    weights = np.random.default_rng(9).multinomial(7, np.full(7, 1 / 7), size=50)
    slow = [
        [sum(w[i] * sums[i, c] for i in range(7)) / sum(w[i] * counts[i, c] for i in range(7)) for c in (0, 1)]
        for w in weights
    ]
    assert np.allclose(fast, slow)


@pytest.mark.parametrize("bad", [np.array([0.1, np.nan]), np.array([0.1, np.inf]), np.array([0.1])])
def test_broken_evidence_is_refused(bad):
    with pytest.raises(ValueError):
        paired_difference(np.arange(2), np.array([0.1, 0.2]), bad, seed=0)


def test_no_slates_is_refused():
    with pytest.raises(ValueError, match="no slates"):
        paired_difference(np.array([], int), np.array([]), np.array([]), seed=0)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_quantile_ratio_sees_a_slowdown_and_not_its_absence():
    base = np.random.default_rng(0).gamma(4, 1, 400)
    same = quantile_ratio(base, base, 0.95, seed=0)
    slow = quantile_ratio(base, base * 1.5, 0.95, seed=0)
    assert same == (1.0, 1.0, 1.0)
    assert slow[1] == pytest.approx(1.5)
