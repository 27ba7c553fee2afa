"""The paired bootstrap and Holm's correction, against numbers one can work out by hand or by a plain loop."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tasks.domain import statistics
from tasks.domain.statistics import holm, paired_difference, paired_differences, resampled_means

ROOT = Path(__file__).parents[2]


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


def drawn_by_a_plain_loop(users, seed, resamples):
    draws = np.random.default_rng(seed).integers(0, users, size=(resamples, users), dtype=np.int32)
    return [[int((row == user).sum()) for user in range(users)] for row in draws]


def test_the_matrix_product_equals_a_plain_loop_with_exact_fractions():
    rng = np.random.default_rng(3)
    sums, counts = rng.integers(-9, 9, (7, 2)).astype(float), rng.integers(1, 5, (7, 2)).astype(float)
    fast = resampled_means(sums, counts, seed=9, resamples=50)
    for got, times in zip(fast, drawn_by_a_plain_loop(7, 9, 50), strict=True):
        for column in (0, 1):
            top = sum(w * Fraction(s) for w, s in zip(times, sums[:, column], strict=True))
            bottom = sum(w * Fraction(c) for w, c in zip(times, counts[:, column], strict=True))
            assert got[column] == float(top / bottom)


def slates(columns=3, users=60, seed=5):
    rng = np.random.default_rng(seed)
    user = np.concatenate([np.arange(users), rng.integers(0, users, 4 * users)])
    champion = rng.random((len(user), columns))
    candidate = champion + rng.normal(0, 0.1, champion.shape)
    outside = rng.random(champion.shape) < 0.3
    outside[:, 0] = False
    return user, np.where(outside, np.nan, champion), np.where(outside, np.nan, candidate)


def bounds(user, champion, candidate, **told):
    return paired_differences(user, champion, candidate, seed=7, allowed_loss=[0.01] * champion.shape[1], **told)


def test_all_columns_at_once_say_what_each_says_alone():
    user, champion, candidate = slates()
    together = bounds(user, champion, candidate, resamples=400)
    for n, found in enumerate(together):
        one = slice(n, n + 1)
        # a user without a slate of the slice is still drawn, so that all columns see the same resamples
        assert bounds(user, champion[:, one], candidate[:, one], resamples=400) == [found]
    assert together[1].slates < together[0].slates == len(user)
    assert together[1].difference == pytest.approx(np.nanmean((candidate - champion)[:, 1]), abs=1e-12)


def test_neither_the_order_of_slates_nor_the_block_size_changes_a_bit(monkeypatch):
    user, champion, candidate = slates()
    found = bounds(user, champion, candidate, resamples=400)
    order = np.random.default_rng(1).permutation(len(user))
    assert bounds(user[order], champion[order], candidate[order], resamples=400) == found
    monkeypatch.setattr(statistics, "BLOCK_CELLS", 777)
    assert bounds(user, champion, candidate, resamples=400) == found


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_the_number_of_threads_changes_no_bit(threads):
    program = (
        "from tests.unit.test_statistics import bounds, slates\n"
        "print(repr(bounds(*slates(columns=40, users=900), resamples=2000)))"
    )
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = dict(os.environ) | dict.fromkeys(names, threads)
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert told.stdout.strip() == repr(bounds(*slates(columns=40, users=900), resamples=2000)), told.stderr


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rounding_to_whole_numbers_costs_nothing_at_any_scale(scale):
    user, champion, candidate = slates()
    plain, scaled = (bounds(user, champion * s, candidate * s, resamples=300) for s in (1.0, scale))
    assert [one.lower * scale for one in plain] == pytest.approx([one.lower for one in scaled], rel=1e-9)


def test_half_a_pair_is_refused():
    user, champion, candidate = slates()
    candidate[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        bounds(user, champion, candidate)


@pytest.mark.parametrize("bad", [np.array([0.1, np.nan]), np.array([0.1, np.inf]), np.array([0.1])])
def test_broken_evidence_is_refused(bad):
    with pytest.raises(ValueError):
        paired_difference(np.arange(2), np.array([0.1, 0.2]), bad, seed=0)


def test_no_slates_is_refused():
    with pytest.raises(ValueError, match="no slates"):
        paired_difference(np.array([], int), np.array([]), np.array([]), seed=0)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
