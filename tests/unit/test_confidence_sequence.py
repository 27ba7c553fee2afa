"""Bounds that hold at every look: exact values, their promise under constant peeking, and what a fixed bound does there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln

from tasks.domain.confidence_sequence import Sketch, mean_bounds, quantile_exceeds, rank_bounds


@given(count=st.integers(1, 5000), share=st.floats(0, 1), alpha=st.sampled_from([0.3, 0.05, 1e-4]))
def test_a_bound_is_where_the_mixture_passes_one_in_alpha(count: int, share: float, alpha: float) -> None:
    hits = round(share * count)
    lower, upper = mean_bounds(hits, count, alpha)
    assert 0 <= lower <= hits / count <= upper <= 1
    mixture = betaln(hits + 0.5, count - hits + 0.5) - betaln(0.5, 0.5)
    for edge in {lower, upper} - {0.0, 1.0}:
        ratio = mixture - hits * math.log(edge) - (count - hits) * math.log1p(-edge)
        near = hits / edge * 2**-27  # bounds are found to so many digits, and tiny ones matter most
        assert ratio == pytest.approx(-math.log(alpha), abs=1e-3 + near)


def test_without_data_anything_is_possible() -> None:
    assert mean_bounds(0, 0, 0.05) == (0.0, 1.0)
    assert rank_bounds(0, 0.5, 0.05) == (0, 1)
    assert Sketch().quantile_bounds(0.5, 0.05) == (-math.inf, math.inf)


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_looking_after_every_request_is_paid_for(rate: float) -> None:
    """400 streams, looked at 600 times each: the true rate leaves its bounds in 5 % of them at most. The 95 % bounds of a
    fixed sample, looked at as often, leave it several times as often: this is why they are not used."""
    alpha, streams, looks = 0.05, 400, 600
    random = np.random.default_rng(7)
    hits = (random.random((streams, looks)) < rate).cumsum(axis=1)
    counts = np.arange(1, looks + 1)
    ratio = betaln(hits + 0.5, counts - hits + 0.5) - betaln(0.5, 0.5)
    ratio -= hits * math.log(rate) + (counts - hits) * math.log1p(-rate)
    ours = (ratio > -math.log(alpha)).any(axis=1).mean()
    share = hits / counts
    width = 1.96 * np.sqrt(share * (1 - share) / counts)
    naive = ((np.abs(share - rate) > width) & (counts >= 30) & (hits > 0)).any(axis=1).mean()
    assert ours <= alpha + 0.01 < 4 * alpha < naive


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.sampled_from([0.05, 0.5, 0.95]))
def test_a_quantile_of_a_sketch_is_that_of_the_values(values: list[float], q: float) -> None:
    sketch = Sketch.of(values)
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert sketch.quantile(q) == pytest.approx(exact, rel=0.02, abs=2e-6)


@given(count=st.integers(1, 3000), q=st.sampled_from([0.05, 0.5, 0.95, 0.99]), alpha=st.sampled_from([0.2, 1e-5]))
def test_ranks_lie_on_both_sides_of_the_quantile(count: int, q: float, alpha: float) -> None:
    lower, upper = rank_bounds(count, q, alpha)
    assert 0 <= lower <= count * q <= upper <= count + 1
    tighter = rank_bounds(count, q, 0.5)
    assert lower <= tighter[0] and tighter[1] <= upper


def test_quantile_bounds_cover_at_all_looks() -> None:
    random, left = np.random.default_rng(3), 0
    for _ in range(150):
        sketch, out = Sketch(), False
        for number, value in enumerate(random.lognormal(2, 1, 400)):
            sketch.add(float(value))
            if number % 20 == 19:
                lower, upper = sketch.quantile_bounds(0.5, 0.05)
                out = out or not lower <= math.exp(2) <= upper
        left += out
    assert left <= 150 * 0.05


def test_a_quantile_exactly_at_what_is_allowed_is_rarely_called_above_it() -> None:
    """100 pairs of streams with bursts that hit both, 30 looks: at the edge of the rule, 20 % may be wrong."""
    random, wrong = np.random.default_rng(11), 0
    for _ in range(100):
        ours, theirs = Sketch(), Sketch()
        for _ in range(30):
            slow = 3.0 if random.random() < 0.03 else 1.0
            for sketch, factor in ((ours, 1.5), (theirs, 1.0)):
                for value in random.lognormal(2, 0.4, 25) * slow * factor:
                    sketch.add(float(value))
            if quantile_exceeds(ours, theirs, 0.9, lambda base: 1.5 * base, 0.2):
                wrong += 1
                break
    assert wrong <= 20


def test_a_slow_tail_is_seen_before_two_bounds_clear_each_other() -> None:
    """2 % of ours take ten times as long. Bounds of the p99 that share alpha still overlap with 3,500 values of each."""
    random, alpha = np.random.default_rng(5), 1e-4
    values = random.lognormal(1.8, 0.35, (2, 3500))
    ours, theirs = Sketch.of(values[0] * np.where(np.arange(3500) % 50, 1, 10)), Sketch.of(values[1])
    assert ours.quantile_bounds(0.99, alpha / 2)[0] < 1.6 * theirs.quantile_bounds(0.99, alpha / 2)[1]
    assert quantile_exceeds(ours, theirs, 0.99, lambda base: 1.6 * base, alpha)


@given(st.lists(st.floats(0.1, 1e4), max_size=60), st.integers(1, 40), st.sampled_from([0.5, 0.95, 0.99]))
def test_what_is_not_slower_never_exceeds(values: list[float], times: int, q: float) -> None:
    """Also where many values are equal, and however many there are."""
    theirs = Sketch.of(values * times)
    assert not quantile_exceeds(Sketch.of(values * times), theirs, q, lambda base: base, 0.01)
    assert not quantile_exceeds(Sketch.of([value / 2 for value in values] * times), theirs, q, lambda base: base, 0.01)
    assert not quantile_exceeds(Sketch(), theirs, q, lambda base: base, 0.01)
