"""Which way a refresh goes, and which day it is about."""

from __future__ import annotations

import pytest

from tasks.adapters.store import MemoryStore
from tasks.clock import ANCHOR, drop_anchor, newest_partition, read_anchor
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Decision, Outcome, Verdict, choose
from tasks.domain.refresh import after_gate, after_validation, approvable, is_skipped, partition_of, step_options
from tasks.policies import load_policy


def a_decision(shipped: str = "none", **outcomes: str) -> Decision:
    verdicts = tuple(
        Verdict(kind=kind, outcome=Outcome(outcome), reason=f"{kind} is {outcome}", findings=())  # type: ignore[arg-type]
        for kind, outcome in outcomes.items()
    )
    return Decision(policy="demo", shipped=shipped, reason="why", needs_review=False, verdicts=verdicts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decision", "approval", "expected"),
    [
        pytest.param(a_decision("weights", weights="pass"), False, "package", id="proven weights ship"),
        pytest.param(
            a_decision("state", weights="inconclusive", state="pass"), False, "package", id="sound state ships"
        ),
        pytest.param(
            a_decision("state", weights="fail", state="pass"), True, "request_review", id="a person asked to look"
        ),
        pytest.param(a_decision(weights="fail", state="fail"), False, "report_rejection", id="refused"),
        pytest.param(
            a_decision(weights="fail", state="fail"), True, "report_rejection", id="no person can ship a failure"
        ),
        pytest.param(
            a_decision(weights="inconclusive", state="fail"), True, "report_rejection", id="nor on a bad state"
        ),
        pytest.param(
            a_decision(weights="inconclusive"), False, "report_rejection", id="inconclusive never ships by itself"
        ),
        pytest.param(
            a_decision(weights="inconclusive"), True, "request_review", id="a person may ship the inconclusive"
        ),
        pytest.param(a_decision(state="inconclusive"), True, "report_rejection", id="there are no weights to approve"),
    ],
)
def test_what_follows_the_gate(decision: Decision, approval: bool, expected: str) -> None:
    assert after_gate(decision, approval_wanted=approval) == expected


def test_only_inconclusive_weights_can_be_approved() -> None:
    assert approvable(a_decision(weights="inconclusive", state="inconclusive")) == "weights"
    assert approvable(a_decision("state", weights="inconclusive", state="pass")) is None
    assert approvable(a_decision()) is None


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("pass", "resolve_champion"),
        ("released", "resolve_champion"),
        ("empty", "nothing_to_do"),
        ("hold", "keep_champion"),
        ("refuse", "keep_champion"),
    ],
)
def test_what_follows_the_data_verdict(verdict: str, expected: str) -> None:
    assert after_validation(verdict) == expected


def test_a_data_verdict_that_nobody_knows_stops_the_run() -> None:
    with pytest.raises(InputRejected, match="known: pass, released, empty, hold, refuse"):
        after_validation("ok")


def test_the_form_wins_over_the_schedule() -> None:
    assert partition_of({"partition": "2017-07-02"}, "2026-11-21") == ("2017-07-02", True)
    assert partition_of({"partition": None}, "2026-11-21") == ("2026-11-21", False)


@pytest.mark.parametrize("given", ["2017-02-30", "../x", "2017-07-01\0", "2017-07-01\n", "today", "20170701"])
def test_a_partition_that_is_no_day_is_refused(given: str) -> None:
    with pytest.raises(InputRejected, match="YYYY-MM-DD"):
        partition_of({"partition": given}, None)
    with pytest.raises(InputRejected, match="names no partition"):
        partition_of({}, None)


def test_a_choice_that_is_the_default_does_not_make_another_key() -> None:
    assert step_options("finetune", {"recipe": None, "candidates": "both"}) == {}
    assert step_options("gate", {"recipe": "tiny", "candidates": "both"}) == {}
    assert step_options("finetune", {"recipe": "tiny", "candidates": "state"}) == {"recipe": "tiny"}
    assert step_options("gate", {"candidates": "weights"}) == {"candidates": "weights"}
    assert step_options("evaluate", {"candidates": "weights"}) == {}


def test_a_state_only_refresh_trains_nothing() -> None:
    steps = ("build_dataset", "finetune", "compress", "evaluate", "benchmark", "gate", "package")
    assert [step for step in steps if is_skipped(step, {"candidates": "state"})] == ["finetune", "compress"]
    assert not any(is_skipped(step, {"candidates": "both"}) for step in steps)


def test_the_replay_clock_counts_whole_days_from_its_anchor() -> None:
    store = MemoryStore()
    drop_anchor(store, "2026-11-21", "2017-07-01")
    assert newest_partition(store, "2026-11-21") == "2017-07-01"
    assert newest_partition(store, "2026-11-30") == "2017-07-10"
    assert newest_partition(store, "2027-05-25") == "2018-01-02"  # past the source's end: ingest says so
    assert newest_partition(store, "2026-11-20") == "2017-06-30"


def test_the_anchor_is_dropped_once() -> None:
    store = MemoryStore()
    first = drop_anchor(store, "2026-11-21", "2017-07-01")
    assert drop_anchor(store, "2026-12-24", "2017-07-01") == first == read_anchor(store)


def test_without_an_anchor_the_newest_day_is_the_one_that_is_over() -> None:
    assert newest_partition(MemoryStore(), "2026-03-01") == "2026-02-28"


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"wall": "x", "data": "2017-07-01"}', b"\xff"])
def test_a_damaged_anchor_is_refused(content: bytes) -> None:
    store = MemoryStore()
    store.put_new(ANCHOR, content)
    with pytest.raises(InputRejected, match="not a replay anchor"):
        newest_partition(store, "2026-11-21")


def test_a_run_for_weights_only_does_not_ship_state_alone() -> None:
    policy = load_policy("demo").gate
    both = a_decision(weights="inconclusive", state="pass").verdicts
    assert choose(both, policy).shipped == "state"
    assert choose(both, policy, "weights").shipped == "none"
    assert choose(a_decision(weights="pass", state="pass").verdicts, policy, "weights").shipped == "weights"
    assert choose(a_decision(weights="pass", state="fail").verdicts, policy, "weights").shipped == "none"
