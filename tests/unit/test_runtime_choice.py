"""Another runtime than the default serves only where it gives the same answers and is shown to save a tenth of the CPU time."""

from __future__ import annotations

import pytest

from tasks.domain.runtime_choice import DEFAULT, choose

ROUNDS = 20


def rounds(*ratios, other="torch"):
    """The default takes 10 ms in each round, the other runtime `ratios` of that, repeated."""
    base = [10.0 + (n % 3) for n in range(ROUNDS)]
    return {DEFAULT: base, other: [ms * ratios[n % len(ratios)] for n, ms in enumerate(base)]}


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        pytest.param([0.8], "torch", id="a fifth cheaper in every round"),
        pytest.param([0.95], DEFAULT, id="cheaper, but by less than what a second engine is worth"),
        pytest.param([0.8, 0.8, 0.8, 1.3], "torch", id="three quarters of the rounds show it"),
        pytest.param([0.8, 1.1], DEFAULT, id="half of the rounds show nothing"),
        pytest.param([1.4], DEFAULT, id="dearer"),
    ],
)
def test_the_default_stays_unless_another_is_shown_to_be_cheaper(ratios, expected):
    chosen, trials = choose(rounds(*ratios), {})
    assert chosen == expected
    assert {trial.name for trial in trials if not trial.reason} == {expected}


def test_of_two_that_are_cheaper_the_cheapest_serves():
    found = rounds(0.8) | {"other": rounds(0.7, other="other")["other"]}
    assert choose(found, {})[0] == "other"


def test_a_refused_runtime_is_named_with_its_reason_and_without_a_time():
    chosen, trials = choose(rounds(1.0), {"other": "golden request 0 of 5 got a score"})
    refused = next(trial for trial in trials if trial.name == "other")
    assert chosen == DEFAULT and refused.cpu_ms is None and "golden request" in refused.reason


def test_the_reason_says_by_how_much():
    assert "takes 1.40 times the CPU time" in choose(rounds(1.4), {})[1][1].reason
