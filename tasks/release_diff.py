"""What differs between two releases: files, weights, state, policy, days, and the numbers that each gate saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.adapters.releases import newest_manifest, release_description
from tasks.adapters.store import Store
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Decision
from tasks.domain.manifest import Manifest
from tasks.lineage import package_of, parents, provenance_of, read_run

FACTS = ("kind", "partition", "train_end", "state_through", "weights_digest", "view", "key_id")
MADE_BY = ("code", "lock", "seed", "recipe", "policy", "verdict")
HOLDOUT = "holdout"  # what the dataset's files that hold the holdout are called


def diff(store: Store, before: str, after: str) -> dict[str, Any]:
    """{before, after, same, facts, made_by, partitions, files, metrics}; equal things are left out.

    Metrics are each gate's own numbers. They compare only where both gates saw the same holdout: `same_holdout` says so.
    """
    (one, other), named = (release_description(store, release) for release in (before, after)), (before, after)
    provenances = [provenance_of(store, release) or {} for release in named]
    facts = [{name: told.get(name) for name in FACTS} for told in (one, other)]
    made_by = [{name: told.get(name) for name in MADE_BY} for told in provenances]
    days = [dict(told.get("partitions") or {}) for told in provenances]
    return {
        "before": before,
        "after": after,
        "same": before == after,
        "facts": changed(*facts),
        "made_by": changed(*made_by),
        "partitions": _sorted_out(*days),
        "files": _files(store, before, after),
        "metrics": _metrics(store, before, after),
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """name -> [before, after] of what differs."""
    names = sorted({*before, *after})
    return {name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)}


def _sorted_out(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        "added": sorted(set(after) - set(before)),
        "removed": sorted(set(before) - set(after)),
        "changed": sorted(name for name in {*before} & {*after} if before[name] != after[name]),
    }


def _files(store: Store, before: str, after: str) -> dict[str, Any]:
    one, other = (newest_manifest(store, "releases", release)[1].files for release in (before, after))
    sorted_out = _sorted_out(one, other)
    sizes = {name: [one[name].bytes, other[name].bytes] for name in sorted_out["changed"]}
    total = [sum(file.bytes for file in files.values()) for files in (one, other)]
    return {**sorted_out, "bytes": total, "bytes_of_changed": sizes}


def _metrics(store: Store, before: str, after: str) -> dict[str, Any]:
    seen = [_judged(store, release) for release in (before, after)]
    if seen[0] is None or seen[1] is None:
        gone = before if seen[0] is None else after
        return {"missing": f"the gate of {gone[:12]} is not in the store", "values": {}}
    (one, holdout), (other, another) = seen[0], seen[1]
    both = {name: {"before": one[name], "after": other[name]} for name in sorted({*one} & {*other})}
    return {"same_holdout": holdout == another, "values": both}


def _judged(store: Store, release: str) -> tuple[dict[str, float], tuple[str, ...]] | None:
    """({metric[slice]: the candidate's number}, what the holdout's files contained) as the gate saw them."""
    package = package_of(store, release)
    if package is None or "gate" not in package.inputs:
        return None
    runs = parents(store, package)
    gate, dataset = read_run(store, runs["gate"]), read_run(store, runs["build_dataset"])
    if gate is None or dataset is None:
        return None
    return _numbers(store, gate, package), _holdout(dataset)


def _numbers(store: Store, gate: Manifest, package: Manifest) -> dict[str, float]:
    try:
        decision = Decision.model_validate_json(store.get(store.key(gate.outputs["decision.json"].uri)))
    except (InputRejected, KeyError):
        return {}
    shipped = str(package.params.get("approved") or decision.shipped)
    return {
        f"{finding.name}[{finding.slice}]": finding.candidate
        for verdict in decision.verdicts
        if verdict.kind == shipped
        for finding in verdict.findings
        if finding.candidate is not None
    }


def _holdout(dataset: Manifest) -> tuple[str, ...]:
    return tuple(sorted(one.sha256 for name, one in dataset.outputs.items() if HOLDOUT in name))
