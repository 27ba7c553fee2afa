"""A bundle decides again, bit for bit, on a machine that has nothing else; and a bundle that was touched is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tasks.adapters.releases import publish
from tasks.domain.errors import FreshrankError, InputRejected
from tasks.domain.manifest import canonical_json
from tasks.domain.prune import RetentionPolicy
from tasks.explain import bundle as bundles
from tasks.explain.bundle import INDEX, bundle, read_bundle, replay
from tasks.prune.store import prune_store
from tasks.run import Step, run
from tests.decision_builders import DAY, MODEL, RELEASE, a_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("home"), gain={"weights": 0.02}, slower=1.1)


@pytest.fixture(scope="module")
def written(run_of, tmp_path_factory):
    store, _, uris = run_of
    path = tmp_path_factory.mktemp("bundle") / "run.zip"
    path.write_bytes(bundle(store, uris["gate"]))
    return path


def edited(written, tmp_path, name, content):
    """The same bundle with one file exchanged, its index brought up to date as a forger would."""
    files = {**read_bundle(written).files, name: content}
    index = json.loads(zipfile.ZipFile(written).read(INDEX))
    index["files"] = {one: bundles._sha256(body) for one, body in files.items()}
    path = tmp_path / "edited.zip"
    path.write_bytes(bundles._zipped({**files, INDEX: canonical_json(index)}))
    return path


def test_one_run_has_one_spelling(run_of, written):
    store, _, uris = run_of
    assert bundle(store, uris["gate"]) == written.read_bytes()


def test_a_stranger_with_an_empty_environment_gets_the_same_verdict(written, run_of, tmp_path):
    store, _, uris = run_of
    command = [
        sys.executable,
        "-c",
        "from tasks.cli import main; main()",
        "explain",
        str(written),
        "--replay",
        "--json",
    ]
    env = {"HOME": str(tmp_path), "FRESHRANK_HOME": str(tmp_path / "nothing"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    kept = json.loads(read_bundle(written).files["gate/decision.json"])
    assert told["decision"] == bundles._sha256(canonical_json(kept))
    assert told["evidence"] == "identical" and told["code"]["same"] and told["environment"]["same"]
    assert told["shipped"] == "weights" == kept["shipped"]
    assert not (tmp_path / "nothing").exists(), "a replay needs no home"


def test_a_bundle_holds_no_secret_no_path_and_no_pickle(written, run_of):
    _, settings, _ = run_of
    content = written.read_bytes()
    assert str(settings.home).encode() not in content
    assert {Path(name).suffix for name in read_bundle(written).files} == {".json", ".parquet"}


@pytest.mark.parametrize(
    "name", ["gate/decision.json", "gate/evidence.json", "gate/policy.json", "evaluate/slates.parquet"]
)
def test_a_file_that_was_exchanged_is_refused_by_name(written, tmp_path, name):
    content = read_bundle(written).files[name] + b" "
    with pytest.raises(InputRejected, match=rf"{name} has sha256 \w+, the manifest of \w+ says \w+: it was changed"):
        read_bundle(edited(written, tmp_path, name, content))


def test_a_manifest_that_was_exchanged_is_refused_by_its_key(written, tmp_path):
    manifest = json.loads(read_bundle(written).files["manifests/gate.json"]) | {"seed": 5}
    with pytest.raises(InputRejected, match="manifests/gate.json is of runs/gate/"):
        read_bundle(edited(written, tmp_path, "manifests/gate.json", json.dumps(manifest).encode()))


def test_every_byte_counts(written, tmp_path):
    content, path = written.read_bytes(), tmp_path / "touched.zip"
    draws = np.random.default_rng(20170701)
    for at in (*draws.integers(0, len(content), 200), *range(len(content) - 40, len(content))):
        touched = bytearray(content)
        touched[at] ^= int(draws.integers(1, 256))
        path.write_bytes(touched)
        with pytest.raises(InputRejected):
            read_bundle(path)
    for torn in (b"", content[:-1], content + b"\0", b"PK"):
        path.write_bytes(torn)
        with pytest.raises(InputRejected):
            read_bundle(path)


def test_another_version_of_the_code_is_named(written, monkeypatch):
    monkeypatch.setattr(bundles, "code_version", lambda: "0th3rc0de")
    told = replay(read_bundle(written))
    assert not told["code"]["same"] and "The code differs: recorded" in told["sentence"]


def test_a_gate_that_decides_otherwise_is_caught_with_the_first_difference(written, monkeypatch):
    decided = bundles.choose

    def generous(*given):
        return decided(*given).model_copy(update={"shipped": "state"})

    monkeypatch.setattr(bundles, "choose", generous)
    with pytest.raises(FreshrankError, match="decides otherwise: shipped was 'weights' and is 'state'"):
        replay(read_bundle(written))


def test_evidence_that_the_slates_do_not_give_is_caught(written):
    given = read_bundle(written)
    forged = json.loads(given.files["gate/evidence.json"])
    forged[0]["comparisons"][0]["p_harm_beyond"] += 1e-4
    given.files = {**given.files, "gate/evidence.json": json.dumps(forged).encode()}
    with pytest.raises(FreshrankError, match=r"other evidence: \[0\].comparisons\[0\].p_harm_beyond was"):
        replay(given)


def test_ratios_that_the_pairs_do_not_give_are_caught(written):
    given = read_bundle(written)
    forged = json.loads(given.files["benchmark/benchmark.json"])
    forged["wall_ms"]["weights"] = [ms * 1.01 for ms in forged["wall_ms"]["weights"]]
    given.files = {**given.files, "benchmark/benchmark.json": json.dumps(forged).encode()}
    with pytest.raises(FreshrankError, match=r"other ratios: weights\[0\].candidate_ms was"):
        replay(given)


def test_a_first_champion_and_a_run_without_its_benchmark_are_decided_again_too(tmp_path):
    for name, given in {"first": {"kinds": ("bootstrap",)}, "untimed": {"timed": False}}.items():
        store, _, uris = a_run(tmp_path / name, **given)
        path = tmp_path / f"{name}.zip"
        path.write_bytes(bundle(store, uris["gate"]))
        assert replay(read_bundle(path))["evidence"] == "identical"


def test_the_bundle_of_what_serves_outlives_the_release_that_it_was_compared_with(tmp_path):
    store, settings, uris = a_run(tmp_path)
    champion, serves = tmp_path / "champion" / "release", "5" * 64
    (champion / "model").mkdir(parents=True)
    (champion / "release.json").write_text("{}")
    (champion / "model" / "config.json").write_text(json.dumps(MODEL))
    (champion / "model" / "weights.bin").write_text("weights")
    publish(store, "releases", RELEASE, champion.parent)
    run(
        Step("package", ("gate",), lambda call: {"release": serves}), DAY, {"gate": uris["gate"]}, settings, store=store
    )
    later = Step("resolve_champion", (), lambda call: {"release": serves})
    run(later, "2017-09-01", {}, settings, store=store)
    before = bundle(store, uris["gate"])

    now = datetime.now(UTC) + timedelta(days=400)
    for _ in range(2):
        prune_store(store, lambda: {serves: "serves"}, RetentionPolicy(), now)
    assert not store.exists(f"releases/{RELEASE}.json") and not store.exists(
        f"releases/{RELEASE}/release/model/weights.bin"
    )
    assert bundle(store, uris["gate"]) == before


def test_only_a_gate_has_a_bundle(run_of):
    store, _, uris = run_of
    with pytest.raises(InputRejected, match="is of evaluate: nothing was decided there"):
        bundle(store, uris["evaluate"])
