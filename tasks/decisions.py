"""Find what a run decided, and tell it: the same numbers for `freshrank explain`, the Airflow log and MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.adapters.store import Store
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Check, Decision, Finding
from tasks.domain.manifest import Manifest, partition_date
from tasks.domain.product_findings import checked
from tasks.explain.story import PATH, Made, data, lineage, made_by, story
from tasks.explain.text import as_markdown, headline
from tasks.run import read_manifest

__all__ = [
    "STOPS",
    "as_markdown",
    "candidates_of",
    "explanation",
    "find_gate",
    "find_run",
    "found_by_package",
    "read_decision",
]
APPROVAL = ("approved", "approved_by", "approved_because", "approved_at")  # what package is told of a person's answer
STOPS = ("empty", "hold", "refuse")  # data verdicts after which no gate runs


def find_gate(store: Store, run: str | None) -> str:
    """The manifest URI of a gate step: by its own URI, by partition (the latest of that day), or the latest of all.

    Raises:
        InputRejected: there is none.
    """
    if run and "://" in run:
        return run
    if run:
        partition_date(run)
    found = _latest(store, "gate", run)
    if found is None:
        raise InputRejected(
            f"no gate has run{' for ' + run if run else ''}; start one with `freshrank refresh --partition DAY`"
        )
    return found[0]


def find_run(store: Store, run: str | None) -> str:
    """As `find_gate`, but a run that ended before its gate is found too: by the last step that it completed.

    Raises:
        InputRejected: nothing has run.
    """
    if run and "://" in run:
        return run
    if run:
        partition_date(run)
    gate, validated = _latest(store, "gate", run), _latest(store, "validate_data", run)
    if (
        validated
        and validated[1].summary.get("verdict") in STOPS
        and (not gate or gate[1].started_at < validated[1].started_at)
    ):
        return validated[0]
    if gate:
        return gate[0]
    if run:
        last = [found for step in PATH if (found := _latest(store, step, run))]
        if last:
            return last[-1][0]
    return find_gate(store, run)


def read_decision(store: Store, manifest: Manifest) -> Decision:
    return Decision.model_validate_json(store.get(store.key(manifest.outputs["decision.json"].uri)))


def explanation(store: Store, uri: str) -> dict[str, Any]:
    """The form of `freshrank explain --json`; it always has run, partition, headline, shipped, reason and candidates.

    `uri` is the manifest of a gate, or of the last step of a run that never came to one.
    """
    made = made_by(store, uri)
    manifest = read_manifest(store, uri)
    if manifest.step != "gate":
        return _without_gate(uri, manifest, made)
    decision, package = read_decision(store, manifest), _package_of(store, manifest.partition, uri)
    release, approval = None, None
    after: tuple[Finding, ...] = ()
    if package:
        made["package"] = package
        release = str(package[1].summary["release"])
        after = found_by_package(package[1])
        approval = (
            {name: package[1].params.get(name) for name in APPROVAL} if package[1].params.get("approved") else None
        )
    return {
        "run": uri,
        "partition": manifest.partition,
        "policy": decision.policy,
        "headline": headline(decision, approval),
        "shipped": decision.shipped,
        "reason": decision.reason,
        "needs_review": decision.needs_review,
        "release": release,
        "approval": approval,
        "candidates": candidates_of(decision, release, approval, after),
        "report": {key: value for key, value in manifest.summary.items() if key not in ("shipped", "reason")},
        **story(store, made, decision),
    }


def candidates_of(
    decision: Decision,
    release: str | None,
    approval: dict[str, Any] | None = None,
    after: Sequence[Finding] = (),
) -> list[dict[str, Any]]:
    """Each candidate's verdict; the one that shipped, by the gate or by a person, has the release's digest.

    after: what package found of the release, beside the gate's findings.
    """
    shipped = approval["approved"] if approval else decision.shipped
    return [
        {
            "kind": verdict.kind,
            "release": release if verdict.kind == shipped else None,
            "verdict": verdict.outcome,
            "reason": verdict.reason,
            "findings": [
                finding.model_dump(mode="json")
                for finding in (*verdict.findings, *(after if verdict.kind == shipped else ()))
            ],
        }
        for verdict in decision.verdicts
    ]


def found_by_package(manifest: Manifest) -> tuple[Finding, ...]:
    """What the packaged service showed of itself, in the form of the gate's findings: train/serve skew."""
    told = manifest.summary.get("skew")
    return (checked(Check.model_validate(told)),) if told else ()


def _without_gate(uri: str, manifest: Manifest, made: Made) -> dict[str, Any]:
    """A run whose data was not accepted, or that has not come to its gate: nothing was decided, so nothing ships."""
    verdict = str(manifest.summary.get("verdict"))
    if manifest.step == "validate_data" and verdict in STOPS:
        reasons = "; ".join(manifest.summary.get("reasons", {}).get(manifest.partition, ()))
        head = {
            "empty": "Nothing to do: the day brought no events. The champion keeps serving.",
            "hold": "The data is held for a person to look at, so no model was made. The champion keeps serving.",
            "refuse": "The data was refused, so no model was made. The champion keeps serving.",
        }[verdict]
        said = {"empty": "was found empty", "hold": "is held", "refuse": "was refused"}[verdict]
        reason = f"the day {manifest.partition} {said} by validate_data" + (f": {reasons}" if reasons else "")
    else:
        following = PATH[PATH.index(manifest.step) + 1] if manifest.step in PATH[:-1] else "the next step"
        head = f"Not decided: {manifest.step} is complete, {following} is not. The champion keeps serving."
        reason = (
            f"the run has not come to its gate: the last complete step is {manifest.step}. If the run has ended, the log of "
            f"{following} in Airflow says why; clear that task to go on from there"
        )
    return {
        "run": uri,
        "partition": manifest.partition,
        "policy": None,
        "headline": head,
        "shipped": "none",
        "reason": reason,
        "needs_review": verdict == "hold",
        "release": None,
        "approval": None,
        "candidates": [],
        "report": {},
        "data": data(made),
        "lineage": lineage(made.values()),
    }


def _latest(store: Store, step: str, partition: str | None) -> tuple[str, Manifest] | None:
    prefix = f"runs/{step}/{partition}/" if partition else f"runs/{step}/"
    uris = [store.uri(key) for key in store.list(prefix) if key.endswith(".json") and key.count("/") == 3]
    return max(((uri, read_manifest(store, uri)) for uri in uris), key=lambda one: one[1].started_at, default=None)


def _package_of(store: Store, partition: str, gate_uri: str) -> tuple[str, Manifest] | None:
    for key in store.list(f"runs/package/{partition}/"):
        if key.endswith(".json") and key.count("/") == 3:
            manifest = read_manifest(store, store.uri(key))
            if manifest.inputs.get("gate") == gate_uri:
                return store.uri(key), manifest
    return None
