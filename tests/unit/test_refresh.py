"""What the DAGs' tasks do, without Airflow: partitions, approvals, rollouts, rollbacks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tasks import refresh
from tasks.adapters.store import MemoryStore
from tasks.clock import drop_anchor
from tasks.controller.client import told_of_rollback
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Decision, Outcome, Verdict
from tasks.domain.manifest import Artifact, Manifest
from tasks.refresh import Asked
from tasks.run import Call, Step
from tasks.settings import Settings

RELEASE, CHAMPION = "ab" * 32, "cd" * 32
FORM = {"partition": None, "recipe": None, "candidates": "both", "approval": False}


class Controller:
    """Answers as the controller does, and remembers what it was told."""

    def __init__(self, state: str = "promoted", champion: str = CHAMPION) -> None:
        self.state, self.champion, self.told = state, champion, []  # type: ignore[var-annotated]

    def __call__(self, settings: Settings) -> Controller:
        return self

    def status(self) -> dict[str, Any]:
        return {"champion": {"digest": self.champion}, "challenger": None, "previous": None}

    def submit(self, **told: Any) -> dict[str, Any]:
        self.told.append(told)
        return {"rollout": "rollout-7", "revision": 7}

    def wait(self, rollout: str, *, deadline_s: float, on_change: Any) -> dict[str, Any]:
        found = {"state": self.state, "step": "canary 20 %", "reason": "error rate 0.20, allowed 0.01"}
        on_change(found)
        return found

    def rollback(self, **told: Any) -> dict[str, Any]:
        self.told.append(told)
        return {"from": CHAMPION, "to": RELEASE, "seconds": 0.4}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    made = MemoryStore()
    monkeypatch.setattr(refresh, "open_store", lambda settings: made)
    monkeypatch.setattr("tasks.record.open_store", lambda settings: made)
    monkeypatch.setattr("tasks.run.MIN_FREE_BYTES", 0)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, port_base=36_500)  # type: ignore[call-arg]


def put(
    store: MemoryStore, step: str, day: str = "2017-07-01", files: dict[str, bytes] | None = None, **told: Any
) -> str:
    outputs = {}
    for name, content in (files or {}).items():
        store.put_new(f"runs/{step}/{day}/k/{name}", content)
        outputs[name] = Artifact(
            uri=store.uri(f"runs/{step}/{day}/k/{name}"), sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
        )
    manifest = Manifest(
        step=step,
        partition=day,
        inputs=told.get("inputs", {}),
        outputs=outputs,
        params={},
        summary=told.get("summary", {}),
        code_version="c",
        lock_digest="l",
        seed=1,
        started_at="2026-11-22T05:00:00+00:00",
        seconds=1.0,
    )
    store.put_new(f"runs/{step}/{day}/k.json", manifest.model_dump_json().encode())
    return store.uri(f"runs/{step}/{day}/k.json")


def a_gate(store: MemoryStore, shipped: str = "weights", weights: str = "pass") -> str:
    verdict = Verdict(kind="weights", outcome=Outcome(weights), reason="ndcg_at_10 +0.01", findings=())
    decision = Decision(policy="demo", shipped=shipped, reason="proven", needs_review=False, verdicts=(verdict,))  # type: ignore[arg-type]
    return put(store, "gate", files={"decision.json": decision.model_dump_json().encode()})


def a_package(store: MemoryStore) -> str:
    champion = put(store, "resolve_champion", summary={"release": CHAMPION})
    inputs = {"gate": a_gate(store), "resolve_champion": champion}
    return put(store, "package", inputs=inputs, summary={"release": RELEASE})


def steps_that_remember(monkeypatch: pytest.MonkeyPatch, name: str, *inputs: str) -> list[Call]:
    calls: list[Call] = []

    def execute(call: Call) -> dict[str, Any]:
        calls.append(call)
        return {}

    monkeypatch.setattr(refresh, "step_named", lambda asked: Step(name, inputs, execute))
    return calls


def test_the_first_step_maps_the_wall_date_and_the_later_ones_read_it(
    store: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_anchor(store, "2026-11-20", "2017-07-01")
    asked = Asked("scheduled__1", FORM, "2026-11-22")
    calls = steps_that_remember(monkeypatch, "ingest")
    uri, day = refresh.run_step("ingest", {}, asked, settings)
    assert (day, calls[0].partition) == ("2017-07-03", "2017-07-03")
    later = steps_that_remember(monkeypatch, "validate_data", "ingest")
    no_clock = Asked("scheduled__1", FORM, None)
    assert refresh.run_step("validate_data", {"ingest": uri}, no_clock, settings)[1] == "2017-07-03"
    assert later[0].partition == "2017-07-03"


def test_inputs_of_two_days_are_refused(store: MemoryStore, settings: Settings) -> None:
    inputs = {"a": put(store, "a", "2017-07-01"), "b": put(store, "b", "2017-07-02")}
    with pytest.raises(InputRejected, match="different days: 2017-07-01, 2017-07-02"):
        refresh.run_step("gate", inputs, Asked("r", FORM, None), settings)


def test_package_is_told_what_a_person_approved_and_only_then(
    store: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = steps_that_remember(monkeypatch, "package", "gate")
    refresh.run_step("package", {"gate": a_gate(store)}, Asked("r", FORM, None), settings)
    assert calls[0].options == {}
    store.delete("runs/gate/2017-07-01/k.json")
    store.delete("runs/gate/2017-07-01/k/decision.json")
    refresh.run_step("package", {"gate": a_gate(store, "none", "inconclusive")}, Asked("r", FORM, None), settings)
    assert calls[1].options == {"approved": "weights"}


def test_a_person_reads_what_approving_would_do(store: MemoryStore, settings: Settings) -> None:
    told = refresh.evidence(a_gate(store, "none", "inconclusive"), settings)
    assert told.startswith("The gate ships nothing") and "Approving ships the **weights**" in told
    assert "## weights: inconclusive" in told


def test_a_rollout_is_judged_against_the_champion_that_the_gate_compared_with(
    store: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller()
    monkeypatch.setattr(refresh, "ControllerClient", controller)
    package = a_package(store)
    for _ in range(2):  # a retry sends the same key
        assert "serves all traffic" in refresh.roll_out(package, "asset__1", settings)
    first, second = controller.told
    assert first == second
    assert (first["release"], first["expected_champion"], first["kind"]) == (RELEASE, CHAMPION, "canary")
    assert first["idempotency_key"] == f"{RELEASE}:asset__1" and first["reason"] == "2017-07-01: proven"
    assert first["policy"]["steps"]


def test_the_key_fits_the_controller_however_long_a_run_is_called(
    store: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller()
    monkeypatch.setattr(refresh, "ControllerClient", controller)
    package = a_package(store)
    for run in ("x" * 250, "x" * 249 + "y"):
        refresh.roll_out(package, run, settings)
    keys = [told["idempotency_key"] for told in controller.told]
    assert len(set(keys)) == 2 and max(map(len, keys)) <= 200


@pytest.mark.parametrize("state", ["rolled_back", "aborted", "failed"])
def test_a_rollout_that_was_not_promoted_fails_with_the_controllers_sentence(
    store: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(refresh, "ControllerClient", Controller(state))
    with pytest.raises(InputRejected, match=f"abab was {state}: error rate 0.20, allowed 0.01; the champion serves"):
        refresh.roll_out(a_package(store), "asset__1", settings)


def test_a_refresh_that_made_the_bytes_that_serve_is_done(
    store: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller(champion=RELEASE)
    monkeypatch.setattr(refresh, "ControllerClient", controller)
    assert "serves already" in refresh.roll_out(a_package(store), "asset__1", settings)
    assert controller.told == []


def test_a_rollback_by_form_is_pressed_once_a_run(
    store: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller()
    monkeypatch.setattr(refresh, "ControllerClient", controller)
    said = refresh.roll_back({"to": None, "reason": "clicks fell"}, "airflow:admin", "manual__1", settings)
    assert said == "rolled back from cdcdcdcdcdcd to abababababab in 0.40 s"
    expected = {"to": None, "actor": "airflow:admin", "reason": "clicks fell", "idempotency_key": "airflow:manual__1"}
    assert controller.told == [expected]


def test_a_rollback_of_the_first_release_ever_says_that_nothing_serves() -> None:
    """It is stopped before it served: there is no release to go back to, which ended the command with a traceback."""
    said = told_of_rollback({"from": RELEASE, "to": None, "seconds": 0.1, "changed": True})
    assert said.startswith("stopped ") and "nothing serves now" in said
    assert told_of_rollback({"changed": False, "reason": "it serves"}) == "nothing to do: it serves"
