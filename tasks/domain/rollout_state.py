"""What the rollout log means: champion, previous, challenger, weights. A fold, so it can be replayed for any time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record
from tasks.domain.rollout import PENDING, SHADOW, RolloutPolicy
from tasks.domain.rollout_log import Kind, Row, short

CHAMPIONS = 3  # the last ones stay on disk, for `rollback --to` without the store
Phase = Literal["pending", "shadow", "canary", "promoted", "aborted", "rolled_back", "failed"]


class Serving(Record):
    """A release and the moment it became what it is."""

    release: str
    since: datetime


class Rollout(Record):
    """One attempt to make a release champion, live or ended. `state` and `reason` always change together."""

    id: str
    release: str
    kind: Literal["bootstrap", "canary"]
    policy: RolloutPolicy
    champion: str | None  # at the start
    started: datetime
    entered: datetime
    step: int = PENDING
    state: Phase = "pending"
    reason: str
    ended: datetime | None = None
    judgement: dict[str, Any] = Field(default_factory=dict)


class RolloutState(Record):
    """The fold of a log. `rolled_back` and `settled` make a second press of rollback do nothing: no ping-pong.

    `rolled_back` holds until something new is promoted; `settled`, after a press that stopped a canary, until the next
    rollout starts: of two people who press because of the same canary, the second must not unseat the good champion.
    """

    revision: int = 0
    champion: Serving | None = None
    previous: Serving | None = None
    rollout: Rollout | None = None
    frozen: bool = False
    frozen_because: str = ""
    rolled_back: bool = False
    settled: bool = False
    refused: frozenset[str] = frozenset()
    champions: tuple[str, ...] = ()  # every release that ever was champion, oldest first
    ended: tuple[Rollout, ...] = ()

    @property
    def challenger(self) -> str | None:
        active = self.rollout
        return active.release if active and active.kind == "canary" and active.step >= SHADOW else None

    @property
    def weights(self) -> dict[str, int]:
        """Percent of live traffic per release. Sums to 100; empty while there is no champion."""
        if self.champion is None:
            return {}
        if self.rollout is None or self.challenger is None:
            return {self.champion.release: 100}
        weight = self.rollout.policy.weight(self.rollout.step)
        return {self.champion.release: 100 - weight, self.challenger: weight}

    def find(self, rollout: str) -> Rollout | None:
        live = [self.rollout] if self.rollout else []
        return next((one for one in [*live, *reversed(self.ended)] if one.id == rollout), None)


def needed(state: RolloutState) -> set[str]:
    """The releases that must be loadable: what serves, what served before, what is rolled out, the last good champions."""
    named = {serving.release for serving in (state.champion, state.previous) if serving}
    if state.rollout:
        named.add(state.rollout.release)
    good = [release for release in dict.fromkeys(reversed(state.champions)) if release not in state.refused]
    return named | set(good[:CHAMPIONS])


def fold(rows: Iterable[Row], start: RolloutState | None = None) -> RolloutState:
    """Apply rows in order. Raises InputRejected for a row that cannot follow: a log written by no version of us."""
    state = start or RolloutState()
    for row in rows:
        if row.rev != state.revision + 1:
            jump = f"from revision {state.revision} to {row.rev}"
            raise InputRejected(f"rollout log jumps {jump}; restore it from a backup")
        state = _APPLY[row.kind](state, row).model_copy(update={"revision": row.rev})
    return state


def _start(state: RolloutState, row: Row) -> RolloutState:
    if state.rollout or row.to_release is None:
        raise _impossible(state, row)
    rollout = Rollout(
        id=f"rollout-{row.rev}",
        release=row.to_release,
        kind=row.details["kind"],
        policy=RolloutPolicy.model_validate(row.details["policy"]),
        champion=state.champion.release if state.champion else None,
        started=row.time,
        entered=row.time,
        reason=row.reason,
    )
    return state.model_copy(update={"rollout": rollout, "settled": False})


def _boot(state: RolloutState, row: Row) -> RolloutState:
    if state.champion or state.rollout is None or state.rollout.release != row.to_release:
        raise _impossible(state, row)
    return _crowned(_ended(state, row, "promoted"), row)


def _advance(state: RolloutState, row: Row) -> RolloutState:
    active = state.rollout
    if active is None or active.id != row.rollout or row.weight != active.policy.weight(active.step + 1):
        raise _impossible(state, row)
    step = active.step + 1
    moved = active.model_copy(
        update={
            "step": step,
            "state": "shadow" if step == SHADOW else "canary",
            "entered": row.time,
            "reason": row.reason,
            "judgement": row.details,
        }
    )
    return state.model_copy(update={"rollout": moved})


def _promote(state: RolloutState, row: Row) -> RolloutState:
    active = state.rollout
    if active is None or active.release != row.to_release or active.step != active.policy.last_step:
        raise _impossible(state, row)
    return _crowned(_ended(state, row, "promoted"), row)


def _abort(state: RolloutState, row: Row) -> RolloutState:
    if state.rollout is None or state.rollout.id != row.rollout:
        raise _impossible(state, row)
    phase: Phase = row.details.get("state", "aborted")
    settled = {"settled": bool(row.details.get("pressed_rollback"))}
    state = _ended(state, row, phase).model_copy(update=settled | _stopped(state, row))
    if phase == "failed":  # it never started, so nothing is known against it
        return state
    return state.model_copy(update={"refused": state.refused | {row.from_release}})


def _rollback(state: RolloutState, row: Row) -> RolloutState:
    if state.rollout or state.champion is None or state.champion.release != row.from_release or not row.to_release:
        raise _impossible(state, row)
    return state.model_copy(
        update={
            "champion": Serving(release=row.to_release, since=row.time),
            "previous": None,
            "rolled_back": True,
            "refused": state.refused | {row.from_release},
            "ended": tuple(_undone(one, row) for one in state.ended),
        }
        | _stopped(state, row)
    )


def _stopped(state: RolloutState, row: Row) -> dict[str, Any]:
    """Rows of a version that did not freeze yet do not say so, and mean what they meant then."""
    if not row.details.get("freeze"):
        return {}
    why = state.frozen_because or f"revision {row.rev}, {row.kind} of {short(row.from_release)}: {row.reason}"
    return {"frozen": True, "frozen_because": why}


def _freeze(state: RolloutState, row: Row) -> RolloutState:
    return state.model_copy(update={"frozen": True, "frozen_because": f"revision {row.rev}, {row.actor}: {row.reason}"})


def _unfreeze(state: RolloutState, row: Row) -> RolloutState:
    # a step that stood still is watched anew: evidence from before the freeze says little about now
    active = state.rollout.model_copy(update={"entered": row.time}) if state.rollout else None
    return state.model_copy(update={"frozen": False, "frozen_because": "", "rollout": active})


_APPLY: dict[Kind, Callable[[RolloutState, Row], RolloutState]] = {
    Kind.START: _start,
    Kind.BOOT: _boot,
    Kind.ADVANCE: _advance,
    Kind.PROMOTE: _promote,
    Kind.ABORT: _abort,
    Kind.ROLLBACK: _rollback,
    Kind.FREEZE: _freeze,
    Kind.UNFREEZE: _unfreeze,
}


def _ended(state: RolloutState, row: Row, phase: Phase) -> RolloutState:
    assert state.rollout is not None
    update = {"state": phase, "ended": row.time, "reason": row.reason, "judgement": row.details}
    return state.model_copy(
        update={"rollout": None, "ended": (*state.ended, state.rollout.model_copy(update=update))},
    )


def _crowned(state: RolloutState, row: Row) -> RolloutState:
    assert row.to_release is not None
    return state.model_copy(
        update={
            "champion": Serving(release=row.to_release, since=row.time),
            "previous": state.champion,
            "rolled_back": False,
            "champions": (*state.champions, row.to_release),
        }
    )


def _undone(one: Rollout, row: Row) -> Rollout:
    if one.state == "promoted" and one.release == row.from_release:
        return one.model_copy(update={"state": "rolled_back", "reason": row.reason})
    return one


def _impossible(state: RolloutState, row: Row) -> InputRejected:
    active = f"{state.rollout.id} at step {state.rollout.step}" if state.rollout else "no rollout"
    return InputRejected(
        f"revision {row.rev} ({row.kind} of {short(row.to_release)}) cannot follow: champion "
        f"{short(state.champion.release if state.champion else None)}, {active}; restore the log from a backup"
    )
