"""Turn a wish into a log row, or refuse it with a sentence. Nothing is appended here."""

from __future__ import annotations

import re
from typing import Any, Literal

from tasks.domain.errors import Conflict, InputRejected
from tasks.domain.rollout import PENDING, RolloutPolicy
from tasks.domain.rollout_log import Draft, Kind, short
from tasks.domain.rollout_state import Rollout, RolloutState

DIGEST = re.compile(r"[0-9a-f]{64}")


def checked_release(release: object) -> str:
    if isinstance(release, str) and DIGEST.fullmatch(release):
        return release
    raise InputRejected(f"release {release!r} is not a digest of 64 hex digits; `freshrank status` prints what serves")


def submit(
    state: RolloutState,
    *,
    op: str,
    release: str,
    kind: Literal["bootstrap", "canary"],
    policy: RolloutPolicy,
    actor: str,
    reason: str,
    expected_champion: str | None = None,
) -> Draft:
    """Start a rollout. `expected_champion` is what the gate compared with: another champion means a stale verdict."""
    checked_release(release)
    champion = state.champion.release if state.champion else None
    if state.rollout:
        raise Conflict(
            f"{state.rollout.id} of {short(state.rollout.release)} is {state.rollout.state}; wait for it, "
            f"or stop it: `freshrank abort`"
        )
    if expected_champion is not None and expected_champion != champion:
        raise Conflict(
            f"{short(release)} was judged against champion {short(expected_champion)} but {short(champion)} serves "
            f"now; run the refresh again"
        )
    if release == champion:
        raise Conflict(f"{short(release)} is the champion already; there is nothing to roll out")
    if release in state.refused:
        raise Conflict(f"{short(release)} was refused or rolled back before; the same bytes are not tried again")
    if state.frozen:
        raise Conflict(
            f"rollouts are frozen ({state.frozen_because}); `freshrank unfreeze --reason TEXT` allows them again"
        )
    if kind == "bootstrap" and champion is not None:
        raise Conflict(f"{short(champion)} serves already; submit {short(release)} as a canary")
    if kind == "canary" and champion is None:
        raise Conflict(f"no champion serves, so {short(release)} has nothing to be compared with; bootstrap it")
    details = {"kind": kind, "policy": policy.model_dump(mode="json")}
    return Draft(
        op=op, kind=Kind.START, actor=actor, reason=reason, from_release=champion, to_release=release, details=details
    )


def step_forward(state: RolloutState, active: Rollout, reason: str, judgement: dict[str, Any]) -> Draft:
    """The row that moves a rollout one rung up. Its key names the rung, so that a crash cannot append it twice."""
    kind = Kind.ADVANCE
    if active.kind == "bootstrap":
        kind = Kind.BOOT
    elif active.step == active.policy.last_step:
        kind = Kind.PROMOTE
    weight = active.policy.weight(active.step + 1) if kind is Kind.ADVANCE else 100
    return Draft(
        op=f"{active.id}:{kind}:{active.step}",
        kind=kind,
        actor="controller",
        reason=reason,
        rollout=active.id,
        from_release=state.champion.release if state.champion else None,
        to_release=active.release,
        weight=weight,
        details=judgement,
    )


def stop(
    state: RolloutState,
    *,
    op: str,
    actor: str,
    reason: str,
    phase: str = "aborted",
    judgement: dict[str, Any] | None = None,
) -> Draft:
    """End the live rollout; the champion keeps or takes back all traffic.

    Nothing is promoted after it until a person has looked (`unfreeze`), except where it never became ready: then no
    user was near it, and the store may simply have been away.
    """
    active = state.rollout
    if active is None:
        raise Conflict("no rollout is running; `freshrank rollback` puts the previous release back")
    champion = state.champion.release if state.champion else None
    return Draft(
        op=op,
        kind=Kind.ABORT,
        actor=actor,
        reason=reason,
        rollout=active.id,
        from_release=active.release,
        to_release=champion,
        weight=100 if champion else 0,
        details={"state": phase, "freeze": phase != "failed"} | (judgement or {}),
    )


def stop_by_judge(state: RolloutState, active: Rollout, reason: str, judgement: dict[str, Any]) -> Draft:
    """Automatic: `failed` when it never became ready, `rolled_back` when evidence spoke against it or was missing."""
    phase = "failed" if active.step == PENDING else "rolled_back"
    op = f"{active.id}:abort"
    return stop(state, op=op, actor="controller", reason=reason, phase=phase, judgement=judgement)


def roll_back(state: RolloutState, *, op: str, actor: str, reason: str, to: str | None = None) -> Draft | None:
    """Back to safety. During a rollout that is an abort; otherwise champion -> previous, once.

    None means that nothing needs to change: pressing again never brings the bad release back. `to` goes further.
    """
    champion = state.champion.release if state.champion else None
    if state.rollout:
        if to not in (None, champion):
            raise Conflict(f"{state.rollout.id} is running; `freshrank abort` ends it, then roll back to {short(to)}")
        return stop(state, op=op, actor=actor, reason=reason, judgement={"pressed_rollback": True})
    if champion is None:
        raise Conflict("nothing serves yet, so there is nothing to roll back")
    if to == champion or (to is None and (state.rolled_back or state.settled)):
        return None
    target = checked_release(to) if to is not None else (state.previous.release if state.previous else None)
    if target is None:
        raise Conflict(f"there is no release before {short(champion)}; it keeps serving")
    if target in state.refused:
        raise Conflict(f"{short(target)} was refused or rolled back itself; choose another release")
    if target not in state.champions:
        raise Conflict(f"{short(target)} never was champion; roll it out instead")
    return Draft(
        op=op,
        kind=Kind.ROLLBACK,
        actor=actor,
        reason=reason,
        from_release=champion,
        to_release=target,
        weight=100,
        details={"freeze": True},
    )


def freeze(state: RolloutState, *, op: str, actor: str, reason: str, on: bool) -> Draft | None:
    """Hold promotions, or allow them again. Rollback and abort always work."""
    if state.frozen == on:
        return None
    return Draft(op=op, kind=Kind.FREEZE if on else Kind.UNFREEZE, actor=actor, reason=reason)
