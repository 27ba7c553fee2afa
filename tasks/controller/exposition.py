"""The controller's /metrics: what serves, how the rollout stands, whether the reconcile loop does its work. Labels are
releases, parts and states: nothing that a caller sends."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.controller.reconcile import PARTS, Reconciler
from tasks.domain.rollout import PENDING
from tasks.domain.rollout_log import Kind
from tasks.domain.rollout_state import RolloutState

ROWS_LOOKED_AT = 50  # for the last stop: older ones are nobody's alert
Samples = Iterable[tuple[Mapping[str, str], float]]


def exposition(loop: Reconciler, disk: Path) -> str:
    """Prometheus' text format, version 0.0.4. `disk` is a path on the disk that the stack fills."""
    state, pages = loop.state(), list[str]()

    def tell(name: str, meaning: str, samples: Samples, kind: str = "gauge") -> None:
        pages.append(f"# HELP freshrank_{name} {meaning}\n# TYPE freshrank_{name} {kind}\n")
        for labels, value in samples:
            inside = ",".join(f'{label}="{text}"' for label, text in labels.items())
            pages.append(
                f"freshrank_{name}{{{inside}}} {value:.15g}\n" if inside else f"freshrank_{name} {value:.15g}\n"
            )

    tell("rollout_revision", "Rows of the rollout log", [({}, state.revision)], "counter")
    tell("rollout_frozen", "1 while promotions are frozen", [({}, int(state.frozen))])
    weights = [({"release": release[:12]}, float(weight)) for release, weight in sorted(state.weights.items())]
    tell("rollout_weight_percent", "Share of live traffic", weights)
    tell("champion_since_seconds", "When the champion became it", _champion(state))
    tell("rollout_step_since_seconds", "When the running rollout entered its step", _step_since(state))
    tell("rollout_step_limit_seconds", "How long its policy lets it stay there", _step_limit(state))
    tell("rollout_stopped_seconds", "When a rollout or a champion was last taken out", _stopped(loop, state))
    replicas = sorted(loop.launcher.replicas().items())
    ready = [({"release": release[:12]}, float(one.state == "ready")) for release, one in replicas]
    tell("replica_ready", "1 when a replica answered with its own digest", ready)
    restarts = [({"release": release[:12]}, float(sum(r.restarts for r in one.all))) for release, one in replicas]
    tell("replica_restarts_total", "Crashes of its replicas", restarts, "counter")
    failing = [({"part": part}, float(part in loop.failing)) for part in PARTS]
    tell("reconcile_failing", "1 while this part of a pass fails", failing)
    if loop.passed is not None:
        tell("reconcile_pass_seconds", "When the last pass ended", [({}, loop.passed.timestamp())])
    room = shutil.disk_usage(disk)
    tell("disk_free_bytes", "Free where the stack writes", [({}, room.free)])
    tell("disk_size_bytes", "Size of that disk", [({}, room.total)])
    return "".join(pages)


def _champion(state: RolloutState) -> Samples:
    if state.champion:
        yield {"release": state.champion.release[:12]}, state.champion.since.timestamp()


def _step_since(state: RolloutState) -> Samples:
    # a frozen step stands still because a person wants it to
    if state.rollout and not state.frozen:
        yield {"release": state.rollout.release[:12]}, state.rollout.entered.timestamp()


def _step_limit(state: RolloutState) -> Samples:
    if (active := state.rollout) and not state.frozen:
        hold = active.policy.ready_within_s if active.step == PENDING else active.policy.hold_s
        yield {"release": active.release[:12]}, active.policy.bake_s(active.step) + hold


def _stopped(loop: Reconciler, state: RolloutState) -> Samples:
    for row in reversed(loop.log.rows(after=max(0, state.revision - ROWS_LOOKED_AT))):
        if row.kind in (Kind.ABORT, Kind.ROLLBACK):
            how = str(row.details.get("state", "aborted")) if row.kind is Kind.ABORT else "rollback"
            yield {"release": str(row.from_release)[:12], "how": how}, row.time.timestamp()
            return
