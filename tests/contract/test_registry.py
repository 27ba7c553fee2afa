"""The registry suite: the in-memory twin and a real MLflow server must do the same."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.registry import Dataset, MemoryRegistry, Registry, finding_metric
from tasks.domain.errors import Unavailable
from tasks.domain.gate import Finding, Outcome, Verdict
from tasks.domain.manifest import Manifest
from tasks.settings import Settings

STARTED = "2026-11-21T05:00:00+00:00"
pytestmark = pytest.mark.stack


@pytest.fixture(params=["memory", "mlflow"])
def registry(request: pytest.FixtureRequest) -> Registry:
    return MemoryRegistry() if request.param == "memory" else MlflowRegistry(request.getfixturevalue("mlflow_settings"))


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return f"manual__2026-11-21T05:00:00+00:00 {request.node.name}"


def a_manifest(step: str = "finetune", **changes: object) -> Manifest:
    told: dict[str, object] = {
        "step": step,
        "partition": "2017-07-01",
        "inputs": {},
        "outputs": {},
        "params": {"recipe": "tiny"},
        "summary": {
            "loss": 0.25,
            "ok": True,
            "reason": "fell for 3 epochs",
            "nan": float("nan"),
            "valid": {"ndcg [all]": 0.31},
        },
        "code_version": "c0de",
        "lock_digest": "10c4",
        "seed": 7,
        "started_at": STARTED,
        "seconds": 12.5,
    }
    return Manifest.model_validate(told | changes)


def a_verdict(kind: str = "weights") -> Verdict:
    quality = Finding(
        name="ndcg_at_10",
        slice="history:1-5",
        champion=0.3125,
        candidate=0.25,
        difference=-0.0625,
        bound=-0.05,
        margin=0.016,
        outcome=Outcome.FAIL,
        sentence="shown to be worse",
    )
    check = quality.model_copy(
        update={"name": "finite", "slice": "all", "champion": None, "difference": None, "candidate": 1.0}
    )
    return Verdict(kind=kind, outcome=Outcome.FAIL, reason="shown to be worse", findings=(quality, check))  # type: ignore[arg-type]


def test_a_refresh_is_one_run_however_often_it_is_asked_for(registry: Registry, key: str) -> None:
    first = registry.refresh_run(key, "2017-07-01", {"a": "1"})
    assert registry.refresh_run(key, "2017-07-01", {"b": "2"}) == first
    assert registry.refresh_run(key + " another", "2017-07-01") != first
    assert registry.read_run(first).tags.items() >= {"a": "1", "b": "2", "partition": "2017-07-01"}.items()


def test_a_step_becomes_params_numbers_and_sentences(registry: Registry, key: str) -> None:
    run = registry.refresh_run(key, "2017-07-01")
    registry.log_step(run, "s3://freshrank/runs/finetune/x.json", a_manifest())
    registry.log_step(run, "s3://freshrank/runs/finetune/x.json", a_manifest())
    seen = registry.read_run(run)
    assert seen.params["finetune.recipe"] == "tiny"
    assert seen.metrics == {
        "finetune.loss": 0.25,
        "finetune.ok": 1.0,
        "finetune.valid.ndcg _all_": 0.31,
        "finetune.seconds": 12.5,
    }
    assert seen.tags["finetune.reason"] == "fell for 3 epochs"
    assert seen.tags["finetune.manifest"] == "s3://freshrank/runs/finetune/x.json"
    assert (seen.tags["code"], seen.tags["lock"], seen.tags["seed"]) == ("c0de", "10c4", "7")


def test_a_rerun_with_another_param_keeps_the_first_and_says_so(registry: Registry, key: str) -> None:
    run = registry.refresh_run(key, "2017-07-01")
    registry.log_step(run, "s3://b/1.json", a_manifest())
    registry.log_step(run, "s3://b/2.json", a_manifest(params={"recipe": "demo", "epochs": 3}))
    seen = registry.read_run(run)
    assert seen.params == {"finetune.recipe": "tiny", "finetune.epochs": "3"}
    assert seen.tags["finetune.recipe.rerun"] == "demo"
    assert seen.tags["finetune.manifest"] == "s3://b/2.json"


def test_more_numbers_than_one_call_may_carry_all_arrive(registry: Registry, key: str) -> None:
    run = registry.refresh_run(key, "2017-07-01")
    summary = {f"n{number}": number for number in range(1_700)}
    registry.log_step(
        run, "s3://b/1.json", a_manifest(summary=summary, params={f"p{number}": number for number in range(150)})
    )
    seen = registry.read_run(run)
    assert len(seen.metrics) == 1_701 and len(seen.params) == 150
    assert seen.metrics["finetune.n1699"] == 1_699


def test_a_candidate_is_a_nested_run_with_every_number_of_every_finding(registry: Registry, key: str) -> None:
    run, verdict = registry.refresh_run(key, "2017-07-01"), a_verdict()
    nested = registry.log_candidate(run, verdict, STARTED)
    assert registry.log_candidate(run, verdict, STARTED) == nested != run
    assert registry.log_candidate(run, a_verdict("state"), STARTED) != nested
    seen = registry.read_run(nested)
    assert seen.tags["mlflow.parentRunId"] == run
    assert (seen.tags["outcome"], seen.status) == ("fail", "FINISHED")
    names = ("champion", "candidate", "difference", "bound", "margin")
    expected = {
        finding_metric(finding.name, finding.slice, name): getattr(finding, name)
        for finding in verdict.findings
        for name in names
        if getattr(finding, name) is not None
    }
    assert seen.metrics == expected
    assert seen.metrics["finding.ndcg_at_10.history:1-5.bound"] == -0.05
    assert "finding.finite.all.champion" not in seen.metrics
    assert [row["name"] for row in json.loads(artifact(registry, nested, "findings.json"))] == ["ndcg_at_10", "finite"]


def artifact(registry: Registry, run: str, path: str) -> bytes:
    if isinstance(registry, MemoryRegistry):
        return registry.artifacts[run, path]
    assert isinstance(registry, MlflowRegistry)
    return registry.artifact(run, path)


def test_curves_and_pages_arrive(registry: Registry, key: str) -> None:
    run = registry.refresh_run(key, "2017-07-01")
    registry.log_curves(run, {"finetune.loss": [3.0, 2.0, float("nan"), 1.5]}, STARTED)
    registry.log_artifacts(run, {"validate_data/report.html": b"<p>sound</p>"})
    assert registry.read_run(run).metrics["finetune.loss"] == 1.5
    assert artifact(registry, run, "validate_data/report.html") == b"<p>sound</p>"


def test_a_release_is_registered_once_and_its_tags_are_kept_up_to_date(registry: Registry, key: str) -> None:
    release = f"{abs(hash(key)):064x}"
    source = f"s3://freshrank/releases/{release}.json"
    version = registry.register(release, source, {"verdict": "pass", "seed": "7"})
    assert registry.register(release, source, {"verdict": "inconclusive"}) == version
    found = registry.find_version(release)
    assert found is not None and found.source == source
    assert found.tags == {"release": release, "verdict": "inconclusive", "seed": "7"}
    assert registry.find_version("f" * 64) is None


def test_aliases_follow_the_controller_also_to_releases_that_were_never_registered(
    registry: Registry, key: str
) -> None:
    a, b = f"{abs(hash(key + 'a')):064x}", f"{abs(hash(key + 'b')):064x}"
    registered = registry.register(a, f"s3://freshrank/releases/{a}.json", {})

    def register(release: str) -> str:
        return registry.register(release, f"s3://freshrank/releases/{release}.json", {})

    registry.mirror_aliases({"champion": {"digest": a}, "challenger": {"digest": b}, "previous": None}, register)
    new = registry.find_version(b)
    assert new is not None and new.source == f"s3://freshrank/releases/{b}.json"
    assert registry.aliases() == {"champion": registered, "challenger": new.version}
    changed = registry.mirror_aliases(status := {"champion": {"digest": b}, "previous": {"digest": a}}, register)
    assert set(changed) == {"champion", "challenger", "previous"}
    assert registry.aliases() == {"champion": new.version, "previous": registered}
    assert registry.mirror_aliases(status, register) == {}
    registry.mirror_aliases({}, register)
    assert registry.aliases() == {}


def test_a_version_shows_the_files_of_its_own_run_and_says_where_the_release_is(registry: Registry, key: str) -> None:
    release, run = f"{abs(hash(key)):064x}", registry.refresh_run(key, "2017-07-01")
    source = f"s3://freshrank/releases/{release}.json"
    files = {"MLmodel": b"{}", "input_example.json": b"{}"}
    number = registry.register(release, source, {"verdict": "pass"}, run, files)
    assert registry.register(release, source, {"verdict": "pass"}, run, files) == number
    found = registry.find_version(release)
    assert found is not None and found.source.endswith(f"releases/{release[:12]}")
    assert found.tags == {"release": release, "verdict": "pass", "source": source}
    assert artifact(registry, run, f"releases/{release[:12]}/MLmodel") == b"{}"


def test_the_run_of_a_release_is_found_by_what_its_package_step_said(registry: Registry, key: str) -> None:
    release, run = f"{abs(hash(key)):064x}", registry.refresh_run(key, "2017-07-01")
    registry.log_step(run, "s3://b/1.json", a_manifest("package", summary={"release": release}))
    assert registry.run_of(release) == run
    assert registry.run_of("f" * 64) is None


def test_a_dataset_is_named_once_however_often_it_is_said(registry: Registry, key: str) -> None:
    run = registry.refresh_run(key, "2017-07-01")
    training = Dataset("training 2017-07-01", "a" * 32, "s3://b/1.json", "training", 1_000)
    for _ in range(2):
        registry.log_dataset(run, training)
    holdout = Dataset("holdout 2017-07-01", "a" * 32, "s3://b/1.json", "holdout", 50)
    registry.log_dataset(run, holdout)
    assert sorted(registry.read_run(run).datasets, key=lambda one: one.name) == [holdout, training]


def test_notes_and_ends_show(registry: Registry, key: str) -> None:
    run = registry.refresh_run(key, "2017-07-01")
    assert registry.read_run(run).status == "RUNNING"
    registry.note(run, "x" * 100_000)
    registry.close(run, "FAILED")
    seen = registry.read_run(run)
    assert seen.status == "FAILED" and seen.tags["mlflow.note.content"].startswith("xxx")


@pytest.mark.parametrize("hangs", [False, True], ids=["nobody listens", "accepts and never answers"])
def test_a_server_that_is_down_or_hangs_is_unavailable(tmp_path: Path, hangs: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if hangs:
            listener.listen()
        down = MlflowRegistry(
            Settings(home=tmp_path, mlflow_url=f"http://127.0.0.1:{listener.getsockname()[1]}"), timeout_s=0.2
        )
        with pytest.raises(Unavailable, match="did not answer"):
            down.refresh_run("k", "2017-07-01")
