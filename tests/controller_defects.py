"""Defects to plant in the controller: each changes one function, in this process only, and the state machine must notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

from tasks.controller import log as log_module
from tasks.controller import reconcile
from tasks.controller.commands import Commands
from tasks.controller.reconcile import Reconciler
from tasks.domain import rollout_commands, rollout_judgement, rollout_state
from tasks.domain.errors import Conflict, Unavailable
from tasks.domain.gate import Outcome
from tasks.domain.rollout import Action
from tasks.domain.rollout_log import Kind, sealed


@dataclass(frozen=True)
class Defect:
    """A change of one piece of the controller, in this process only."""

    name: str
    target: Any
    attribute: str
    change: Callable[[Any], Any]

    def planted(self) -> Any:
        original = (
            self.target.__dict__[self.attribute]
            if isinstance(self.target, type)
            else getattr(self.target, self.attribute)
        )
        return mock.patch.object(self.target, self.attribute, self.change(original))


def _no_cas(original: Any) -> Any:
    def append(self: Any, draft: Any, *, expected: int, at: Any) -> Any:
        return original(self, draft, expected=len(self._rows), at=at)

    return append


def _no_keys(original: Any) -> Any:
    def append(self: Any, draft: Any, *, expected: int, at: Any) -> Any:
        if len(self._rows) != expected:
            raise Conflict("stale")
        self._rows.append(sealed(draft, self._rows[-1] if self._rows else None, at))
        return self._rows[-1]

    return append


def _without(**told: Any) -> Callable[[Any], Any]:
    """The command decides on a state in which these things never happened."""

    def change(original: Any) -> Any:
        return lambda state, *args, **more: original(state.model_copy(update=told), *args, **more)

    return change


def _forgets(**told: Any) -> Callable[[Any], Any]:
    """The fold ends with these values."""

    def change(original: Any) -> Any:
        return lambda state, row: original(state, row).model_copy(update=told)

    return change


def _keeps_the_bad_one(original: Any) -> Any:
    def rollback(state: Any, row: Any) -> Any:
        return original(state, row).model_copy(update={"previous": state.champion, "rolled_back": False})

    return rollback


def _row_kind(kind: Kind, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda table: table | {kind: change(table[kind])}


def _position(**changes: Any) -> Callable[[Any], Any]:
    return lambda original: (
        lambda policy, at, outcome, now: original(policy, at.model_copy(update=changes), outcome, now)
    )


def _outcome(seen: Outcome, taken: Outcome) -> Callable[[Any], Any]:
    return lambda original: (
        lambda policy, at, outcome, now: original(policy, at, taken if outcome is seen else outcome, now)
    )


def _baked_at_once(original: Any) -> Any:
    return lambda policy, at, outcome, now: original(
        policy, at, outcome, now + timedelta(days=1) if outcome is Outcome.PASS else now
    )


def _endless_patience(original: Any) -> Any:
    return lambda policy, at, outcome, now: (
        original(policy, at, outcome, now) if outcome is not Outcome.INCONCLUSIVE else Action.WAIT
    )


def _promote_early(original: Any) -> Any:
    def step_forward(state: Any, active: Any, reason: str, judgement: Any) -> Any:
        draft = original(state, active, reason, judgement)
        early = draft.kind is Kind.ADVANCE and active.step >= 1
        return draft.model_copy(update={"kind": Kind.PROMOTE, "weight": 100}) if early else draft

    return step_forward


def _without_previous(original: Any) -> Any:
    return lambda self, state: original(self, state.model_copy(update={"previous": None}))


def _a_rung_ahead(original: Any) -> Any:
    def traffic(self: Any, state: Any) -> Any:
        active = state.rollout
        if active and 0 <= active.step < active.policy.last_step:
            state = state.model_copy(update={"rollout": active.model_copy(update={"step": active.step + 1})})
        return original(self, state)

    return traffic


def _changed_traffic(**changes: Any) -> Callable[[Any], Any]:
    def change(original: Any) -> Any:
        def traffic(self: Any, state: Any) -> Any:
            plan = original(self, state)
            return plan.model_copy(update=changes) if plan else plan

        return traffic

    return change


def _believes_the_router(original: Any) -> Any:
    async def route(self: Any) -> None:
        try:
            await original(self)
        except Unavailable:
            traffic = self.traffic(self.state())
            self._confirmed = (traffic, self.clock()) if traffic else None

    return route


def _unwatched_time_counts(original: Any) -> Any:
    async def evidence_on(self: Any, state: Any, active: Any) -> Any:
        judged, _ = await original(self, state, active)
        return judged, active.entered

    return evidence_on


def _one_window(original: Any) -> Any:
    kept: Any = WeakKeyDictionary()  # by event loop: each order of events has its own

    def evidence(challenger: str, champion: str) -> Any:
        ours = kept.setdefault(asyncio.get_running_loop(), {})
        return ours.setdefault((challenger, champion), original(challenger, champion))

    return evidence


def _unchecked(original: Any) -> Any:
    def init(self: Any, **parts: Any) -> None:
        class Trusting:
            def __getattr__(self, name: str) -> Any:
                return (lambda release: None) if name == "verify" else getattr(parts["library"], name)

        original(self, **(parts | {"library": Trusting()}))

    return init


def _at_once(original: Any) -> Any:
    async def retire(self: Any) -> None:
        for release in self.launcher.replicas():
            if release not in self.wanted(self.state()):
                await self.launcher.stop(release)

    return retire


async def _nothing(*args: Any, **more: Any) -> None:
    return None


def _no_finding(original: Any) -> Any:
    return lambda *args: rollout_judgement.Finding(name="off", outcome=Outcome.PASS, said="")


def _kept_details(original: Any) -> Any:
    def stop(*args: Any, **more: Any) -> Any:
        draft = original(*args, **more)
        return draft.model_copy(update={"details": draft.details | {"freeze": False}})

    return stop


def _row_after_route(original: Any) -> Any:
    def append(self: Any, draft: Any, state: Any) -> Any:
        if draft.kind is Kind.ABORT:
            return None
        return original(self, draft, state)

    return append


DEFECTS = (
    Defect("the log takes a writer with an old view", log_module.MemoryLog, "append", _no_cas),
    Defect("the log forgets idempotency keys", log_module.MemoryLog, "append", _no_keys),
    Defect("a refused release may be tried again", rollout_commands, "submit", _without(refused=frozenset())),
    Defect("a rollout may begin in a freeze", rollout_commands, "submit", _without(frozen=False)),
    Defect("a rollout may begin beside another", rollout_commands, "submit", _without(rollout=None)),
    Defect(
        "a stale verdict is accepted", rollout_commands, "submit",
        lambda original: lambda *args, **more: original(*args, **(more | {"expected_champion": None})),
    ),
    Defect("a second press goes on", rollout_commands, "roll_back", _without(rolled_back=False, settled=False)),
    Defect("rollback may choose a refused release", rollout_commands, "roll_back", _without(refused=frozenset())),
    Defect("an abort freezes nothing", rollout_commands, "stop", _kept_details),
    Defect("a rollback keeps the bad one as previous", rollout_state, "_APPLY", _row_kind(Kind.ROLLBACK, _keeps_the_bad_one)),
    Defect("a promotion forgets the previous champion", rollout_state, "_APPLY", _row_kind(Kind.PROMOTE, _forgets(previous=None))),
    Defect("an abort does not refuse the release", rollout_state, "_APPLY", _row_kind(Kind.ABORT, _forgets(refused=frozenset()))),
    Defect("a freeze is not remembered", rollout_state, "_APPLY", _row_kind(Kind.FREEZE, _forgets(frozen=False))),
    Defect("no data passes", reconcile, "next_action", _outcome(Outcome.INCONCLUSIVE, Outcome.PASS)),
    Defect("bad news is no news", reconcile, "next_action", _outcome(Outcome.FAIL, Outcome.INCONCLUSIVE)),
    Defect("a freeze does not hold a canary", reconcile, "next_action", _position(frozen=False)),
    Defect("no bake time", reconcile, "next_action", _baked_at_once),
    Defect("patience without end", reconcile, "next_action", _endless_patience),
    Defect("a canary is promoted before 100 %", reconcile, "step_forward", _promote_early),
    Defect("previous is not kept warm", Reconciler, "wanted", _without_previous),
    Defect("traffic runs a rung ahead of the log", Reconciler, "traffic", _a_rung_ahead),
    Defect("nobody answers for a dead canary", Reconciler, "traffic", _changed_traffic(fallback={})),
    Defect("a shadow without copies", Reconciler, "traffic", _changed_traffic(mirror=None)),
    Defect("a router that did not confirm is believed", Reconciler, "route", _believes_the_router),
    Defect("time that nobody watched counts as baked", Reconciler, "_evidence_on", _unwatched_time_counts),
    Defect("evidence of the step before counts", reconcile, "Evidence", _one_window),
    Defect("files are not verified again", Reconciler, "__init__", _unchecked),
    Defect("a replica is stopped while it is routed", Reconciler, "_retire", _at_once),
    Defect("rollback returns before traffic moved", Commands, "_follow", lambda original: _nothing),
    Defect("rollback does not wait for a warm target", Commands, "_warm", lambda original: _nothing),
    Defect("scores are not looked at", rollout_judgement, "_scores", _no_finding),
    Defect("crashes are not counted", rollout_judgement, "_restarts", _no_finding),
    Defect("nothing is stopped by the judge", Reconciler, "_append", _row_after_route),
    Defect("nothing is retired", Reconciler, "_retire", lambda original: _nothing),
)  # fmt: skip
