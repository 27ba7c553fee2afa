"""What people and pipelines ask the controller for: append one log row, then see to it that traffic follows.

None of it opens a connection to Airflow, MLflow, the object store or Valkey.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from tasks.adapters.shelf import Shelf
from tasks.controller.exposition import exposition
from tasks.controller.reconcile import Reconciler
from tasks.domain import rollout_commands
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.rollout import RolloutPolicy
from tasks.domain.rollout_log import Draft, Kind, Row, already_done, short
from tasks.domain.rollout_state import Rollout, RolloutState, Serving, fold

log = logging.getLogger(__name__)

TRIES = 5  # against rows that the judge appends at the same moment
COLD_S = 60.0
LAST_REPLY_S = 2.0


class Commands:
    def __init__(self, reconciler: Reconciler, policy_name: str, disk: Path = Path()) -> None:
        self._loop = reconciler
        self._policy_name = policy_name
        self._disk = disk

    def submit(
        self,
        *,
        release: str,
        kind: Literal["bootstrap", "canary"],
        policy: RolloutPolicy | None,
        actor: str,
        reason: str,
        idempotency_key: str,
        expected_champion: str | None,
    ) -> dict[str, Any]:
        """Start a rollout; the same key again returns the same one, also when it has ended."""
        present = self._loop.log.find(idempotency_key)
        if present is None:
            policy = policy or self._default_policy()
            state = self._loop.state()
            draft = rollout_commands.submit(
                state,
                op=idempotency_key,
                release=release,
                kind=kind,
                policy=policy,
                actor=actor,
                reason=reason,
                expected_champion=expected_champion,
            )
            present = self._append(draft, state)
        elif present.kind is not Kind.START or present.to_release != release:
            already_done(present, Draft(op=present.op, kind=Kind.START, actor=actor, reason=reason, to_release=release))
        return {"rollout": f"rollout-{present.rev}", "revision": present.rev}

    async def roll_back(self, *, to: str | None, actor: str, reason: str, idempotency_key: str) -> dict[str, Any]:
        """Return once the router sends nothing more to the newer release and its last reply is out.

        Raises:
            Unavailable: the row is written, the router has not confirmed. It is applied as soon as the router answers.
        """
        began = time.monotonic()
        row = self._pressed_before(idempotency_key, Kind.ROLLBACK, Kind.ABORT)
        for _ in range(TRIES):
            if row is not None:
                break
            state = self._loop.state()
            draft = rollout_commands.roll_back(state, op=idempotency_key, actor=actor, reason=reason, to=to)
            if draft is None:
                assert state.champion is not None
                return _nothing_to_do(state.champion.release, state)
            try:
                if draft.kind is Kind.ROLLBACK:
                    await self._warm(str(draft.to_release))
                row = self._append(draft, state)
            except Conflict:
                continue
            finally:  # from here on the log names it, or nobody waits for it
                self._loop.held.discard(str(draft.to_release))
        if row is None:
            raise Unavailable("the rollout log changed with each try; press again")
        await self._follow(row)
        seconds = round(time.monotonic() - began, 3)
        moved = (short(row.from_release), short(row.to_release), seconds)
        log.info("event=rolled-back from=%s to=%s seconds=%.3f", *moved)
        told = {"from": row.from_release, "to": row.to_release, "seconds": seconds, "changed": True}
        return told | {"reason": row.reason, "revision": row.rev}

    async def abort(self, *, actor: str, reason: str, idempotency_key: str) -> dict[str, Any]:
        row = self._pressed_before(idempotency_key, Kind.ABORT)
        if row is None:
            state = self._loop.state()
            row = self._append(rollout_commands.stop(state, op=idempotency_key, actor=actor, reason=reason), state)
        await self._follow(row)
        return {"rollout": row.rollout, "from": row.from_release, "to": row.to_release, "revision": row.rev}

    def freeze(self, *, on: bool, actor: str, reason: str, idempotency_key: str) -> dict[str, Any]:
        row = self._pressed_before(idempotency_key, Kind.FREEZE if on else Kind.UNFREEZE)
        state = self._loop.state()
        draft = rollout_commands.freeze(state, op=idempotency_key, actor=actor, reason=reason, on=on)
        if draft is not None and row is None:
            self._append(draft, state)
        state = self._loop.state()
        return {"frozen": state.frozen, "revision": state.revision}

    def check_revision(self, expected: int | None, idempotency_key: str) -> None:
        """Raises Conflict when the log moved since a person looked. The same press again is not a new one."""
        actual = self._loop.state().revision
        if expected is None or expected == actual or self._loop.log.find(idempotency_key):
            return
        last = self._loop.log.rows(after=actual - 1)[0]
        moved = f"{last.kind} of {short(last.to_release)}" if last.to_release else str(last.kind)
        raise Conflict(
            f"you saw revision {expected}, the log is at {actual}: {moved} by {last.actor}. Nothing was changed; look again."
        )

    def status(self) -> dict[str, Any]:
        state = self._loop.state()
        challenger = None
        if state.rollout and state.challenger:
            challenger = Serving(release=state.challenger, since=state.rollout.started)
        last = state.rollout or (state.ended[-1] if state.ended else None)
        return {
            "champion": self._told(state.champion),
            "challenger": self._told(challenger),
            "previous": self._told(state.previous),
            "weights": state.weights,
            "rollout": self._summary(last) if last else None,
            "frozen": state.frozen,
            "frozen_because": state.frozen_because or None,
            "revision": state.revision,
        }

    def rollout(self, name: str) -> dict[str, Any]:
        state = self._loop.state()
        found = state.find(name)
        if found is None:
            raise InputRejected(f"there is no rollout {name!r}; `freshrank status` names the last one")
        live = found is state.rollout
        judgement = self._loop.judgement
        seen = judgement.model_dump(mode="json") if live and judgement else found.judgement
        return self._summary(found) | {"kind": found.kind, "champion": found.champion, "observations": seen}

    def rows(self, after: int) -> list[dict[str, Any]]:
        return [row.model_dump(mode="json") for row in self._loop.log.rows(after=after)]

    def pins(self) -> dict[str, dict[str, str]]:
        return Shelf(self._disk / "data" / "serving").pins()

    def metrics(self) -> str:
        return exposition(self._loop, self._disk)

    def targets(self) -> list[dict[str, Any]]:
        """The replicas to scrape, in the form of Prometheus' HTTP service discovery."""
        replicas = [one for group in self._loop.launcher.replicas().values() for one in group.all]
        return [{"targets": [f"{r.host}:{r.port}"], "labels": {"release": r.release[:12]}} for r in replicas]

    def served_at(self, moment: datetime) -> dict[str, Any]:
        """What served then, and the row that made it so."""
        whole = self._loop.log.rows()
        # up to the last row of that time: a clock that was set back must not make a hole in the log
        rows = whole[: max((row.rev for row in whole if row.time <= moment), default=0)]
        state = fold(rows)
        moved = [row for row in rows if row.kind not in (Kind.FREEZE, Kind.UNFREEZE, Kind.START)]
        return {
            "time": moment.isoformat(),
            "champion": state.champion.release if state.champion else None,
            "weights": state.weights,
            "because": moved[-1].model_dump(mode="json") if moved else None,
        }

    def _pressed_before(self, idempotency_key: str, *kinds: Kind) -> Row | None:
        """The row of this very press. Raises Conflict for a key of another change: nobody may be told that it stopped something."""
        row = self._loop.log.find(idempotency_key)
        if row is not None and row.kind not in kinds:
            used = f"{row.kind} at revision {row.rev}"
            raise Conflict(
                f"idempotency key {idempotency_key!r} was used for {used}; nothing was changed, use a new key"
            )
        return row

    async def _warm(self, release: str) -> None:
        """The target must be ready before the log names it: a rollback to nothing would be worse than none."""
        until = time.monotonic() + COLD_S
        while True:
            replica = self._loop.launcher.replicas().get(release)
            if replica and replica.state == "ready":
                return
            if release not in self._loop.held:
                self._loop.held.add(release)
                await self._loop.provide()
            if time.monotonic() > until:
                why = replica.message if replica else "it is not on this machine and was not pulled"
                raise Unavailable(f"{short(release)} is not ready after {COLD_S:g} s ({why}); nothing was changed")
            await asyncio.sleep(0.1)
            await self._loop.launcher.tick()

    async def _follow(self, row: Row) -> None:
        # another release's replica may come or go while the router confirms: then its clusters differ, and it is asked again
        for _ in range(3):
            try:
                await self._loop.route()
            except Unavailable as err:
                raise Unavailable(
                    f"revision {row.rev} ({row.kind}) is written and will be applied, but: {err}"
                ) from err
            if self._loop.is_routed(self._loop.state()):
                break
        else:
            written = f"revision {row.rev} ({row.kind}) is written"
            raise Unavailable(f"{written}; {short(row.to_release)} is starting, then it is applied")
        await self._last_reply(row.from_release)

    async def _last_reply(self, release: str | None) -> None:
        until = time.monotonic() + LAST_REPLY_S
        while release and time.monotonic() < until:
            try:
                counts = await self._loop.router.observe()
            except Unavailable:
                return
            if release[:12] not in counts or not counts[release[:12]].active:
                return
            await asyncio.sleep(0.02)

    def _append(self, draft: Draft, state: RolloutState) -> Row:
        row = self._loop.log.append(draft, expected=state.revision, at=self._loop.clock())
        say = log.warning if row.kind in (Kind.ABORT, Kind.ROLLBACK) else log.info
        say(
            "revision=%d kind=%s from=%s to=%s actor=%s reason=%s",
            row.rev, row.kind, short(row.from_release), short(row.to_release), row.actor, row.reason,
        )  # fmt: skip
        return row

    def _default_policy(self) -> RolloutPolicy:
        from tasks.policies import load_policy

        return load_policy(self._policy_name).rollout

    def _told(self, serving: Serving | None) -> dict[str, Any] | None:
        if serving is None:
            return None
        about = self._loop.library.describe(serving.release)
        version = " ".join(str(about[key]) for key in ("partition", "kind") if about.get(key))
        return {
            "release": serving.release,
            "version": version or short(serving.release),
            "digest": serving.release,
            "since": serving.since.isoformat(),
        }

    @staticmethod
    def _summary(one: Rollout) -> dict[str, Any]:
        return {
            "id": one.id,
            "release": one.release,
            "state": one.state,
            "step": one.policy.step_name(one.step),
            "reason": one.reason,
            "started": one.started.isoformat(),
            "ended": one.ended.isoformat() if one.ended else None,
        }


def _nothing_to_do(serving: str, state: RolloutState) -> dict[str, Any]:
    further = f"; `freshrank rollback --to {state.previous.release}` goes one further back" if state.previous else ""
    reason = f"{short(serving)} serves already, a rollback was made before{further}"
    told = {"from": serving, "to": serving, "seconds": 0.0, "changed": False}
    return told | {"reason": reason, "revision": state.revision}
