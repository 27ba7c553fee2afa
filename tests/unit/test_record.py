"""MLflow mirrors the manifests, and a mirror that is down loses nothing and holds nobody up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.adapters.registry import RUN_KEY, MemoryRegistry, finding_metric
from tasks.adapters.store import MemoryStore
from tasks.decisions import explanation
from tasks.domain.errors import Unavailable
from tasks.domain.gate import Decision, Finding, Outcome, Verdict
from tasks.domain.manifest import Artifact, Manifest
from tasks.record import DECISION_PAGE, mirror
from tasks.settings import Settings

RUN = "scheduled__2026-11-21"
RELEASE = "ab" * 32


class Down(MemoryRegistry):
    def __init__(self) -> None:
        super().__init__()
        self.down = True

    def _find(self, run_key: str) -> object:  # type: ignore[override]
        if self.down:
            raise Unavailable("MLflow did not answer")
        return super()._find(run_key)


def put(store: MemoryStore, step: str, files: dict[str, bytes] | None = None, **changes: object) -> str:
    outputs = {}
    for name, content in (files or {}).items():
        store.put_new(f"runs/{step}/2017-07-01/k/{name}", content)
        outputs[name] = Artifact(
            uri=store.uri(f"runs/{step}/2017-07-01/k/{name}"), sha256=f"{len(content):064x}", bytes=len(content)
        )
    told: dict[str, object] = {
        "step": step,
        "partition": "2017-07-01",
        "inputs": {},
        "outputs": outputs,
        "params": {},
        "summary": {"rows": 3},
        "code_version": "c0de",
        "lock_digest": "10c4",
        "seed": 7,
        "started_at": "2026-11-21T05:00:00+00:00",
        "seconds": 1.5,
    }
    store.put_new(f"runs/{step}/2017-07-01/k.json", Manifest.model_validate(told | changes).model_dump_json().encode())
    return store.uri(f"runs/{step}/2017-07-01/k.json")


def a_decision() -> Decision:
    def finding(name: str, bound: float | None, outcome: Outcome) -> Finding:
        return Finding(
            name=name,
            slice="all",
            champion=0.3 if bound is not None else None,
            candidate=0.31,
            difference=0.01 if bound is not None else None,
            bound=bound,
            margin=0.008,
            outcome=outcome,
            sentence=f"{name} is {outcome}",
        )

    weights = Verdict(
        kind="weights",
        outcome=Outcome.INCONCLUSIVE,
        reason="not shown",
        findings=(finding("ndcg_at_10", -0.02, Outcome.INCONCLUSIVE),),
    )
    state = Verdict(
        kind="state",
        outcome=Outcome.PASS,
        reason="no harm",
        findings=(finding("ndcg_at_10", -0.001, Outcome.PASS), finding("coverage", None, Outcome.PASS)),
    )
    return Decision(
        policy="demo", shipped="state", reason="the new state is sound", needs_review=True, verdicts=(weights, state)
    )


def a_run_that_ships(store: MemoryStore) -> dict[str, str]:
    counts = {"rows": 3, "train_rows": 900, "holdout_slates": 50}
    dataset = put(store, "build_dataset", {"slates.parquet": b"rows"}, params={"recipe": "tiny"}, summary=counts)
    gate = put(store, "gate", {"decision.json": a_decision().model_dump_json().encode(), "gate.html": b"<p>"})
    store.put_new(
        f"releases/{RELEASE}/release/release.json",
        json.dumps({"state_through": "2017-07-01", "view": "v", "partition": "2017-07-01"}).encode(),
    )
    golden = {"version": 1, "cases": [{"request": {"surface": "search", "query": "milk", "k": 3}}]}
    store.put_new(f"releases/{RELEASE}/release/golden.json", json.dumps(golden).encode())
    skew = {"name": "train_serve_skew", "value": 0.001, "limit": 0.01, "ok": True, "sentence": "at most 0.001"}
    summary = {"release": RELEASE, "view": "v", "skew": skew}
    package = put(store, "package", inputs={"gate": gate, "build_dataset": dataset}, summary=summary)
    return {"build_dataset": dataset, "gate": gate, "package": package}


def test_explain_and_the_registry_show_the_same_numbers(tmp_path: Path) -> None:
    store, registry = MemoryStore(), MemoryRegistry()
    uris = a_run_that_ships(store)
    mirrored = mirror(Settings(home=tmp_path), registry, store)
    assert mirrored.call("step", uri=uris["gate"], run_key=RUN)
    assert mirrored.call("step", uri=uris["package"], run_key=RUN)

    told = explanation(store, uris["gate"])
    assert [one["kind"] for one in told["candidates"]] == ["weights", "state"]
    runs = {run.tags[RUN_KEY]: run for run in registry.runs.values()}
    for candidate in told["candidates"]:
        nested = runs[f"{RUN}/{candidate['kind']}"]
        assert nested.tags["outcome"] == candidate["verdict"]
        numbers = {
            finding_metric(finding["name"], finding["slice"], name): finding[name]
            for finding in candidate["findings"]
            for name in ("champion", "candidate", "difference", "bound", "margin")
            if finding[name] is not None
        }
        assert numbers and nested.metrics == numbers
        assert json.loads(registry.artifacts[nested.run_id, "findings.json"]) == candidate["findings"]
    page = runs[RUN]
    assert page.tags["shipped"] == "state" and "the new state is sound" in page.tags["mlflow.note.content"]
    assert registry.artifacts[page.run_id, "gate/gate.html"] == b"<p>"
    assert "the new state is sound" in registry.artifacts[page.run_id, DECISION_PAGE].decode()
    assert json.loads(registry.artifacts[page.run_id, "gate/record.json"]) == json.loads(json.dumps(told))
    assert runs[f"{RUN}/state"].metrics["finding.train_serve_skew.all.candidate"] == 0.001


def test_a_package_becomes_a_version_that_says_where_it_came_from(tmp_path: Path) -> None:
    store, registry = MemoryStore(), MemoryRegistry()
    uris = a_run_that_ships(store)
    for _ in range(2):
        assert mirror(Settings(home=tmp_path), registry, store).call("step", uri=uris["package"], run_key=RUN)
    (version,) = registry.versions.values()
    assert version.source == f"memory:/run-0/releases/{RELEASE[:12]}"
    expected = {
        "source": store.uri(f"releases/{RELEASE}.json"),
        "verdict": "pass",
        "kind": "state",
        "recipe": "tiny",
        "state_through": "2017-07-01",
        "seed": "7",
        "code": "c0de",
    }
    assert version.tags.items() >= expected.items() and len(version.tags["data_digest"]) == 64
    assert version.tags["decision"] == uris["gate"]
    run_id = next(run.run_id for run in registry.runs.values() if run.tags[RUN_KEY] == RUN)
    assert RELEASE in registry.artifacts[run_id, version.tags["record"]].decode(), "the record names what came of it"
    example = json.loads(registry.artifacts["run-0", f"releases/{RELEASE[:12]}/input_example.json"])
    assert example == {"surface": "search", "query": "milk", "k": 3}


def test_a_day_that_was_refused_has_its_page_where_every_decision_is(tmp_path: Path) -> None:
    store, registry = MemoryStore(), MemoryRegistry()
    told = {"verdict": "refuse", "reasons": {"2017-07-01": ["too_few: 3 rows"]}, "not_accepted": ["2017-07-01"]}
    uri = put(store, "validate_data", summary=told)
    assert mirror(Settings(home=tmp_path), registry, store).call("step", uri=uri, run_key=RUN)
    (run,) = registry.runs.values()
    assert "too_few: 3 rows" in registry.artifacts[run.run_id, DECISION_PAGE].decode()


def test_a_dataset_is_logged_by_what_it_is_for(tmp_path: Path) -> None:
    store, registry = MemoryStore(), MemoryRegistry()
    uri = a_run_that_ships(store)["build_dataset"]
    for _ in range(2):
        assert mirror(Settings(home=tmp_path), registry, store).call("step", uri=uri, run_key=RUN)
    (run,) = registry.runs.values()
    assert [(one.context, one.rows, one.uri) for one in run.datasets] == [("training", 900, uri), ("holdout", 50, uri)]
    assert all(one.digest == run.tags["data_digest"][:32] for one in run.datasets)


def test_the_learning_curves_of_a_step_are_series(tmp_path: Path) -> None:
    store, registry = MemoryStore(), MemoryRegistry()
    points = [{"epoch": 1, "loss": 0.9}, {"epoch": 2, "loss": 0.5, "ndcg_at_10[search]": 0.31}]
    uri = put(store, "finetune", {"curves.json": json.dumps(points).encode()}, summary={"loss": 0.9})
    assert mirror(Settings(home=tmp_path), registry, store).call("step", uri=uri, run_key=RUN)
    (run,) = registry.runs.values()
    expected = {"finetune.loss": 0.9, "finetune.curve.loss": 0.5, "finetune.curve.ndcg_at_10_search_": 0.31}
    assert run.metrics.items() >= expected.items() and "finetune.curve.epoch" not in run.metrics


def test_calls_wait_while_mlflow_is_down_and_are_made_in_order_afterwards(tmp_path: Path) -> None:
    store, registry = MemoryStore(), Down()
    uris = a_run_that_ships(store)
    mirrored = mirror(Settings(home=tmp_path), registry, store)
    assert not mirrored.call("step", uri=uris["build_dataset"], run_key=RUN)
    assert not mirrored.call("step", uri=uris["gate"], run_key=RUN)
    assert len(mirrored.waiting()) == 2 and not registry.runs
    assert "rows" not in "".join(path.read_text() for path in mirrored.waiting())  # names and URIs only

    registry.down = False
    again = mirror(Settings(home=tmp_path), registry, store)  # another process, later
    assert again.call("end", run_key=RUN, status="FINISHED", partition="2017-07-01", note=None)
    assert not again.waiting()
    run = next(run for run in registry.runs.values() if run.tags[RUN_KEY] == RUN)
    assert run.status == "FINISHED" and run.metrics["build_dataset.rows"] == 3
    assert len(registry.runs) == 3


def test_a_call_that_can_never_work_does_not_block_those_behind_it(tmp_path: Path) -> None:
    store, registry = MemoryStore(), MemoryRegistry()
    uris = a_run_that_ships(store)
    mirrored = mirror(Settings(home=tmp_path), registry, store)
    assert not mirrored.call("step", uri="memory://runs/gone.json", run_key=RUN)
    (mirrored.folder / "00000000000000000000-broken.json").write_text("{")
    assert mirrored.call("step", uri=uris["build_dataset"], run_key=RUN)
    assert not mirrored.waiting()
    assert len(list((mirrored.folder / "refused").iterdir())) == 2
    assert len(registry.runs) == 1


def test_a_full_disk_or_a_bug_in_the_mirror_never_reaches_the_step(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    assert not mirror(Settings(home=tmp_path), MemoryRegistry(), MemoryStore()).call(
        "step", uri="memory://x", run_key=RUN
    )


def test_a_call_that_does_not_exist_is_a_bug_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no call"):
        mirror(Settings(home=tmp_path), MemoryRegistry(), MemoryStore()).call("stepp", uri="memory://x")


def test_system_metrics_and_every_choice_of_the_recipe_are_recorded(tmp_path: Path) -> None:
    store, registry = MemoryStore(), MemoryRegistry()
    files = {
        "system.json": json.dumps([{"system/cpu_utilization_percentage": 80.0}] * 2).encode(),
        "recipe.json": json.dumps({"training": {"epochs": 3, "start": "fresh"}, "name": "tiny"}).encode(),
    }
    uri = put(store, "finetune", files)
    assert mirror(Settings(home=tmp_path), registry, store).call("step", uri=uri, run_key=RUN)
    (run,) = registry.runs.values()
    assert run.metrics["system/cpu_utilization_percentage"] == 80.0
    told = {"recipe.training.epochs": "3", "recipe.training.start": "fresh", "recipe.name": "tiny"}
    assert run.params.items() >= told.items()
