"""From a release back to its days, and from a day forward to everything that was made of it; what two releases differ in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tasks.adapters.store
import tasks.release_commands
from tasks.adapters.releases import DirectoryManifest, StoredFile
from tasks.adapters.store import MemoryStore
from tasks.cli import app
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Decision, Finding, Outcome, Verdict
from tasks.domain.manifest import Artifact, Manifest
from tasks.lineage import find_release, of_partition, of_release
from tasks.release_diff import diff

FIRST, SECOND, THIRD = "2017-07-01", "2017-07-02", "2017-07-03"
OLD, NEW, STATE = "a1" * 32, "b2" * 32, "c3" * 32


class Shop:
    """A store with the manifests of some refreshes, each step with a key of its own."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.number = 0

    def run(
        self,
        step: str,
        day: str,
        inputs: dict[str, str] | None = None,
        files: dict[str, bytes] | None = None,
        **more: Any,
    ) -> str:
        self.number += 1
        prefix = f"runs/{step}/{day}/{self.number:024x}"
        outputs = {}
        for name, body in (files or {}).items():
            self.store.put_new(f"{prefix}/0/{name}", body)
            outputs[name] = Artifact(
                uri=self.store.uri(f"{prefix}/0/{name}"), sha256=f"{hash(body):x}", bytes=len(body)
            )
        told = {
            **{"step": step, "partition": day, "inputs": inputs or {}, "outputs": outputs, "params": {}, "summary": {}},
            **{"code_version": "c0de", "lock_digest": "10c4", "seed": 7, "seconds": 1.0},
            "started_at": f"2026-11-28T00:00:{self.number:02d}+00:00",
        }
        self.store.put_new(f"{prefix}.json", Manifest.model_validate(told | more).model_dump_json().encode())
        return self.store.uri(f"{prefix}.json")

    def dataset(self, day: str, days: dict[str, str] | None, holdout: bytes = b"held out") -> str:
        files = {"holdout.safetensors": holdout}
        if days is not None:
            files["partitions.json"] = json.dumps(days).encode()
        return self.run("build_dataset", day, {"validate_data": self.run("validate_data", day)}, files)

    def gate(self, day: str, ndcg: float, **inputs: str) -> str:
        finding = Finding(
            **{"name": "ndcg_at_10", "slice": "all", "champion": 0.3, "candidate": ndcg, "difference": ndcg - 0.3},
            **{"bound": 0.0, "margin": 0.008, "outcome": Outcome.PASS, "sentence": "fine"},
        )
        verdict = Verdict(kind="weights", outcome=Outcome.PASS, reason="fine", findings=(finding,))
        decision = Decision(policy="demo", shipped="weights", reason="fine", needs_review=False, verdicts=(verdict,))
        body = decision.model_dump_json().encode()
        return self.run("gate", day, inputs, {"decision.json": body}, summary={"reason": "fine"})

    def release(
        self, digest: str, day: str, kind: str, weights: str, inputs: dict[str, str], days: dict[str, str]
    ) -> str:
        view = digest[::-1]
        told = {
            "kind": kind,
            "partition": day,
            "view": view,
            "weights_digest": weights,
            "train_end": FIRST,
            "state_through": day,
        }
        made_by = {"code": "c0de", "lock": "10c4", "seed": 7, "recipe": {"name": "tiny", "digest": "d"}}
        made_by |= {
            "policy": {"name": "demo", "digest": "p"},
            "verdict": {"kind": kind, "outcome": "pass", "approved": False},
        }
        bodies = {
            "release/release.json": json.dumps(told).encode(),
            "release/provenance.json": json.dumps({"partitions": days, **made_by}).encode(),
            "release/model/base.bin": weights.encode(),
            f"release/only-in-{kind}.json": b"{}",
        }
        for name, body in bodies.items():
            self.store.put_new(f"releases/{digest}/{name}", body)
        files = {name: StoredFile(sha256=f"{abs(hash(body)):064x}", bytes=len(body)) for name, body in bodies.items()}
        self.store.put_new(
            f"releases/{digest}.json", DirectoryManifest(digest=digest, files=files).model_dump_json().encode()
        )
        self.store.put_new(f"releases/{digest}.0123456789abcdef.sig.json", b"{}")
        return self.run("package", day, inputs, summary={"release": digest, "view": view})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))


@pytest.fixture
def shop() -> Shop:
    """OLD: weights of the first two days. STATE: OLD's weights, a new state. NEW: weights of all three days."""
    shop = Shop()
    two, three = {FIRST: "f1", SECOND: "s1"}, {FIRST: "f1", SECOND: "s2", THIRD: "t1"}
    dataset = shop.dataset(SECOND, two)
    model = shop.run("finetune", SECOND, {"build_dataset": dataset})
    gate = shop.gate(SECOND, 0.31, evaluate=shop.run("evaluate", SECOND, {"build_dataset": dataset, "compress": model}))
    shop.release(OLD, SECOND, "weights", "w1", {"gate": gate, "build_dataset": dataset, "compress": model}, two)
    later = shop.dataset(THIRD, three, b"another holdout")
    model = shop.run("finetune", THIRD, {"build_dataset": later})
    gate = shop.gate(THIRD, 0.33, evaluate=shop.run("evaluate", THIRD, {"build_dataset": later, "compress": model}))
    shop.release(NEW, THIRD, "weights", "w2", {"gate": gate, "build_dataset": later, "compress": model}, three)
    other = shop.dataset(THIRD, {THIRD: "t1"}, b"another holdout")  # the first two days were retired
    shop.release(STATE, THIRD, "state", "w1", {"gate": shop.gate(THIRD, 0.32), "build_dataset": other}, {THIRD: "t1"})
    return shop


def test_a_release_names_its_days_and_every_step_that_led_to_it(shop: Shop) -> None:
    told = of_release(shop.store, OLD)
    assert told["provenance"]["partitions"] == {FIRST: "f1", SECOND: "s1"}
    assert (told["provenance"]["code"], told["provenance"]["verdict"]["outcome"]) == ("c0de", "pass")
    steps = [step["step"] for step in told["steps"]]
    assert steps[0] == "package"
    assert sorted(steps) == ["build_dataset", "evaluate", "finetune", "gate", "package", "validate_data"]
    assert {step["partition"] for step in told["steps"]} == {SECOND} and told["missing"] == []
    assert told["signed_by"] == ["0123456789abcdef"] and told["weights_from"] == []


def test_a_state_release_says_where_its_weights_came_from(shop: Shop) -> None:
    assert of_release(shop.store, STATE)["weights_from"] == [OLD]


def test_a_manifest_that_is_gone_is_named(shop: Shop) -> None:
    (key,) = (key for key in shop.store.list(f"runs/finetune/{SECOND}/") if key.endswith(".json"))
    shop.store.delete(key)
    told = of_release(shop.store, OLD)
    assert told["missing"] == [shop.store.uri(key)]
    assert "finetune" not in [step["step"] for step in told["steps"]]


def test_a_day_leads_to_everything_that_was_made_of_it(shop: Shop) -> None:
    told = of_partition(shop.store, SECOND)
    assert [(one["partition"], one["digest"]) for one in told["datasets"]] == [(SECOND, "s1"), (THIRD, "s2")]
    assert [(one["step"], one["partition"]) for one in told["models"]] == [("finetune", SECOND), ("finetune", THIRD)]
    assert len(told["decisions"]) == 2
    assert [one["release"] for one in told["releases"]] == [OLD, NEW]
    assert [one["release"] for one in told["releases_with_its_weights"]] == [STATE]
    assert told["landed"] is None and told["accepted"] is None


def test_a_day_that_only_the_last_dataset_read_leads_no_further_back(shop: Shop) -> None:
    told = of_partition(shop.store, THIRD)
    assert [one["release"] for one in told["releases"]] == [NEW, STATE]
    assert told["releases_with_its_weights"] == []


def test_a_dataset_without_a_list_of_days_is_taken_by_its_date(shop: Shop) -> None:
    shop.dataset(SECOND, None)
    known_by = [one["known_by"] for one in of_partition(shop.store, SECOND)["datasets"]]
    assert sorted(known_by) == ["its date", "its list of days", "its list of days"]


def test_both_directions_agree(shop: Shop) -> None:
    for release in (OLD, NEW, STATE):
        for day in (FIRST, SECOND, THIRD):
            forward = {one["release"] for one in of_partition(shop.store, day)["releases"]}
            assert (release in forward) == (day in of_release(shop.store, release)["provenance"]["partitions"])


def test_what_two_releases_differ_in(shop: Shop) -> None:
    told = diff(shop.store, OLD, NEW)
    assert told["facts"]["weights_digest"] == ["w1", "w2"] and "kind" not in told["facts"]
    assert told["made_by"] == {}
    assert told["partitions"] == {"added": [THIRD], "removed": [], "changed": [SECOND]}
    assert "release/model/base.bin" in told["files"]["changed"] and told["files"]["added"] == []
    assert told["metrics"] == {"same_holdout": False, "values": {"ndcg_at_10[all]": {"before": 0.31, "after": 0.33}}}
    state = diff(shop.store, OLD, STATE)
    assert "weights_digest" not in state["facts"] and state["facts"]["kind"] == ["weights", "state"]
    assert state["files"]["added"] == ["release/only-in-state.json"]
    assert state["files"]["removed"] == ["release/only-in-weights.json"]
    same = diff(shop.store, OLD, OLD)
    assert (same["same"], same["facts"], same["files"]["changed"]) == (True, {}, [])
    assert same["metrics"]["same_holdout"]


def test_a_release_is_found_by_its_first_digits(shop: Shop) -> None:
    assert find_release(shop.store, OLD[:12]) == find_release(shop.store, OLD) == OLD
    with pytest.raises(InputRejected, match="no release is published"):
        find_release(shop.store, "d" * 12)
    with pytest.raises(InputRejected, match="neither a day nor a release"):
        find_release(shop.store, "../etc")
    shop.release(OLD[:8] + "0" * 56, SECOND, "weights", "w9", {}, {})
    with pytest.raises(InputRejected, match="2 releases begin with"):
        find_release(shop.store, OLD[:8])


ROWS = [
    {
        "rev": 2,
        "at": "2026-11-28T01:00:00+00:00",
        "kind": "boot",
        "from_release": None,
        "to_release": OLD,
        "weight": 100,
    }
    | {"actor": "controller", "reason": "ready", "op": "x", "details": {}}
]


@pytest.mark.parametrize("arguments", [["lineage", OLD[:12]], ["lineage", SECOND], ["diff", OLD[:12], NEW[:12]]])
def test_the_commands_print_for_people_and_for_machines(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(tasks.adapters.store, "open_store", lambda settings: shop.store)
    monkeypatch.setattr("tasks.controller.client.ControllerClient.log", lambda self: ROWS)
    text = CliRunner().invoke(app, arguments)
    assert text.exit_code == 0, text.exception
    assert OLD[:12] in text.output
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    if arguments[0] == "lineage":
        assert told["served"][0]["rev"] == 2 and "boot" in text.output
    assert "--json" in CliRunner().invoke(app, [arguments[0], "--help"]).output


def test_a_release_is_stated_in_the_in_toto_form(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.adapters.store, "open_store", lambda settings: shop.store)
    told = json.loads(CliRunner().invoke(app, ["lineage", OLD, "--in-toto"]).output)
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://slsa.dev/provenance/v1"
    assert told["subject"] == [{"name": "release", "digest": {"sha256": OLD}}]
    build = told["predicate"]["buildDefinition"]
    named = [part["name"] for part in build["resolvedDependencies"]]
    assert named == [f"partition {FIRST}", f"partition {SECOND}", "code", "requirements.lock"]
    assert build["internalParameters"]["verdict"]["outcome"] == "pass"
    of_a_day = CliRunner().invoke(app, ["lineage", FIRST, "--in-toto"])
    assert of_a_day.exit_code == 2 and "not a day" in of_a_day.output


def test_lineage_answers_while_the_controller_does_not(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.adapters.store, "open_store", lambda settings: shop.store)
    monkeypatch.setenv("FRESHRANK_CONTROLLER_URL", "http://127.0.0.1:9")
    done = CliRunner().invoke(app, ["lineage", OLD[:12]])
    assert done.exit_code == 0 and "the controller does not answer" in done.output


def test_served_at_says_what_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"time": "2026-11-28T03:00:00+00:00", "champion": OLD, "weights": {OLD: 80, NEW: 20}, "because": ROWS[0]}
    monkeypatch.setattr("tasks.controller.client.ControllerClient.served_at", lambda self, moment: told)
    said = CliRunner().invoke(app, ["served-at", "2026-11-28T03:00:00Z"]).output
    assert f"release {OLD[:12]} was champion" in said and f"{NEW[:12]} 20 %" in said
    assert "because  revision 2" in said and "by controller: ready" in said
    assert json.loads(CliRunner().invoke(app, ["served-at", "2026-11-28T03:00:00Z", "--json"]).output) == told
    told |= {"champion": None, "weights": {}, "because": None}
    assert "nothing served" in CliRunner().invoke(app, ["served-at", "2026-11-28T03:00:00Z"]).output
