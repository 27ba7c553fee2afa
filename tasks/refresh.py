"""What the tasks of the DAGs do, without Airflow: run one step of a refresh, say why nothing ships, roll a release out.

The DAG files only wire these. Every function takes manifest URIs and plain values, and may run twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.adapters.store import Store, open_store
from tasks.clock import newest_partition
from tasks.controller.client import ControllerClient, told_of_rollback
from tasks.decisions import as_markdown, explanation, read_decision
from tasks.domain.errors import FreshrankError, InputRejected
from tasks.domain.manifest import digest_of
from tasks.domain.refresh import after_gate, after_validation, approvable, partition_of, signature_of, step_options
from tasks.policies import load_policy
from tasks.record import DECISION_PAGE, record_end, record_serving, record_step
from tasks.run import read_manifest, run
from tasks.settings import Settings
from tasks.steps import step_named
from tasks.worker import require_same_version

log = logging.getLogger("freshrank.refresh")
ROLLOUT_WITHIN_S = 1800.0
LONGEST_KEY = 200  # of the controller's idempotency keys


@dataclass(frozen=True, slots=True)
class Asked:
    """What one run was asked to do: its id, its form, and the schedule's day, which is a wall date."""

    run_key: str
    params: Mapping[str, Any]
    partition_key: str | None


def run_step(
    name: str,
    inputs: Mapping[str, str],
    asked: Asked,
    settings: Settings,
    *,
    review: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Run one step and mirror it; (manifest URI, partition). The first step maps the day, the others read it.

    review: what a person answered before `package`, as Airflow's ApprovalOperator hands it on.
    """
    require_same_version(settings)
    store = open_store(settings)
    partition = _partition(inputs, asked, store)
    options = step_options(name, asked.params)
    if name == "package" and (approved := _approved(store, inputs["gate"])):
        options["approved"] = approved
    if name == "package" and review:
        options |= signature_of(review)
    uri = run(step_named(name), partition, inputs, settings, options=options, store=store)
    record_step(uri, asked.run_key, settings)
    if name == "package":
        record_end(asked.run_key, "FINISHED", settings, partition=partition)
    return uri, partition


def pages_of(step: str, run_key: str, settings: Settings) -> str:
    """Where a person reads what the step wrote for people, in MLflow; its front page when it is down.

    The gate and what it let through lead to the decision's page.
    """
    from tasks.adapters.mlflow_registry import MlflowRegistry

    try:
        return MlflowRegistry(settings).pages(run_key, DECISION_PAGE if step in ("gate", "package") else step)
    except FreshrankError:
        return settings.url("mlflow")


def route_data(validated: str, settings: Settings) -> str:
    """The task after validate_data."""
    return after_validation(str(read_manifest(open_store(settings), validated).summary["verdict"]))


def route_decision(gate: str, settings: Settings, *, approval_wanted: bool) -> str:
    """The task after the gate."""
    store = open_store(settings)
    decision = read_decision(store, read_manifest(store, gate))
    log.info("shipped=%s reason=%r", decision.shipped, decision.reason)
    return after_gate(decision, approval_wanted=approval_wanted)


def report_data(validated: str, asked: Asked, settings: Settings) -> None:
    """Say why this day changes nothing. The champion keeps serving, and the run is a success."""
    manifest = read_manifest(open_store(settings), validated)
    day, summary = manifest.partition, manifest.summary
    if summary["verdict"] == "empty":
        sentence = f"nothing to do: {day} brought no events; the champion keeps serving"
    else:
        reasons = "; ".join(summary["reasons"].get(day, ())) or "see the report of validate_data"
        sentence = f"{day} was not accepted ({summary['verdict']}): {reasons}; the champion keeps serving"
    log.warning("%s. Report: %s", sentence, validated)
    record_end(asked.run_key, "FINISHED", settings, partition=day, note=sentence)


def report_rejection(gate: str, asked: Asked, settings: Settings) -> None:
    """Print every finding. A refused candidate is a successful run: the champion keeps serving."""
    told = explanation(open_store(settings), gate)
    log.warning("nothing ships, the champion keeps serving: %s", told["reason"])
    for line in as_markdown(told).splitlines():
        log.info("%s", line)
    log.info("the same as JSON: freshrank explain %s --json", gate)
    record_end(asked.run_key, "FINISHED", settings, partition=told["partition"])


def evidence(gate: str, settings: Settings) -> str:
    """What a person reads before approving, as Markdown: what would ship, and every finding."""
    store = open_store(settings)
    told = explanation(store, gate)
    if exception := approvable(read_decision(store, read_manifest(store, gate))):
        head = f"The gate ships nothing, because nothing was proven. Approving ships the **{exception}**."
    else:
        head = f"The gate ships the **{told['shipped']}**; this run was asked to wait for a person."
    return f"{head}\n\n{as_markdown(told)}"


def close_refresh(asked: Asked, status: str, settings: Settings, *, note: str | None = None) -> None:
    """End the run's page in MLflow, FINISHED or FAILED, with a note where there is one."""
    record_end(asked.run_key, status, settings, note=note)


def roll_out(package: str, run_key: str, settings: Settings, *, deadline_s: float = ROLLOUT_WITHIN_S) -> str:
    """Hand a packaged release to the controller and wait for the end; the sentence it ended with.

    The key is the release and the refresh that made it, so that a retry joins the rollout that is under way.

    Raises:
        InputRejected: it was not promoted; the champion serves. Conflict: another release serves than the one that this
            one was compared with.
        Unavailable: the controller does not answer. What it was told goes on without us.
    """
    store, controller = open_store(settings), ControllerClient(settings)
    manifest = read_manifest(store, package)
    release = str(manifest.summary["release"])
    compared = manifest.inputs.get("resolve_champion")
    if (controller.status().get("champion") or {}).get("digest") == release:
        return f"release {release[:12]} serves already: this refresh made the same bytes"
    told = controller.submit(
        release=release,
        kind="canary",
        actor="airflow:model_rollout",
        reason=_why_it_ships(store, manifest.inputs["gate"]),
        idempotency_key=_key(release, run_key),
        policy=load_policy(settings.policy).rollout.model_dump(mode="json"),
        expected_champion=str(read_manifest(store, compared).summary["release"]) if compared else None,
    )
    log.info("release=%s rollout=%s revision=%s", release, told["rollout"], told["revision"])
    ended = controller.wait(
        told["rollout"],
        deadline_s=deadline_s,
        on_change=lambda now: log.info("rollout=%s step=%s reason=%r", now["state"], now["step"], now["reason"]),
    )
    record_serving(controller.status(), settings)
    if ended["state"] != "promoted":
        raise InputRejected(f"release {release[:12]} was {ended['state']}: {ended['reason']}; the champion serves")
    return f"release {release[:12]} serves all traffic: {ended['reason']}"


def roll_back(params: Mapping[str, Any], actor: str, run_key: str, settings: Settings) -> str:
    """Send all traffic back. A retry of the same run presses no second time."""
    controller = ControllerClient(settings)
    done = controller.rollback(
        to=params.get("to") or None, actor=actor, reason=params["reason"], idempotency_key=f"airflow:{run_key}"
    )
    record_serving(controller.status(), settings)
    return told_of_rollback(done)


def is_landed(key: str, settings: Settings) -> bool:
    return open_store(settings).exists(key)


def landing_key(ingested: str, settings: Settings) -> tuple[str, str]:
    """(partition, key of the manifest that makes it visible)."""
    from tasks.adapters.partitions import landed_key

    partition = read_manifest(open_store(settings), ingested).partition
    return partition, landed_key(partition)


def _partition(inputs: Mapping[str, str], asked: Asked, store: Store) -> str:
    days = {read_manifest(store, uri).partition for uri in inputs.values()}
    if len(days) > 1:
        raise InputRejected(f"the inputs are of different days: {', '.join(sorted(days))}; start the refresh again")
    if days:
        return days.pop()
    day, is_partition = partition_of(asked.params, asked.partition_key)
    partition = day if is_partition else newest_partition(store, day)
    log.info("partition=%s wall_day=%s", partition, None if is_partition else day)
    return partition


def _approved(store: Store, gate: str) -> str | None:
    """package runs only if the gate ships something or a person approved: where the gate does not, a person did."""
    return approvable(read_decision(store, read_manifest(store, gate)))


def _key(release: str, run_key: str) -> str:
    readable = f"{release}:{run_key}"
    return readable if len(readable) <= LONGEST_KEY else digest_of(readable)


def _why_it_ships(store: Store, gate: str) -> str:
    manifest = read_manifest(store, gate)
    return f"{manifest.partition}: {read_decision(store, manifest).reason}"[:500]
