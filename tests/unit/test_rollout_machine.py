"""Any order of commands, verdicts, double presses and crashes keeps the invariants of the rollout."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tasks.controller.log import MemoryLog
from tasks.domain import rollout_commands as commands
from tasks.domain.errors import Conflict
from tasks.domain.gate import Outcome
from tasks.domain.rollout import Action, Position, next_action
from tasks.domain.rollout_log import Draft, check_chain
from tasks.domain.rollout_state import RolloutState, fold
from tests.rollout_builders import Clock, a_policy

RELEASES = [character * 64 for character in "abcdef0123456789"]
outcomes = st.sampled_from(list(Outcome))


class RolloutMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log = MemoryLog()
        self.clock = Clock()
        self.sent: list[Draft] = []
        self.presses = 0
        self.rolled_back_from: set[str] = set()

    @property
    def state(self) -> RolloutState:
        return fold(self.log.rows())

    def op(self) -> str:
        self.presses += 1
        return f"press-{self.presses}"

    def add(self, draft: Draft | None) -> None:
        if draft is not None:
            self.sent.append(draft)
            self.log.append(draft, expected=self.state.revision, at=self.clock())

    @rule(release=st.sampled_from(RELEASES), kind=st.sampled_from(["bootstrap", "canary"]))
    def submit(self, release: str, kind: Any) -> None:
        state = self.state
        try:
            draft = commands.submit(
                state, op=self.op(), release=release, kind=kind, policy=a_policy(), actor="pipeline", reason="new"
            )
        except Conflict:
            assert (
                state.rollout is not None
                or state.frozen
                or release in state.refused
                or (state.champion is not None and release == state.champion.release)
                or (kind == "bootstrap") == (state.champion is not None)
            )
            return
        self.add(draft)

    @rule(release=st.sampled_from(RELEASES))
    def full_rollout(self, release: str) -> None:
        """A whole good rollout at once: single steps alone seldom get that far."""
        if self.state.frozen:
            self.freeze(False)
        if self.state.rollout is None:
            self.submit(release, "canary" if self.state.champion else "bootstrap")
        for _ in range(5):
            self.judge(Outcome.PASS, 60)

    @rule(outcome=outcomes, seconds=st.sampled_from([0, 5, 10, 40, 100]))
    def judge(self, outcome: Outcome, seconds: float) -> None:
        active = self.state.rollout
        if active is None:
            return
        self.clock.advance(seconds)
        state = self.state
        at = Position(step=active.step, since=active.entered, frozen=state.frozen)
        action = next_action(active.policy, at, outcome, self.clock())
        if action in (Action.ADVANCE, Action.PROMOTE):
            assert outcome is Outcome.PASS and not state.frozen
            self.add(commands.step_forward(state, active, "passed", {}))
        elif action is Action.ROLL_BACK:
            self.add(commands.stop_by_judge(state, active, "not good", {}))

    @rule(times=st.integers(1, 4), same_key=st.booleans())
    def roll_back(self, times: int, same_key: bool) -> None:
        """However often it is pressed, by however many people: one transition."""
        before, op = self.state, self.op()
        for _ in range(times):
            op = op if same_key else self.op()
            if self.log.find(op):
                continue  # the controller answers a known key from the log
            try:
                self.add(commands.roll_back(self.state, op=op, actor="on-call", reason="bad"))
            except Conflict:
                assert before.champion is None or before.previous is None
        after = self.state
        assert after.revision <= before.revision + 1, "pressed more than once, moved more than once"
        if before.champion and after.champion and before.champion != after.champion:
            assert before.rollout is None, "a press during a rollout moved the champion"
            self.rolled_back_from.add(before.champion.release)

    @rule(on=st.booleans())
    def freeze(self, on: bool) -> None:
        self.add(commands.freeze(self.state, op=self.op(), actor="on-call", reason="holiday", on=on))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """A command that arrives twice, or late, changes nothing."""
        draft = data.draw(st.sampled_from(self.sent))
        before = self.log.rows()
        self.log.append(draft, expected=len(before), at=self.clock())
        assert self.log.rows() == before

    @rule(draft_of=st.sampled_from(["freeze", "unfreeze"]))
    def a_writer_with_an_old_view(self, draft_of: str) -> None:
        draft = commands.freeze(self.state, op=self.op(), actor="x", reason="x", on=not self.state.frozen)
        assert draft is not None
        before = self.log.rows()
        try:
            self.log.append(draft, expected=len(before) + 1, at=self.clock())
        except Conflict:
            assert self.log.rows() == before
        else:
            raise AssertionError("a stale writer was accepted")

    @invariant()
    def weights_sum_to_100(self) -> None:
        state = self.state
        assert sum(state.weights.values()) == (100 if state.champion else 0)
        assert state.challenger is None or state.challenger != (state.champion and state.champion.release)

    @invariant()
    def what_was_rolled_back_never_serves_again(self) -> None:
        state = self.state
        serving = {release for release, weight in state.weights.items() if weight}
        assert not serving & self.rolled_back_from
        assert not serving & state.refused

    @invariant()
    def once_there_is_a_champion_there_always_is_one(self) -> None:
        assert self.state.champion is not None or not self.state.champions

    @invariant()
    def the_chain_holds(self) -> None:
        check_chain(self.log.rows())


RolloutMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_any_order_of_events = RolloutMachine.TestCase
