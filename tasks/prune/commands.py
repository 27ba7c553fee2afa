"""`freshrank prune`, and what the daily DAG calls: what may go by the policy, shown or done."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.domain.errors import Forbidden, InputRejected, Unavailable
from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen

if TYPE_CHECKING:
    from tasks.prune.machine import Freed
    from tasks.prune.store import Pruned

log = logging.getLogger("freshrank.prune")
MACHINE, STORE = "machine", "store"
AHEAD = timedelta(minutes=5)  # of the store's clock; what is a month old by a clock that jumped may be a day old


class NotHere(Forbidden):
    """By design nothing of the store goes here: nothing serves yet, or on AWS another role prunes."""


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would go, change nothing")] = False,
    only: Annotated[
        str | None, typer.Option(help="machine: copies and logs here; store: outputs, releases, views")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let go what nothing needs any more, as the DAG `prune` does every day: in the store a day after it was marked."""
    if only not in (None, MACHINE, STORE):
        raise InputRejected(f"--only {only} is not known; machine or store")
    settings = Settings()
    told: dict[str, Any] = {"dry_run": dry_run}
    if only != STORE:
        freed = of_machine(settings, dry_run=dry_run)
        told[MACHINE] = freed.model_dump()
        if not as_json:
            screen.print("\n".join(_machine_in_words(freed, dry_run)))
    if only != MACHINE:
        pruned = of_store(settings, dry_run=dry_run)
        told[STORE] = pruned.model_dump()
        if not as_json:
            screen.print("\n".join(in_words(pruned, dry_run)))
    if as_json:
        emit(told)


def of_machine(settings: Settings, *, dry_run: bool = False) -> Freed:
    """Raises InputRejected where this machine's clock is ahead of the store's."""
    from tasks.adapters.store import open_store
    from tasks.policies import load_policy
    from tasks.prune.machine import prune_machine

    now = datetime.now(UTC)
    try:
        theirs = open_store(settings).clock()
    except (InputRejected, Unavailable):  # a store that is down keeps nobody from freeing the disk
        theirs = now
    _require_clock(now, theirs)
    return prune_machine(settings, load_policy(settings.policy).retention, now, dry_run=dry_run)


def of_store(settings: Settings, *, dry_run: bool = False) -> Pruned:
    """Let go of the store what the policy and the rollout log do not need.

    Raises:
        Unavailable: the controller does not answer, and nothing goes while nobody can say what serves.
        NotHere: nothing serves yet; or this is AWS, and this role may not prune.
        InputRejected: this machine's clock is ahead of the store's, or the store refuses what it should allow.
    """
    from tasks.adapters.store import open_store
    from tasks.controller.client import ControllerClient
    from tasks.domain.prune import releases_needed
    from tasks.domain.rollout_log import Row
    from tasks.domain.rollout_state import fold
    from tasks.policies import load_policy
    from tasks.prune.stacks import needed_by_others, tell
    from tasks.prune.store import prune_store

    policy, now = load_policy(settings.policy).retention, datetime.now(UTC)
    controller, store = ControllerClient(settings), open_store(settings)
    _require_clock(now, store.clock())

    def serving() -> dict[str, str]:
        rows = [Row.model_validate(row) for row in controller.log()]
        state = fold(rows)
        if state.champion is None:  # a new log beside an old store would need nothing
            raise NotHere("no release serves, so nobody can say what is needed: nothing is pruned from the store")
        ours, stack = releases_needed(state, rows, controller.pins(), policy, now), rows[0].hash
        if not dry_run:
            try:
                tell(store, stack, ours)  # the first thing that is written: nothing has gone
            except Forbidden as err:
                if settings.store_endpoint == "aws":  # roles/steps.json: who trains deletes nothing, role `pruner` does
                    raise NotHere(
                        f"{err}. On AWS role `pruner` prunes the store; see infra/terraform/aws/README.md"
                    ) from err
                raise
        return needed_by_others(store, stack) | ours

    return prune_store(store, serving, policy, now, dry_run=dry_run)


def _require_clock(now: datetime, theirs: datetime) -> None:
    if now - theirs > AHEAD:
        raise InputRejected(
            f"this machine's clock says {now:%Y-%m-%d %H:%M} and the object store's {theirs:%Y-%m-%d %H:%M} (UTC): by a clock "
            f"that is ahead things look older than they are, so nothing is pruned. Set this machine's clock"
        )


def in_words(pruned: Pruned, dry_run: bool) -> list[str]:
    marks, goes = ("would be marked", "would go") if dry_run else ("marked", "gone")
    lines = [
        f"store: {len(pruned.gone)} {goes}, {_mib(pruned.gone_bytes)}; marked a day ago or more, and still not needed"
    ]
    lines += [f"  {key}" for key in pruned.gone]
    lines += [
        f"store: {len(pruned.marked)} {marks}, {_mib(pruned.marked_bytes)}; they go in a day if nothing needs them"
    ]
    lines += [f"  {key}" for key in pruned.marked]
    lines += [f"store: {pruned.orphans} outputs {goes} that no manifest names, {_mib(pruned.orphan_bytes)}"]
    if pruned.unmarked:
        lines.append(f"store: needed again, so no longer marked: {', '.join(pruned.unmarked)}")
    return [*lines, f"store: {len(pruned.kept)} kept; --json says why each"]


def _machine_in_words(freed: Freed, dry_run: bool) -> list[str]:
    goes = "would go" if dry_run else "gone"
    lines = [f"{name}: {count} {goes}, {_mib(freed.bytes[name])}" for name, count in freed.things.items()]
    return lines or ["this machine: nothing is old enough to go"]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
