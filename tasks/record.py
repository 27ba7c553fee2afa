"""Mirror what steps and gates said into MLflow, with the numbers of the manifest and of `freshrank explain`.

MLflow is a view: when it is down or hangs, the call waits under `$FRESHRANK_HOME/spool/mlflow` and the step goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tasks.adapters.mirror import Mirror
from tasks.adapters.mlmodel import mlmodel_files
from tasks.adapters.registry import Dataset, Registry
from tasks.adapters.releases import release_description
from tasks.adapters.store import Store, open_store
from tasks.decisions import STOPS, as_markdown, explanation, found_by_package, read_decision
from tasks.domain.manifest import Manifest, digest_of
from tasks.explain.page import html
from tasks.lineage import package_of
from tasks.run import read_manifest
from tasks.settings import Settings

PAGES = (".html", ".md", ".png", ".svg")  # what people read; data stays in the object store
LARGEST_PAGE = 4 << 20
DECISION_PAGE = "gate/decision.html"  # of every refresh, also of one whose data stopped it before the gate
NAMED = {"gate_error_rates": "gate error rates"}  # steps outside of a refresh: what their run is called
CURVES = "curves.json"  # [{name: value, ...} of epoch 1, 2, ...], written by a step that has any
SYSTEM = "system.json"  # [{system/NAME: value, ...}, ...]: MLflow shows metrics of that name on a page of their own
RECIPE = "recipe.json"  # every choice of the recipe that a step followed


def record_step(uri: str, run_key: str, settings: Settings) -> bool:
    """Mirror one completed step into the run of its refresh. False: MLflow does not answer, it is kept for later."""
    return mirror(settings).call("step", uri=uri, run_key=run_key)


def record_end(
    run_key: str, status: str, settings: Settings, *, partition: str | None = None, note: str | None = None
) -> bool:
    """Close the run of a refresh, FINISHED or FAILED, with the sentence that its page opens with."""
    return mirror(settings).call("end", run_key=run_key, status=status, partition=partition, note=note)


def record_serving(status: Mapping[str, Any], settings: Settings) -> bool:
    """Make the registry's aliases say what the controller's status says."""
    return mirror(settings).call(
        "serving", status={name: status.get(name) for name in ("champion", "challenger", "previous")}
    )


def mirror(settings: Settings, registry: Registry | None = None, store: Store | None = None) -> Mirror:
    """The calls above, on the configured MLflow and store unless others are given."""

    def opened() -> tuple[Registry, Store]:
        from tasks.adapters.mlflow_registry import MlflowRegistry

        return registry or MlflowRegistry(settings), store or open_store(settings)

    plays: dict[str, Callable[..., None]] = {
        "step": lambda **told: _play_step(*opened(), **told),
        "end": lambda **told: _play_end(*opened(), **told),
        "serving": lambda **told: _play_serving(*opened(), **told),
    }
    return Mirror(settings.home / "spool" / "mlflow", plays)


def _play_step(registry: Registry, store: Store, uri: str, run_key: str) -> None:
    manifest = read_manifest(store, uri)
    run_id = registry.refresh_run(run_key, manifest.partition, named=NAMED.get(manifest.step, "refresh"))
    registry.log_step(run_id, uri, manifest)
    registry.log_artifacts(run_id, _pages(store, manifest))
    if CURVES in manifest.outputs:
        points = json.loads(store.get(store.key(manifest.outputs[CURVES].uri)))
        registry.log_curves(run_id, _curves(points, f"{manifest.step}.curve."), manifest.started_at)
    if SYSTEM in manifest.outputs:
        points = json.loads(store.get(store.key(manifest.outputs[SYSTEM].uri)))
        registry.log_curves(run_id, _curves(points), manifest.started_at)
    if RECIPE in manifest.outputs:
        registry.log_params(run_id, _flat(json.loads(store.get(store.key(manifest.outputs[RECIPE].uri))), "recipe"))
    if manifest.step == "build_dataset":
        registry.refresh_run(run_key, manifest.partition, {"data_digest": data_digest(manifest)})
        for dataset in _datasets(uri, manifest):
            registry.log_dataset(run_id, dataset)
    if manifest.step == "validate_data" and manifest.summary.get("verdict") in STOPS:
        _record_decision(registry, store, uri, run_id)
    if manifest.step == "gate":
        _record_gate(registry, store, uri, manifest, run_id, run_key)
    if manifest.step == "package":
        register_packaged(registry, store, manifest, run_id)
        _record_skew(registry, store, manifest, run_id)
        _record_decision(registry, store, manifest.inputs["gate"], run_id)


def _record_gate(registry: Registry, store: Store, uri: str, manifest: Manifest, run_id: str, run_key: str) -> None:
    decision = read_decision(store, manifest)
    for verdict in decision.verdicts:
        tags = {
            "policy": decision.policy,
            "shipped": str(verdict.kind == decision.shipped).lower(),
            "gate.manifest": uri,
        }
        registry.log_candidate(run_id, verdict, manifest.started_at, tags)
    registry.log_artifacts(run_id, {"gate/decision.json": store.get(store.key(manifest.outputs["decision.json"].uri))})
    told = {"shipped": decision.shipped, "reason": decision.reason, "policy": decision.policy}
    registry.refresh_run(run_key, manifest.partition, told)
    registry.note(run_id, as_markdown(_record_decision(registry, store, uri, run_id)), DECISION_PAGE)


def _record_decision(registry: Registry, store: Store, uri: str, run_id: str) -> dict[str, Any]:
    """The decision record as a page and as JSON; again after packaging, when it has a release to name."""
    told = explanation(store, uri)
    record = json.dumps(told, indent=1, sort_keys=True).encode()
    registry.log_artifacts(run_id, {DECISION_PAGE: html(told).encode(), "gate/record.json": record})
    return told


def _record_skew(registry: Registry, store: Store, manifest: Manifest, run_id: str) -> None:
    """What package found, beside the gate's findings of the candidate that it packaged."""
    gate = read_manifest(store, manifest.inputs["gate"])
    decision, found = read_decision(store, gate), found_by_package(manifest)
    shipped = str(manifest.params.get("approved") or decision.shipped)
    for verdict in decision.verdicts:
        if found and verdict.kind == shipped:
            whole = verdict.model_copy(update={"findings": (*verdict.findings, *found)})
            registry.log_candidate(run_id, whole, gate.started_at)


def register_packaged(registry: Registry, store: Store, manifest: Manifest, run_id: str | None) -> str:
    """The version of what a package step made; its number."""
    release = str(manifest.summary["release"])
    gate, dataset = (read_manifest(store, manifest.inputs[name]) for name in ("gate", "build_dataset"))
    decision = read_decision(store, gate)
    shipped = str(manifest.params.get("approved") or decision.shipped)  # a person may ship what was inconclusive
    verdict = next((v for v in decision.verdicts if v.kind == shipped), None)
    tags = {
        "kind": shipped,
        "verdict": str(verdict.outcome) if verdict else "none",
        "reason": decision.reason,
        "policy": decision.policy,
        "data_digest": data_digest(dataset),
        "recipe": str(dataset.params.get("recipe")),
        "partition": manifest.partition,
        "code": manifest.code_version,
        "lock": manifest.lock_digest,
        "seed": str(manifest.seed),
        "decision": manifest.inputs["gate"],  # `freshrank explain` of this is the record
        "record": DECISION_PAGE,  # the same as a page, in this version's run
        "signed_by": str(manifest.summary.get("signed_by")),
    }
    described = release_description(store, release)
    tags |= {
        name: str(described[name])
        for name in ("state_through", "train_end", "weights_digest", "view")
        if name in described
    }
    uri = store.uri(f"releases/{release}.json")
    golden = json.loads(store.get(f"releases/{release}/release/golden.json"))
    files = mlmodel_files(release, uri, described, golden, run_id) if run_id else None
    return registry.register(release, uri, tags, run_id, files)


def mirror_serving(registry: Registry, store: Store, status: Mapping[str, Any]) -> dict[str, str]:
    """Make the registry's aliases say what the controller's status says; alias -> what was changed."""

    def register(release: str) -> str:
        packaged = package_of(store, release)
        if packaged is None:  # made by hand: all that is known is where it lies
            return registry.register(release, store.uri(f"releases/{release}.json"), {})
        return register_packaged(registry, store, packaged, registry.run_of(release))

    return registry.mirror_aliases(status, register)


def _datasets(uri: str, manifest: Manifest) -> list[Dataset]:
    """What the step split the days into, by what it is for."""
    digest, summary = data_digest(manifest)[:32], manifest.summary
    counts = {"training": summary.get("train_rows"), "holdout": summary.get("holdout_slates")}
    return [
        Dataset(f"{context} {manifest.partition}", digest, uri, context, int(count))
        for context, count in counts.items()
        if count is not None
    ]


def _play_end(
    registry: Registry, store: Store, run_key: str, status: str, partition: str | None, note: str | None
) -> None:
    run_id = registry.refresh_run(run_key, partition or "unknown")
    if note:
        registry.note(run_id, note, DECISION_PAGE)
    registry.close(run_id, status)


def _play_serving(registry: Registry, store: Store, status: Mapping[str, Any]) -> None:
    mirror_serving(registry, store, status)


def _curves(points: list[dict[str, float]], prefix: str = "") -> dict[str, list[float]]:
    names = sorted({name for point in points for name in point} - {"epoch"})
    return {f"{prefix}{name}": [float(point.get(name, "nan")) for point in points] for name in names}


def _flat(recipe: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """{"recipe.training.epochs": "3", ...}"""
    flat: dict[str, str] = {}
    for name, value in recipe.items():
        flat |= _flat(value, f"{prefix}.{name}") if isinstance(value, Mapping) else {f"{prefix}.{name}": str(value)}
    return flat


def _pages(store: Store, manifest: Manifest) -> dict[str, bytes]:
    return {
        f"{manifest.step}/{name}": store.get(store.key(artifact.uri))
        for name, artifact in manifest.outputs.items()
        if name.endswith(PAGES) and artifact.bytes <= LARGEST_PAGE
    }


def data_digest(dataset: Manifest) -> str:
    """What build_dataset made, by content: two runs with one digest trained and were judged on the same data."""
    return digest_of({name: artifact.sha256 for name, artifact in dataset.outputs.items()})
