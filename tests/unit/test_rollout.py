"""The rollout's rules: when it moves, what a log means, what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.controller.log import MemoryLog
from tasks.domain import rollout_commands as commands
from tasks.domain.errors import Conflict, InputRejected
from tasks.domain.gate import Outcome
from tasks.domain.rollout import PENDING, Action, CanaryStep, Position, next_action
from tasks.domain.rollout_log import Draft, Kind
from tasks.domain.rollout_state import RolloutState, fold
from tasks.policies import load_policy
from tests.rollout_builders import NOON, A, B, C, D, a_draft, a_policy


class History:
    """A log written by commands, as the controller would."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.presses = 0

    @property
    def state(self) -> RolloutState:
        return fold(self.log.rows())

    def add(self, draft: Draft | None) -> History:
        if draft is not None:
            self.log.append(draft, expected=self.state.revision, at=NOON + timedelta(minutes=self.state.revision))
        return self

    def submit(self, release: str, kind: Any = "canary", **more: Any) -> History:
        self.presses += 1
        wish = {"op": f"op-{self.presses}", "policy": a_policy(), "actor": "test", "reason": "new"} | more
        return self.add(commands.submit(self.state, release=release, kind=kind, **wish))

    def step(self) -> History:
        assert self.state.rollout is not None
        return self.add(commands.step_forward(self.state, self.state.rollout, "passed", {}))

    def promoted(self, release: str) -> History:
        self.submit(release, "canary" if self.state.champion else "bootstrap")
        while self.state.rollout:
            self.step()
        return self

    def unfreeze(self) -> History:
        self.presses += 1
        return self.add(
            commands.freeze(self.state, op=f"op-{self.presses}", actor="on-call", reason="found it", on=False)
        )

    def roll_back(self, **more: Any) -> History:
        self.presses += 1
        return self.add(commands.roll_back(self.state, op=f"op-{self.presses}", actor="on-call", reason="bad", **more))


@pytest.mark.parametrize(
    ("step", "after_s", "outcome", "expected"),
    [
        pytest.param(0, 0, Outcome.FAIL, Action.ROLL_BACK, id="bad news acts at once"),
        pytest.param(0, 9, Outcome.PASS, Action.WAIT, id="good news waits out the bake time"),
        pytest.param(0, 10, Outcome.PASS, Action.ADVANCE, id="baked and good"),
        pytest.param(2, 10, Outcome.PASS, Action.PROMOTE, id="the last step promotes"),
        pytest.param(1, 10, Outcome.INCONCLUSIVE, Action.WAIT, id="no data holds"),
        pytest.param(1, 29, Outcome.INCONCLUSIVE, Action.WAIT, id="no data holds until the deadline"),
        pytest.param(1, 30, Outcome.INCONCLUSIVE, Action.ROLL_BACK, id="no data at the deadline is not a pass"),
        pytest.param(PENDING, 0, Outcome.PASS, Action.ADVANCE, id="ready needs no bake time"),
        pytest.param(PENDING, 60, Outcome.INCONCLUSIVE, Action.ROLL_BACK, id="never ready"),
    ],
)
def test_next_action(step: int, after_s: float, outcome: Outcome, expected: Action) -> None:
    at = Position(step=step, since=NOON)
    assert next_action(a_policy(), at, outcome, NOON + timedelta(seconds=after_s)) is expected


def test_a_freeze_holds_good_news_but_not_bad_news() -> None:
    at, later = Position(step=1, since=NOON, frozen=True), NOON + timedelta(days=1)
    assert next_action(a_policy(), at, Outcome.PASS, later) is Action.WAIT
    assert next_action(a_policy(), at, Outcome.INCONCLUSIVE, later) is Action.WAIT
    assert next_action(a_policy(), at, Outcome.FAIL, later) is Action.ROLL_BACK


@given(step=st.integers(PENDING, 2), seconds=st.floats(0, 1e6))
def test_without_evidence_nothing_ever_moves_forward(step: int, seconds: float) -> None:
    action = next_action(
        a_policy(), Position(step=step, since=NOON), Outcome.INCONCLUSIVE, NOON + timedelta(seconds=seconds)
    )
    assert action in (Action.WAIT, Action.ROLL_BACK)


def test_canary_weights_must_climb() -> None:
    with pytest.raises(ValidationError, match="must climb"):
        a_policy(steps=(CanaryStep(weight=50, bake_s=1), CanaryStep(weight=20, bake_s=1)))


def test_the_demo_policy_bakes_at_most_75_seconds() -> None:
    policy = load_policy("demo").rollout
    assert sum(policy.bake_s(step) for step in range(policy.last_step + 1)) <= 75
    assert len(policy.steps) == 1


def test_the_production_policy_climbs_1_5_25_50_100() -> None:
    policy = load_policy("production").rollout
    assert [policy.weight(step) for step in range(policy.last_step + 1)] == [0, 1, 5, 25, 50, 100]
    assert policy.max_restarts == 0


def test_a_log_of_an_older_version_stays_readable() -> None:
    """Rows keep the policy of their rollout: a field that was added later must not be missed in them."""
    later = {"max_latency_ratio_p99", "max_timeout_rate", "max_refused_rate", "max_short_rate", "min_rank_correlation"}
    told = a_policy().model_dump(mode="json", exclude=later | {"max_online_drop"})
    row = a_draft("old", Kind.START, to_release=A, details={"kind": "bootstrap", "policy": told})
    log = MemoryLog()
    log.append(row, expected=0, at=NOON)
    assert fold(log.rows()).rollout is not None


def test_weights_climb_one_rung_at_a_time_and_sum_to_100() -> None:
    history = History().promoted(A).submit(B)
    seen = []
    while history.state.rollout:
        seen.append(history.state.weights)
        history.step()
    assert seen == [{A: 100}, {A: 100, B: 0}, {A: 80, B: 20}, {A: 0, B: 100}]
    assert history.state.weights == {B: 100}
    assert history.state.previous is not None and history.state.previous.release == A


def test_rollback_goes_to_previous_once() -> None:
    history = History().promoted(A).promoted(B).promoted(C).roll_back()
    assert history.state.weights == {B: 100}
    revision = history.state.revision
    for _ in range(5):
        history.roll_back()
    assert history.state.revision == revision, "pressing again wrote something"
    assert history.state.weights == {B: 100}


def test_rollback_during_a_rollout_stops_it_and_the_champion_stays() -> None:
    history = History().promoted(A).promoted(B).submit(C).step().step().roll_back()
    assert history.state.weights == {B: 100} and history.state.rollout is None
    assert history.state.ended[-1].state == "aborted"
    assert history.state.previous is not None and history.state.previous.release == A


def test_two_people_who_press_because_of_one_canary_do_not_unseat_the_champion() -> None:
    history = History().promoted(A).promoted(B).submit(C).step().step().roll_back().roll_back()
    assert history.state.weights == {B: 100}
    assert history.roll_back(to=A).state.weights == {A: 100}, "a named release is always meant"


def test_a_press_after_the_next_rollout_counts_again() -> None:
    history = History().promoted(A).promoted(B).submit(C).step().roll_back().unfreeze().submit(D).step()
    assert history.state.rollout is not None
    history.add(commands.stop_by_judge(history.state, history.state.rollout, "slow", {}))
    assert history.roll_back().state.weights == {A: 100}


def test_what_was_rolled_back_is_not_tried_again() -> None:
    history = History().promoted(A).promoted(B).roll_back()
    with pytest.raises(Conflict, match="not tried again"):
        history.submit(B)
    with pytest.raises(Conflict, match="was refused or rolled back itself"):
        history.roll_back(to=B)


@pytest.mark.parametrize("how", ["judge", "abort", "rollback", "rollback in a canary"])
def test_a_stopped_release_freezes_promotion_until_a_person_releases_it(how: str) -> None:
    history = History().promoted(A).promoted(B)
    if how != "rollback":
        history.submit(C).step().step()
    state = history.state
    if how == "judge":
        assert state.rollout is not None
        history.add(commands.stop_by_judge(state, state.rollout, "slow", {}))
    elif how == "abort":
        history.add(commands.stop(state, op="x", actor="on-call", reason="slow"))
    else:
        history.roll_back()
    assert history.state.frozen
    with pytest.raises(Conflict, match=r"rollouts are frozen \(revision \d+, (abort|rollback) of"):
        history.submit(D)
    assert history.unfreeze().submit(D).state.rollout is not None, "released by a person"


def test_a_release_that_never_got_ready_freezes_nothing() -> None:
    history = History().promoted(A).submit(B)
    assert history.state.rollout is not None
    history.add(commands.stop_by_judge(history.state, history.state.rollout, "store away", {}))
    assert not history.state.frozen and history.submit(B).state.rollout is not None


def test_after_a_new_promotion_rollback_works_again() -> None:
    history = History().promoted(A).promoted(B).roll_back().unfreeze().promoted(C).roll_back()
    assert history.state.weights == {A: 100}


def test_rollback_to_an_older_champion_by_name() -> None:
    history = History().promoted(A).promoted(B).promoted(C).roll_back(to=A)
    assert history.state.weights == {A: 100}


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        pytest.param({"release": A}, "is the champion already", id="champion"),
        pytest.param({"release": B, "kind": "bootstrap"}, "serves already", id="bootstrap over a champion"),
        pytest.param({"release": B, "expected_champion": C}, "was judged against champion", id="stale verdict"),
    ],
)
def test_submissions_that_are_refused(wish: dict[str, Any], said: str) -> None:
    with pytest.raises(Conflict, match=said):
        History().promoted(A).submit(**wish)


def test_a_canary_needs_a_champion() -> None:
    with pytest.raises(Conflict, match="bootstrap it"):
        History().submit(A)


def test_one_rollout_at_a_time() -> None:
    with pytest.raises(Conflict, match="rollout-3 of bbbbbbbbbbbb is pending"):
        History().promoted(A).submit(B).submit(C)


@pytest.mark.parametrize("release", ["", "../etc", "A" * 64, "a" * 63, "a" * 64 + "\n", None])
def test_a_release_is_named_by_its_digest_only(release: Any) -> None:
    with pytest.raises(InputRejected, match="is not a digest"):
        History().promoted(D).submit(release)


def test_a_frozen_log_refuses_rollouts_but_not_rollbacks() -> None:
    history = History().promoted(A).promoted(B)
    history.add(commands.freeze(history.state, op="freeze", actor="test", reason="holiday", on=True))
    with pytest.raises(Conflict, match="frozen"):
        history.submit(C)
    assert history.roll_back().state.weights == {A: 100}


def test_a_release_that_never_became_ready_may_be_tried_again() -> None:
    history = History().promoted(A).submit(B)
    assert history.state.rollout is not None
    history.add(commands.stop_by_judge(history.state, history.state.rollout, "the store was down", {}))
    assert history.state.ended[-1].state == "failed"
    assert history.submit(B).state.rollout is not None


@pytest.mark.parametrize("weight", [20, 100])
def test_a_log_that_skips_a_rung_is_refused(weight: int) -> None:
    history = History().promoted(A).submit(B)
    skipping = Draft(
        op="skip",
        kind=Kind.ADVANCE,
        actor="x",
        reason="x",
        rollout="rollout-3",
        from_release=A,
        to_release=B,
        weight=weight,
    )
    with pytest.raises(InputRejected, match="cannot follow"):
        history.add(skipping).state  # noqa: B018


def test_a_log_that_promotes_before_100_percent_is_refused() -> None:
    history = History().promoted(A).submit(B).step().step()
    early = Draft(
        op="early", kind=Kind.PROMOTE, actor="x", reason="x", rollout="rollout-3", from_release=A, to_release=B
    )
    with pytest.raises(InputRejected, match="cannot follow"):
        history.add(early).state  # noqa: B018


def test_folding_in_parts_is_folding_at_once() -> None:
    rows = History().promoted(A).promoted(B).roll_back().unfreeze().submit(C).step().log.rows()
    for cut in range(len(rows) + 1):
        assert fold(rows[cut:], fold(rows[:cut])) == fold(rows)
