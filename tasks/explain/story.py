"""What led to a decision, read from the manifests behind it: evidence, compression's front, latencies, data, lineage.

A part that is missing (a first champion has no benchmark, a bootstrap no champion, an old day was retired) is left out;
nothing here is needed to decide.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from tasks.adapters.store import Store
from tasks.domain.errors import InputRejected
from tasks.domain.findings import AGAINST
from tasks.domain.gate import Decision, Evidence, GatePolicy, Outcome
from tasks.domain.manifest import Manifest
from tasks.domain.what_if import what_would_change, would_ship
from tasks.run import read_manifest

PATH = (
    "ingest", "validate_data", "resolve_champion", "build_dataset", "finetune", "compress", "evaluate", "benchmark",
    "gate", "package",
)  # fmt: skip
POLICY = "policy.json"  # beside decision.json: the numbers that the gate was told, whatever the file says today
CURVE = np.linspace(0.0, 1.0, 51)

Made = dict[str, tuple[str, Manifest]]  # step -> (manifest URI, manifest)


def made_by(store: Store, uri: str) -> Made:
    """Every step that led to this one, and itself, in the order of the path. What was deleted since is left out."""
    made: Made = {}
    waiting = [uri]
    while waiting:
        at = waiting.pop()
        try:
            manifest = read_manifest(store, at)
        except InputRejected:
            continue
        if manifest.step not in made:
            made[manifest.step] = (at, manifest)
            waiting += manifest.inputs.values()
    return {step: made[step] for step in (*PATH, *sorted(set(made) - set(PATH))) if step in made}


def output(store: Store, made: Made, step: str, name: str) -> Any:
    """A JSON file that a step left, or None."""
    if step not in made or name not in made[step][1].outputs:
        return None
    try:
        return json.loads(store.get(store.key(made[step][1].outputs[name].uri)))
    except InputRejected:
        return None


def story(store: Store, made: Made, decision: Decision) -> dict[str, Any]:
    """Everything beside the findings: {bounds, changes, then, front, latency, history, evaluation, data, lineage}."""
    evidence, policy = read_evidence(store, made), read_policy(store, made)
    asked = str(made["gate"][1].params.get("candidates") or "both") if "gate" in made else "both"
    told: dict[str, Any] = {
        "bounds": {one.kind: bounds(one) for one in evidence},
        "changes": changes(evidence, policy, decision, asked) if policy else [],
        "front": output(store, made, "compress", "front.json"),
        "latency": latency(output(store, made, "benchmark", "benchmark.json")),
        "history": next((one.history.model_dump(mode="json") for one in evidence if one.history), None),
        "evaluation": (output(store, made, "evaluate", "evaluation.json") or {}).get("candidates", {}),
        "data": data(made),
        "lineage": lineage(made.values()),
    }
    return told


def read_evidence(store: Store, made: Made) -> tuple[Evidence, ...]:
    rows = output(store, made, "gate", "evidence.json")
    try:
        return TypeAdapter(tuple[Evidence, ...]).validate_python(rows or ())
    except ValidationError:  # written by a version whose evidence had another form: the findings still stand
        return ()


def read_policy(store: Store, made: Made) -> GatePolicy | None:
    try:
        return GatePolicy.model_validate(output(store, made, "gate", POLICY))
    except ValidationError:
        return None


def bounds(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Finding -> what its number is, where it lies, both bounds and the sample they rest on."""
    found: dict[str, dict[str, Any]] = {}
    for row in evidence.comparisons:
        numbers = {"at": row.difference, "low": row.lower, "high": row.upper}
        found[f"{row.name}[{row.slice}]"] = {"of": "difference", **numbers, "sample": f"{row.slates:,} slates"}
    for rival in evidence.rivals:
        numbers = {"at": rival.difference, "low": rival.lower, "high": rival.upper}
        found[f"{AGAINST}{rival.name}[all]"] = {"of": "difference", **numbers, "sample": f"{rival.slates:,} slates"}
    for timed in evidence.latencies:
        numbers = {"at": timed.ratio, "low": timed.lower, "high": timed.upper}
        found[f"{timed.name}[all]"] = {"of": "ratio", "unit": "ms", **numbers, "sample": f"{timed.pairs:,} pairs"}
    for sized in evidence.resources:
        numbers = {"at": sized.ratio, "low": sized.lower, "high": sized.upper}
        found[f"{sized.name}[all]"] = {"of": "ratio", "unit": "MiB", **numbers, "sample": f"{sized.runs} runs"}
    if twin := evidence.compression:
        numbers = {"at": twin.difference, "low": twin.lower, "high": twin.upper}
        found["compression[all]"] = {"of": "difference", **numbers, "sample": f"{twin.slates:,} slates"}
    for check in evidence.checks:
        found[f"{check.name}[all]"] = {"of": "value", "at": check.value, "sample": "the whole state"}
    return found


def changes(evidence: Iterable[Evidence], policy: GatePolicy, decision: Decision, asked: str) -> list[dict[str, Any]]:
    """Per candidate: what each finding lacks or has to spare, and what would ship if the verdict were a pass."""
    outcomes = {verdict.kind: verdict.outcome for verdict in decision.verdicts}
    return [
        {
            "kind": one.kind,
            "outcome": outcomes[one.kind],
            "changes": [change.model_dump(mode="json") for change in what_would_change(one, policy)],
            "then": decision.shipped
            if outcomes[one.kind] is Outcome.PASS
            else would_ship(one.kind, decision.verdicts, policy, asked),
        }
        for one in evidence
        if one.kind in outcomes
    ]


def latency(measured: dict[str, Any] | None) -> dict[str, Any] | None:
    """What benchmark.json keeps of each system, as quantiles: {requests, systems: {name: {p50, p95, p99, curve}}}."""
    if not measured:
        return None
    systems = {}
    for name, times in measured.get("wall_ms", {}).items():
        values = np.quantile(np.asarray(times, float), CURVE).round(4).tolist()
        tails = {f"p{n}": round(float(np.quantile(times, n / 100)), 4) for n in (50, 95, 99)}
        systems[name] = {**tails, "curve": values}
    return {"requests": measured["requests"], "systems": systems}


def data(made: Made) -> dict[str, Any] | None:
    """The data report in a few numbers, and where the whole of it is."""
    if "validate_data" not in made:
        return None
    uri, manifest = made["validate_data"]
    told = manifest.summary
    kept = ("verdict", "rows", "accepted", "quarantined", "not_accepted", "quarantined_by_rule", "marked_by_rule")
    report = manifest.outputs.get("report.html")
    dataset = made["build_dataset"][1].summary if "build_dataset" in made else {}
    return {
        **{name: told[name] for name in kept if name in told},
        "reasons": told.get("reasons", {}).get(manifest.partition, []),
        "days": len(told.get("days", ())) + int(told.get("already_accepted", 0)),
        "dataset": {name: value for name, value in dataset.items() if isinstance(value, int | float | str)},
        "manifest": uri,
        "report": report.uri if report else None,
    }


def lineage(made: Iterable[tuple[str, Manifest]]) -> list[dict[str, Any]]:
    """One row a step, from the partitions on: what it was, when, with which code, and what it read."""
    return [
        {
            "step": manifest.step,
            "partition": manifest.partition,
            "manifest": uri,
            "inputs": sorted(manifest.inputs),
            "params": {name: _told(value) for name, value in manifest.params.items()},
            "code": manifest.code_version,
            "lock": manifest.lock_digest,
            "seed": manifest.seed,
            "at": manifest.started_at,
            "seconds": manifest.seconds,
        }
        for uri, manifest in made
    ]


def _told(value: Any) -> Any:
    """A recipe of one's own is named by its file: where that lies on somebody's machine is nobody's business."""
    return PurePath(value).name if isinstance(value, str) and value.startswith("/") else value
