"""Live evidence: what passes, what fails, and what is not enough."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.gate import Outcome
from tasks.domain.rollout_judgement import Sample, Window, judge, percentile
from tests.rollout_builders import a_policy

FAST = tuple(10.0 for _ in range(100))


def a_window(**changes: Any) -> Window:
    """A window that passes; a test names only what it is about."""
    good: dict[str, Any] = {
        "challenger": Sample(requests=100, errors=0, latencies_ms=FAST),
        "champion": Sample(requests=100, errors=0, latencies_ms=FAST),
        "paired": 100,
        "overlap_at_10": 0.8,
        "slates": 100,
    }
    return Window(**(good | changes))


def a_sample(requests: int = 100, errors: int = 0, latency_ms: float = 10.0, timings: int | None = None) -> Sample:
    count = requests if timings is None else timings
    return Sample(requests=requests, errors=errors, latencies_ms=tuple(latency_ms for _ in range(count)))


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        pytest.param(a_window(), Outcome.PASS, id="good"),
        pytest.param(a_window(challenger=a_sample(19)), Outcome.INCONCLUSIVE, id="one request too few"),
        pytest.param(
            a_window(challenger=a_sample(19, timings=100)), Outcome.INCONCLUSIVE, id="the router counted one too few"
        ),
        pytest.param(a_window(challenger=Sample()), Outcome.INCONCLUSIVE, id="no request at all"),
        pytest.param(a_window(champion=Sample()), Outcome.INCONCLUSIVE, id="no baseline"),
        pytest.param(a_window(challenger=a_sample(30, errors=1)), Outcome.INCONCLUSIVE, id="one error proves little"),
        pytest.param(a_window(challenger=a_sample(30, errors=4)), Outcome.FAIL, id="four errors of thirty"),
        pytest.param(a_window(challenger=a_sample(0, errors=4)), Outcome.FAIL, id="dead: only refused connections"),
        pytest.param(
            a_window(challenger=a_sample(errors=5), champion=a_sample(errors=5)),
            Outcome.PASS,
            id="both have the same trouble",
        ),
        pytest.param(a_window(challenger=a_sample(latency_ms=21)), Outcome.FAIL, id="slow"),
        pytest.param(a_window(challenger=a_sample(latency_ms=15)), Outcome.PASS, id="slower within the slack"),
        pytest.param(a_window(challenger=a_sample(25, latency_ms=99)), Outcome.INCONCLUSIVE, id="slow on few timings"),
        pytest.param(a_window(unusable=1), Outcome.FAIL, id="one score that is no number"),
        pytest.param(a_window(constant=90), Outcome.FAIL, id="the same score for every item"),
        pytest.param(a_window(overlap_at_10=0.1), Outcome.FAIL, id="ranks like something else"),
        pytest.param(a_window(paired=0, overlap_at_10=None), Outcome.INCONCLUSIVE, id="nothing to compare"),
        pytest.param(a_window(restarts=2), Outcome.PASS, id="crashes that are forgiven"),
        pytest.param(a_window(restarts=3), Outcome.FAIL, id="a crash loop"),
        pytest.param(
            a_window(online_ndcg={"challenger": 0.0, "champion": 0.9}, online_slates={"challenger": 9, "champion": 9}),
            Outcome.PASS,
            id="online NDCG is reported only",
        ),
    ],
)
def test_shadow_judgement(window: Window, expected: Outcome) -> None:
    assert judge(a_policy(), window, shadow=True).outcome is expected


def test_live_steps_do_not_compare_answers() -> None:
    assert judge(a_policy(), a_window(paired=0, overlap_at_10=None), shadow=False).outcome is Outcome.PASS


def test_the_reason_names_what_decided() -> None:
    judged = judge(a_policy(), a_window(unusable=2, challenger=a_sample(19)), shadow=True)
    assert judged.reason == "2 of 100 slates hold a score that is not a finite number"


@given(errors=st.integers(0, 200), more=st.integers(1, 50))
def test_more_errors_never_turn_a_fail_into_anything_better(errors: int, more: int) -> None:
    worse = judge(a_policy(), a_window(challenger=a_sample(200, errors=min(200, errors + more))), shadow=True)
    if judge(a_policy(), a_window(challenger=a_sample(200, errors=errors)), shadow=True).outcome is Outcome.FAIL:
        assert worse.outcome is Outcome.FAIL


@given(requests=st.integers(0, 19), timings=st.integers(0, 19))
def test_too_little_data_never_passes(requests: int, timings: int) -> None:
    window = a_window(challenger=a_sample(requests, timings=timings))
    assert judge(a_policy(), window, shadow=False).outcome is not Outcome.PASS


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_one_of_the_values_and_covers_its_share(values: list[float], q: float) -> None:
    found = percentile(values, q)
    assert found in values
    assert sum(value <= found for value in values) >= q * len(values) - 1e-6
