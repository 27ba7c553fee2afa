"""Any order of wishes, faults and deaths, against the controller's own code; and defects that it must notice."""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tasks.domain import rollout_commands
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.rollout import CanaryStep
from tests.controller_twin import Twin, in_memory_time, must
from tests.rollout_builders import a_policy

RELEASES = [character * 64 for character in "abcdef01"]
POLICY = a_policy(
    min_requests=4,
    shadow_s=4,
    full_bake_s=4,
    ready_within_s=20,
    max_restarts=1,
    steps=(CanaryStep(weight=5, bake_s=4), CanaryStep(weight=25, bake_s=4)),
)
WRONG = [{"scores": [1.0, None, 0.5]}, {"scores": [1.0, 1.0, 1.0]}, {"status": 500}]
releases = st.sampled_from(RELEASES)
how = st.sampled_from(["before", "after", "torn"])


class ControllerMachine(RuleBasedStateMachine):
    events: ClassVar[list[int]] = [0]

    @initialize()
    def begin(self) -> None:
        self.twin = Twin(RELEASES[:-1])  # the last one was never stored
        self.keys = 0
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def key(self) -> str:
        self.keys += 1
        return f"press-{self.keys}"

    def ask(self, name: str, again: bool = False, **wish: Any) -> dict[str, Any] | None:
        """One wish to the controller. None: refused, or it died over it."""
        if not again:
            wish = {"actor": "on-call", "reason": "because", "idempotency_key": self.key()} | wish
            self.sent.append((name, wish))

        async def asked() -> Any:
            answer = getattr(self.twin.commands, name)(**wish)
            return answer if isinstance(answer, dict) else await answer

        try:
            answer: dict[str, Any] | None = self.twin.call(asked())
        except (Conflict, InputRejected, Unavailable):
            return None
        return answer

    @rule(release=releases, kind=st.sampled_from(["bootstrap", "canary"]), stale=st.booleans())
    def submit(self, release: str, kind: str, stale: bool) -> None:
        model = self.twin.model
        expected = RELEASES[-1] if stale and model.champion else model.champion
        wish = {"release": release, "kind": kind, "policy": POLICY, "expected_champion": expected}
        must(self.ask("submit", **wish) is None or expected == model.champion, "a stale verdict was accepted")

    @rule(release=releases)
    def full_rollout(self, release: str) -> None:
        """A whole good rollout at once: single steps alone seldom get that far."""
        self.calm()
        if self.twin.model.frozen:
            self.ask("freeze", on=False)
        self.twin.heal(release)
        self.twin.library.damaged.discard(release)
        self.submit(release, "canary", True)
        self.submit(release, "canary" if self.twin.model.champion else "bootstrap", False)
        self.twin.passes(11, seconds=4)

    @rule(release=releases)
    def two_champions(self, release: str) -> None:
        """Only then is there a way back."""
        for one in (release, RELEASES[(RELEASES.index(release) + 1) % len(RELEASES)]):
            self.full_rollout(one)

    @rule(release=releases)
    def two_people_press_over_one_canary(self, release: str) -> None:
        """The second must not unseat the good champion."""
        self.two_champions(release)
        for other in RELEASES[:-1]:
            self.submit(other, "canary", False)
        self.twin.passes(3, seconds=4)
        self.roll_back(2, False)

    @rule(release=releases)
    def nobody_asks(self, release: str) -> None:
        """Without traffic a canary ends at its deadline."""
        self.full_rollout(RELEASES[0])
        self.submit(release, "canary", False)
        if not self.twin.model.frozen:
            self.twin.passes(12, requests=0, seconds=15)
            must(self.twin.model.active is None, "a rollout waits for evidence forever")

    @rule(release=releases)
    def traffic_stops_in_a_canary(self, release: str) -> None:
        """What was seen in the step before says nothing about this one."""
        self.full_rollout(RELEASES[6])
        self.submit(release, "canary", False)
        self.twin.passes(4, seconds=4)
        self.twin.passes(4, requests=0, seconds=4)

    @rule(release=releases)
    def press_while_the_router_is_away(self, release: str) -> None:
        """The press is written, and the person is told that traffic has not moved yet."""
        self.two_champions(release)
        self.outage(True, False)
        self.roll_back(1, True)

    @rule(release=releases, cold=st.booleans())
    def press_over_a_target_that_is_not_ready(self, release: str, cold: bool) -> None:
        """Its process just died, or it was champion long ago and runs no more."""
        self.two_champions(release)
        previous = self.twin.model.previous
        if cold:
            for one in sorted(self.twin.model.champions):
                self.roll_back_to(one)
        elif previous in self.twin.launcher.world:
            self.twin.crash(previous)
            self.roll_back(1, True)

    @rule(away_s=st.sampled_from([6, 6, 3600]))
    def away_in_a_canary(self, away_s: float) -> None:
        self.full_rollout(RELEASES[4])
        for release in RELEASES[:-1]:
            self.submit(release, "canary", False)
        self.twin.passes(3, seconds=4)
        self.twin.clock.advance(away_s)
        self.twin.start()
        self.twin.passes(4, seconds=1)

    @rule(count=st.integers(1, 4), requests=st.sampled_from([0, 1, 5, 5]), seconds=st.sampled_from([1, 2, 2, 15]))
    def time_goes_by(self, count: int, requests: int, seconds: float) -> None:
        self.twin.passes(count, requests=requests, seconds=seconds)

    @rule(times=st.integers(1, 3), same_key=st.booleans())
    def roll_back(self, times: int, same_key: bool) -> None:
        twin, before, key = self.twin, self.twin.model.rows, self.key()
        for _ in range(times):
            told = self.ask("roll_back", to=None, idempotency_key=key)
            if told and told["changed"]:
                moved = {told["to"]: 100} if told["to"] else {}  # the first release ever, stopped before it served
                must(twin.router.traffic.weights == moved, "rollback returned before the traffic moved")
            key = key if same_key else self.key()
        must(twin.model.rows <= before + 1, "pressed more than once, moved more than once")

    @rule(release=releases)
    def roll_back_to(self, release: str) -> None:
        self.ask("roll_back", to=release)

    @rule()
    def abort(self) -> None:
        self.ask("abort")

    @rule(on=st.booleans())
    def freeze(self, on: bool) -> None:
        if self.ask("freeze", on=on) is not None:
            must(self.twin.model.frozen == on, "a freeze that freezes nothing")

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        """A wish that had its row and arrives again, however late, changes nothing."""
        done = [(name, wish) for name, wish in self.sent if self.twin.log.find(wish["idempotency_key"])]
        if done:
            name, wish = data.draw(st.sampled_from(done))
            before = self.twin.model.rows
            self.ask(name, again=True, **wish)
            must(self.twin.model.rows == before, "the same key had a second effect")

    @rule(release=releases)
    def another_writer(self, release: str) -> None:
        """With a view that is one row old, or with a key that is taken."""
        log, model = self.twin.log, self.twin.model
        draft = rollout_commands.freeze(
            self.twin.controller.state(), op=self.key(), actor="x", reason="x", on=not model.frozen
        )
        before = log.rows()
        if draft is not None and before:
            try:
                log.append(draft, expected=len(before) - 1, at=self.twin.clock.now)
            except Conflict:
                pass
            must(log.rows() == before, "a writer with an old view was accepted")
            try:
                log.append(
                    draft.model_copy(update={"op": before[-1].op, "to_release": release}),
                    expected=len(before),
                    at=self.twin.clock.now,
                )
            except Conflict:
                pass
            must(log.rows() == before, "a key was used twice")

    @rule(release=releases, wrong=st.sampled_from([*WRONG, None]))
    def turn_bad(self, release: str, wrong: dict[str, Any] | None) -> None:
        self.twin.heal(release)
        if wrong == {"status": 500}:
            self.twin.errors.add(release)
        elif wrong:
            self.twin.bad[release] = wrong

    @rule(release=releases)
    def bad_rollout(self, release: str) -> None:
        self.turn_bad(release, WRONG[0] if release < "c" else WRONG[1])
        self.submit(release, "canary", False)
        self.twin.passes(6)

    @rule(times=st.integers(1, 3), data=st.data())
    def replica_dies(self, times: int, data: st.DataObject) -> None:
        for _ in range(times):
            if self.twin.launcher.world:
                self.twin.crash(data.draw(st.sampled_from(sorted(self.twin.launcher.world))))
                self.twin.passes(2)

    @rule(release=releases)
    def crash_loop(self, release: str) -> None:
        self.full_rollout(RELEASES[0])
        self.submit(release, "canary", False)
        self.twin.passes(4)
        for _ in range(4):
            if self.twin.model.active and release in self.twin.launcher.world and self.twin.model.active[0] == release:
                self.twin.crash(release)
                self.twin.passes(1, requests=0, seconds=1)
        self.twin.passes(3)

    @rule(release=releases, whole=st.booleans())
    def a_file_is_damaged(self, release: str, whole: bool) -> None:
        if whole:
            self.twin.library.damaged.discard(release)
        else:
            self.twin.library.damaged.add(release)

    @rule(release=releases)
    def a_file_is_damaged_in_a_canary(self, release: str) -> None:
        self.full_rollout(RELEASES[1])
        self.submit(release, "canary", False)
        self.twin.passes(4)
        self.twin.library.damaged.add(release)
        self.twin.passes(8, seconds=4)

    @rule(router=st.booleans(), store=st.booleans())
    def outage(self, router: bool, store: bool) -> None:
        self.twin.library.store_down = store
        if router:
            self.twin.router.down = True
        else:
            self.twin.router_up()

    @rule(release=releases)
    def submit_in_a_freeze(self, release: str) -> None:
        self.full_rollout(RELEASES[5])
        self.ask("freeze", on=True)
        self.submit(release, "canary", False)

    @rule()
    def freeze_in_a_canary(self) -> None:
        """The canary is held, and watched anew afterwards."""
        self.full_rollout(RELEASES[2])
        for release in RELEASES[3:-1]:
            self.submit(release, "canary", False)
        self.twin.passes(4)
        self.ask("freeze", on=True)
        self.twin.passes(4)
        self.ask("freeze", on=False)
        self.twin.passes(1)

    @rule(at=st.sampled_from([1, 1, 2]), mode=how)
    def the_controller_dies_at_a_write(self, at: int, mode: str) -> None:
        self.twin.arm(at, mode)
        self.twin.passes(3)

    @rule(release=releases, at=st.integers(1, 6), mode=how)
    def the_controller_dies_in_a_rollout(self, release: str, at: int, mode: str) -> None:
        self.calm()
        if self.twin.model.frozen:
            self.ask("freeze", on=False)
        self.twin.arm(at, mode)
        self.submit(release, "canary" if self.twin.model.champion else "bootstrap", False)
        self.twin.passes(8, seconds=4)

    @rule(at=st.integers(1, 3), mode=how, press=st.sampled_from(["roll_back", "abort"]))
    def the_controller_dies_over_a_press(self, at: int, mode: str, press: str) -> None:
        self.twin.arm(at, mode)
        key = self.key()
        wish = {"idempotency_key": key} | ({"to": None} if press == "roll_back" else {})
        self.ask(press, **wish)
        self.twin.at = None
        self.twin.passes(1)

    @rule(away_s=st.sampled_from([0, 30, 3600]))
    def the_controller_is_away(self, away_s: float) -> None:
        self.twin.clock.advance(away_s)
        self.twin.start()
        self.twin.passes(1)

    @rule()
    def calm(self) -> None:
        """Faults over. Whatever was begun goes on; then machine, router and log agree."""
        twin = self.twin
        twin.at, twin.library.store_down = None, False
        twin.router_up()
        twin.passes(2)
        for release in [twin.model.champion, twin.model.previous]:
            if release:
                twin.heal(release)
        rows = -1
        while rows != twin.model.rows:  # what was retired just now still drains
            rows = twin.model.rows
            twin.passes(3, seconds=6)
        twin.settled()

    @invariant()
    def the_fold_and_the_model_agree(self) -> None:
        """Everything else is checked inside, at the write that breaks it."""
        self.events[0] += 1
        if hasattr(self, "twin"):
            must(self.twin.controller.state().revision == self.twin.model.rows, "rows that nobody wrote")
            must(self.twin.controller.state().weights == self.twin.model.weights, "the fold says other weights")

    def teardown(self) -> None:
        """Every rollout ends, once nobody interferes."""
        if hasattr(self, "twin"):
            self.calm()
            if self.twin.model.frozen:
                self.ask("freeze", on=False)
            for _ in range(12):
                if self.twin.model.active is None:
                    break
                self.twin.passes(6)
            must(self.twin.model.active is None, "a rollout that never ends")
            self.calm()
            self.twin.log.verify()
            self.twin.loop.close()


def explore(examples: int, steps: int, number: int = 0, *, shrink: bool = False) -> None:
    """Run the machine; raises what it found. The same number explores the same orders of events."""
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    config = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    machine = seed(number)(type("ControllerMachine", (ControllerMachine,), {}))
    with in_memory_time():
        run_state_machine_as_test(machine, settings=config)
