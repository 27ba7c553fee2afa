"""Bounds of latency ratios: what they see, what they do not, and that looking often does not make them lie."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.domain.latency import ALPHA, LOOKS, NAMES, SITTING, alpha_at, is_clear, ratios, sittings_of

ENDS = [look * SITTING for look in LOOKS]


def some_times(seed, pairs=ENDS[0], load=0.0, noise=0.05):
    """(champion, candidate), equally fast but for a luck of each load, which lasts for its sitting."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(20, 0.4, pairs)
    luck = np.repeat(rng.normal(0, load, (2, pairs // SITTING)), SITTING, axis=1)
    return tuple(base * np.exp(one) * rng.lognormal(0, noise, pairs) for one in luck)


def named(rows):
    return {row.name: row for row in rows}


def test_the_errors_of_all_looks_add_up_to_the_promised_one():
    assert sum(map(alpha_at, ENDS)) == pytest.approx(ALPHA)
    assert alpha_at(ENDS[-1]) == pytest.approx(ALPHA / 2), "the last look, which most need, keeps the most"
    assert alpha_at(300) == alpha_at(ENDS[0])


def test_a_slower_tail_is_told_from_an_equal_one():
    champion, candidate = some_times(0, ENDS[-1])
    slow = candidate * np.where(candidate > np.quantile(candidate, 0.9), 1.1, 1.0)
    rows = named(ratios(champion, slow, champion, slow, 1))
    assert rows["p50"].lower < 1 < rows["p50"].upper
    assert rows["p95"].lower > 1.05 and rows["p99"].lower > 1.05
    assert rows["cpu"].lower > 1.0, "the mean has the tail in it"
    assert set(rows) == set(NAMES)


def test_equal_times_have_a_ratio_of_one_without_a_doubt():
    champion, _ = some_times(1)
    for row in ratios(champion, champion, champion, champion, 1):
        assert (row.ratio, row.lower, row.upper) == (1.0, 1.0, 1.0)


def test_a_quantile_with_too_few_pairs_beyond_it_is_not_told():
    champion, candidate = some_times(2)
    assert "p99" in named(ratios(champion, candidate, champion, candidate, 1))
    assert "p99" not in named(ratios(champion[:900], candidate[:900], champion, candidate[:900], 1))
    assert set(named(ratios(champion, candidate, champion, candidate, 1, ["cpu"]))) == {"cpu"}


def test_the_luck_of_a_load_widens_the_bounds_though_the_pairs_agree():
    """Pairs of one sitting share it: taken as independent they would be sure of a difference that another load turns round."""
    steady, lucky = (some_times(3, load=load, noise=0.001) for load in (0.0, 0.02))
    widths = [(row := ratios(*pair, *pair, 1, ["p50"])[0]).upper - row.lower for pair in (steady, lucky)]
    assert widths[1] > 4 * widths[0]


def test_looking_four_times_blames_an_equal_candidate_no_oftener_than_promised():
    """At the limit itself, where every look is a temptation: limit 1, equal systems, luck of loads included."""
    blamed = 0
    for seed in range(60):
        champion, candidate = some_times(100 + seed, ENDS[-1], load=0.01)
        rows = [ratios(champion[:n], candidate[:n], champion, candidate[:n], seed, ["p95"])[0] for n in ENDS]
        blamed += any(row.lower > 1 for row in rows)
    assert blamed <= 7, "3 of 60 are promised; more than 7 have a chance of 1 in 50"


def test_sittings_are_whole_and_a_short_pool_is_cut_into_parts():
    assert np.bincount(sittings_of(ENDS[1])).tolist() == [SITTING] * LOOKS[1]
    assert len(np.unique(sittings_of(300))) == LOOKS[0]
    assert np.unique(sittings_of(5)).tolist() == [0, 1, 2, 3, 4]


def test_clear_is_within_every_limit_or_beyond_one():
    champion, candidate = some_times(5)
    rows = ratios(champion, candidate, champion, candidate, 1)
    assert is_clear(rows, {"p50": 1.2, "p99": 1.5})
    assert is_clear(rows, {"p50": 0.5, "p99": 1.001}), "harm in one settles it"
    assert not is_clear(rows, {"p50": 1.2, "p99": 1.001})
    assert not is_clear([row for row in rows if row.name != "p99"], {"p50": 1.2, "p99": 1.5}), "not told is not clear"
