"""Find what the gate decided, and tell it: the same numbers for `freshrank explain`, the Airflow log and MLflow."""

from __future__ import annotations

from typing import Any

from tasks.adapters.store import Store
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Decision, Outcome
from tasks.domain.manifest import Manifest, partition_date
from tasks.run import read_manifest

SIGN = {Outcome.PASS: "pass", Outcome.INCONCLUSIVE: "????", Outcome.FAIL: "FAIL"}


def find_gate(store: Store, run: str | None) -> str:
    """The manifest URI of a gate step: by its own URI, by partition (the latest of that day), or the latest of all.

    Raises:
        InputRejected: there is none.
    """
    if run and "://" in run:
        return run
    if run:
        partition_date(run)
    prefix = f"runs/gate/{run}/" if run else "runs/gate/"
    keys = [key for key in store.list(prefix) if key.endswith(".json") and key.count("/") == 3]
    if not keys:
        raise InputRejected(
            f"no gate has run{' for ' + run if run else ''}; start one with `freshrank refresh --partition DAY`"
        )
    uris = [store.uri(key) for key in keys]
    return max(uris, key=lambda uri: read_manifest(store, uri).started_at)


def read_decision(store: Store, manifest: Manifest) -> Decision:
    return Decision.model_validate_json(store.get(store.key(manifest.outputs["decision.json"].uri)))


def explanation(store: Store, uri: str) -> dict[str, Any]:
    """{run, partition, policy, shipped, reason, candidates}: the form of `freshrank explain --json`."""
    manifest = read_manifest(store, uri)
    decision, release = read_decision(store, manifest), _shipped_release(store, manifest.partition, uri)
    return {
        "run": uri,
        "partition": manifest.partition,
        "policy": decision.policy,
        "shipped": decision.shipped,
        "reason": decision.reason,
        "release": release,
        "candidates": candidates_of(decision, release),
        "report": {key: value for key, value in manifest.summary.items() if key not in ("shipped", "reason")},
    }


def candidates_of(decision: Decision, release: str | None) -> list[dict[str, Any]]:
    """Each candidate's verdict; the one that shipped has the release's digest."""
    return [
        {
            "kind": verdict.kind,
            "release": release if verdict.kind == decision.shipped else None,
            "verdict": verdict.outcome,
            "reason": verdict.reason,
            "findings": [finding.model_dump(mode="json") for finding in verdict.findings],
        }
        for verdict in decision.verdicts
    ]


def as_markdown(told: dict[str, Any]) -> str:
    lines = [f"# {told['partition']}: shipped {told['shipped']}", "", told["reason"], ""]
    for candidate in told["candidates"]:
        lines += [f"## {candidate['kind']}: {candidate['verdict']}", ""]
        lines += [f"- {SIGN[Outcome(f['outcome'])]}  {f['sentence']}" for f in candidate["findings"]]
        lines.append("")
    lines += [f"- {line}" for line in told.get("report", {}).get("lines", [])]
    return "\n".join(lines)


def _shipped_release(store: Store, partition: str, gate_uri: str) -> str | None:
    for key in store.list(f"runs/package/{partition}/"):
        if key.endswith(".json") and key.count("/") == 3:
            manifest = read_manifest(store, store.uri(key))
            if manifest.inputs.get("gate") == gate_uri:
                return str(manifest.summary["release"])
    return None
