"""Live evidence: what passes, what fails, and what is not enough."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.confidence_sequence import Sketch
from tasks.domain.gate import Outcome
from tasks.domain.live_evidence import Sample, Window
from tasks.domain.rollout_judgement import judge
from tests.rollout_builders import a_policy


def a_sample(
    count: int = 300, *, latency_ms: float = 10.0, best: float = 3.0, spread: float = 2.0, **changes: Any
) -> Sample:
    """What a healthy release did; a test names only what it is about. Scores and times spread 10 % around the given."""
    around = [1 + (number % 21 - 10) / 100 for number in range(count)]
    good: dict[str, Any] = {
        "requests": count,
        "answered": count,
        "slates": count,
        "whole": count,
        "shown": count,
        "latencies_ms": Sketch.of(latency_ms * factor for factor in around),
        "best_scores": Sketch.of(best * factor for factor in around),
        "spreads": Sketch.of(spread * factor for factor in around),
    }
    return Sample(**(good | changes))


def a_window(challenger: Sample | None = None, champion: Sample | None = None, **changes: Any) -> Window:
    pairs: dict[str, Any] = {"paired": 300, "overlap": 240.0, "correlated": 300, "correlation": 150.0}
    return Window(challenger=challenger or a_sample(), champion=champion or a_sample(), **(pairs | changes))


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        pytest.param(a_window(), Outcome.PASS, id="good"),
        pytest.param(a_window(a_sample(19)), Outcome.INCONCLUSIVE, id="one request too few"),
        pytest.param(a_window(a_sample(100, requests=19)), Outcome.INCONCLUSIVE, id="the router counted one too few"),
        pytest.param(a_window(Sample()), Outcome.INCONCLUSIVE, id="no request at all"),
        pytest.param(a_window(champion=Sample()), Outcome.INCONCLUSIVE, id="no baseline"),
        pytest.param(a_window(a_sample(30, errors=1)), Outcome.PASS, id="one error of thirty proves nothing"),
        pytest.param(a_window(a_sample(30, errors=3)), Outcome.INCONCLUSIVE, id="three of thirty look bad"),
        pytest.param(a_window(a_sample(30, errors=20)), Outcome.FAIL, id="twenty errors of thirty"),
        pytest.param(a_window(a_sample(0, errors=8)), Outcome.FAIL, id="dead: only refused connections"),
        pytest.param(a_window(a_sample(0, errors=8), Sample()), Outcome.FAIL, id="dead, without a baseline"),
        pytest.param(a_window(a_sample(errors=15), a_sample(errors=15)), Outcome.PASS, id="both have the same trouble"),
        pytest.param(a_window(a_sample(3000, errors=90), a_sample(3000)), Outcome.FAIL, id="3 % errors"),
        pytest.param(a_window(a_sample(3000, timeouts=90), a_sample(3000)), Outcome.FAIL, id="3 % time out"),
        pytest.param(a_window(a_sample(3000, refused=90), a_sample(3000)), Outcome.FAIL, id="3 % are refused"),
        pytest.param(a_window(a_sample(3000, empty=90), a_sample(3000)), Outcome.FAIL, id="3 % of the lists are empty"),
        pytest.param(a_window(a_sample(3000, short=90), a_sample(3000)), Outcome.FAIL, id="3 % of the lists are short"),
        pytest.param(
            a_window(a_sample(short=300), a_sample(short=300)), Outcome.PASS, id="callers ask for short lists"
        ),
        pytest.param(a_window(a_sample(latency_ms=21)), Outcome.FAIL, id="slow"),
        pytest.param(a_window(a_sample(latency_ms=14)), Outcome.PASS, id="slower within the slack"),
        pytest.param(
            a_window(a_sample(20, latency_ms=17), a_sample(20)), Outcome.INCONCLUSIVE, id="slow on few timings"
        ),
        pytest.param(a_window(a_sample(20, latency_ms=18), a_sample(20)), Outcome.FAIL, id="all of few timings slow"),
        pytest.param(a_window(unusable=1), Outcome.FAIL, id="one score that is no number"),
        pytest.param(a_window(constant=290), Outcome.FAIL, id="the same score for every item"),
        pytest.param(a_window(overlap=30.0), Outcome.FAIL, id="ranks like something else"),
        pytest.param(a_window(overlap=87.0), Outcome.INCONCLUSIVE, id="an overlap just below proves little"),
        pytest.param(a_window(correlation=-150.0), Outcome.FAIL, id="ranks the same items in reverse"),
        pytest.param(a_window(correlated=0, correlation=0.0), Outcome.PASS, id="no common items to order"),
        pytest.param(a_window(paired=0, overlap=0.0), Outcome.INCONCLUSIVE, id="nothing to compare"),
        pytest.param(a_window(a_sample(best=9)), Outcome.FAIL, id="scores shifted"),
        pytest.param(a_window(a_sample(best=4)), Outcome.PASS, id="scores a little higher"),
        pytest.param(a_window(a_sample(spread=0.1)), Outcome.FAIL, id="scores collapsed"),
        pytest.param(a_window(restarts=2), Outcome.PASS, id="crashes that are forgiven"),
        pytest.param(a_window(restarts=3), Outcome.FAIL, id="a crash loop"),
    ],
)
def test_shadow_judgement(window: Window, expected: Outcome) -> None:
    judged = judge(a_policy(), window, shadow=True)
    assert judged.outcome is expected, judged


def test_a_tail_alone_is_seen() -> None:
    """The median is as it was; three in a hundred take eight times as long."""
    slow = Sketch.of(80.0 if number % 33 == 0 else 10.0 for number in range(6000))
    policy = a_policy(max_latency_ratio_p99=2.0, max_latency_ratio_p95=5.0)
    judged = judge(policy, a_window(a_sample(6000, latencies_ms=slow), a_sample(6000)), shadow=False)
    assert [f.name for f in judged.findings if f.outcome is Outcome.FAIL] == ["latency_p99"]


def test_kept_answers_are_compared_with_kept_ones() -> None:
    """Empty caches are no fault of a release; slow answers of either kind are."""
    champion = a_sample(100, kept_ms=Sketch.of([0.1] * 900))
    cold = a_sample(1000, kept_ms=Sketch())
    assert judge(a_policy(), a_window(cold, champion), shadow=True).outcome is Outcome.PASS
    slow = a_sample(100, kept_ms=Sketch.of([60.0] * 900))
    judged = judge(a_policy(), a_window(slow, champion), shadow=True)
    assert {f.name for f in judged.findings if f.outcome is Outcome.FAIL} >= {"latency_kept_p50"}


def test_while_it_warms_up_a_challenger_is_held_and_stopped_for_what_it_answers_only() -> None:
    slow = a_window(a_sample(3000, latency_ms=90, no_room=500))
    judged = judge(a_policy(), slow, shadow=True, warming=True)
    assert judged.outcome is Outcome.INCONCLUSIVE and "not judged yet" in judged.reason
    assert judge(a_policy(), a_window(unusable=1), shadow=True, warming=True).outcome is Outcome.FAIL
    few, many = (a_window(a_sample(3000, errors=errors), a_sample(3000)) for errors in (90, 1500))
    assert judge(a_policy(), few, shadow=True, warming=True).outcome is Outcome.INCONCLUSIVE
    assert judge(a_policy(), many, shadow=True, warming=True).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("paired", "users", "asked_by", "expected"),
    [
        pytest.param(20, 10, 20, Outcome.INCONCLUSIVE, id="20 of 1,000 requests"),
        pytest.param(199, 20, 300, Outcome.INCONCLUSIVE, id="one copy too few of so small a share"),
        pytest.param(200, 20, 300, Outcome.PASS, id="ten times as many"),
        pytest.param(200, 19, 300, Outcome.INCONCLUSIVE, id="of 19 users"),
        pytest.param(1000, 2, 4, Outcome.PASS, id="a shop with four users"),
        pytest.param(1000, 1, 4, Outcome.INCONCLUSIVE, id="a shop with four users, and copies of one"),
        pytest.param(1000, 0, 0, Outcome.PASS, id="a champion that does not tell"),
    ],
)
def test_a_shadow_is_held_until_enough_copies_of_enough_users_are_judged(
    paired: int, users: int, asked_by: int, expected: Outcome
) -> None:
    seen = {"paired": paired, "overlap": paired * 0.8, "correlated": paired, "correlation": paired * 0.5}
    # the router counts a copy that was refused, too: it is no answer
    sides = a_sample(paired, requests=1000, no_room=1000 - paired), a_sample(1000)
    window = a_window(*sides, **seen, paired_of=set(range(users)), asked_by=set(range(asked_by)))
    judged = judge(a_policy(), window, shadow=True)
    assert judged.outcome is expected, judged.reason
    assert expected is Outcome.PASS or f"{paired} of 1000 requests were copied and answered by both" in judged.reason
    assert judge(a_policy(), window, shadow=False).outcome is Outcome.PASS, "users are no copies"


def kept(count: int, worked_out: int, whole: int, kept_ms: float = 0.1) -> Sample:
    return a_sample(
        count,
        whole=whole,
        latencies_ms=Sketch.of([8.0] * worked_out),
        kept_ms=Sketch.of([kept_ms] * (count - worked_out)),
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        pytest.param(kept(300, 19, 19), kept(300, 150, 150), Outcome.INCONCLUSIVE, id="one timing too few"),
        pytest.param(kept(300, 20, 20), kept(300, 150, 150), Outcome.PASS, id="enough of both kinds"),
        pytest.param(kept(300, 150, 150), kept(300, 4, 4), Outcome.INCONCLUSIVE, id="no baseline, and not so rare"),
        pytest.param(kept(300, 150, 150), kept(300, 3, 3), Outcome.PASS, id="the champion keeps 99 of 100"),
        pytest.param(kept(300, 4, 4), kept(300, 150, 150), Outcome.INCONCLUSIVE, id="the challenger keeps much"),
        pytest.param(
            kept(300, 0, 0), kept(300, 150, 150), Outcome.PASS, id="all users of the challenger are prefetched"
        ),
        pytest.param(kept(300, 0, 0, 60.0), kept(300, 150, 150), Outcome.FAIL, id="prefetched, and slow"),
        pytest.param(
            kept(300, 150, 0), kept(300, 150, 150), Outcome.INCONCLUSIVE, id="quick, for it leaves stages out"
        ),
        pytest.param(
            kept(300, 9, 9, 60.0), kept(300, 9, 9), Outcome.FAIL, id="what is kept is slow: nothing to wait for"
        ),
    ],
)
def test_no_shadow_passes_on_kept_answers_alone(ours: Sample, theirs: Sample, expected: Outcome) -> None:
    judged = judge(a_policy(), a_window(ours, theirs), shadow=True)
    assert judged.outcome is expected, judged.reason


def test_what_was_timed_is_counted_apart_and_live_steps_judge_what_there_is() -> None:
    window = a_window(kept(300, 20, 12), kept(300, 30, 30))
    said = "timed 12 by every stage, 8 cut short, 280 kept, champion 30 by every stage, 0 cut short, 270 kept"
    assert said in judge(a_policy(), window, shadow=True).reason
    assert judge(a_policy(), window, shadow=False).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        pytest.param(
            {"told": 900, "ndcg": 90.0}, {"told": 900, "ndcg": 360.0}, Outcome.FAIL, id="users take other items"
        ),
        pytest.param({"told": 9, "ndcg": 0.0}, {"told": 9, "ndcg": 8.1}, Outcome.PASS, id="too little feedback"),
        pytest.param({"told": 0}, {"told": 900, "ndcg": 360.0}, Outcome.PASS, id="no feedback holds nothing"),
        pytest.param(
            {"shown": 3000, "converted": 30, "told": 30, "ndcg": 10.0},
            {"shown": 3000, "converted": 900, "told": 900, "ndcg": 300.0},
            Outcome.FAIL,
            id="users stop buying",
        ),
    ],
)
def test_feedback_can_stop_a_rollout(ours: dict[str, Any], theirs: dict[str, Any], expected: Outcome) -> None:
    window = a_window(a_sample(3000, **ours), a_sample(3000, **theirs))
    assert judge(a_policy(), window, shadow=False).outcome is expected


def test_live_steps_compare_answers_only_where_both_give_them() -> None:
    assert judge(a_policy(), a_window(paired=0, overlap=0.0, correlated=0), shadow=False).outcome is Outcome.PASS
    assert judge(a_policy(), a_window(overlap=30.0), shadow=False).outcome is Outcome.FAIL


def test_the_reason_names_what_decided() -> None:
    judged = judge(a_policy(), a_window(a_sample(19, slates=100), unusable=2), shadow=True)
    assert judged.reason == "2 of 100 slates hold a score that is not a finite number"


@given(errors=st.integers(0, 200), more=st.integers(1, 50))
def test_more_errors_never_turn_a_fail_into_anything_better(errors: int, more: int) -> None:
    worse = judge(a_policy(), a_window(a_sample(200, errors=min(200, errors + more))), shadow=True)
    if judge(a_policy(), a_window(a_sample(200, errors=errors)), shadow=True).outcome is Outcome.FAIL:
        assert worse.outcome is Outcome.FAIL


@given(requests=st.integers(0, 19), timings=st.integers(0, 19))
def test_too_little_data_never_passes(requests: int, timings: int) -> None:
    window = a_window(a_sample(timings, requests=requests))
    assert judge(a_policy(), window, shadow=False).outcome is not Outcome.PASS
