"""model_refresh as Airflow runs it, through the real door with real keys; only what a step does is tiny."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.store import MemoryStore
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Decision, Outcome, Verdict
from tasks.run import Call, Step, read_manifest
from tasks.settings import Settings
from tests.dags.conftest import DAGS

DAY = "2017-07-01"
Outcomes = dict[str, str]
SKIPPED, DONE = "skipped", "success"


class World:
    """A store, and what the two steps that decide something will say."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.data_verdict = "pass"
        self.shipped: str = "weights"
        self.weights = Outcome.PASS
        self.calls: list[Call] = []
        self.told: dict[str, dict[str, Any]] = {}

    def decision(self) -> Decision:
        verdicts = (Verdict(kind="weights", outcome=self.weights, reason="shown by 340 slates", findings=()),)
        return Decision(policy="demo", shipped=self.shipped, reason="why it did", needs_review=False, verdicts=verdicts)  # type: ignore[arg-type]

    def do(self, name: str) -> Callable[[Call], dict[str, Any]]:
        def execute(call: Call) -> dict[str, Any]:
            self.calls.append(call)
            (call.out / f"{name}.json").write_text("{}")
            if name == "ingest":
                self.store.put_new(f"behaviour/dt={call.partition}/manifest.json", b"{}")
            if name == "validate_data":
                return {"verdict": self.data_verdict, "reasons": {call.partition: ["a third of the rows is missing"]}}
            if name == "gate":
                (call.out / "decision.json").write_text(self.decision().model_dump_json())
            return {"release": "ab" * 32, "view": "v"}

        return execute

    def manifest(self, step: str) -> Any:
        (key,) = [key for key in self.store.list(f"runs/{step}/") if key.count("/") == 3]
        return read_manifest(self.store, self.store.uri(key))


@pytest.fixture
def world(airflow_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    from tasks import record, refresh, steps

    made = World()
    for name, step in list(steps.STEPS.items()):
        tiny = Step(name, step.inputs, made.do(name), optional=step.optional)
        monkeypatch.setitem(steps.STEPS, name, tiny)
    for module in (refresh, record):
        monkeypatch.setattr(module, "open_store", lambda settings: made.store)
    monkeypatch.setattr("tasks.run.MIN_FREE_BYTES", 0)
    return made


def run(**form: Any) -> tuple[str, Outcomes]:
    """(state of the run, state of each task)."""
    from airflow.dag_processing.dagbag import DagBag

    # parsed anew, because a run in this process leaves its form behind in the DAG
    done = DagBag(str(DAGS)).dags["model_refresh"].test(run_conf=form)
    return str(done.state), {ti.task_id: str(ti.state) for ti in done.get_task_instances()}


def test_a_proven_candidate_is_packaged_and_only_uris_travel(world: World) -> None:
    state, tasks = run(partition=DAY, recipe="tiny")
    assert state == "success"
    assert {name for name, said in tasks.items() if said == SKIPPED} == {
        "nothing_to_do",
        "keep_champion",
        "report_rejection",
        "request_review",
    }
    assert [call.partition for call in world.calls] == [DAY] * 10
    manifest = world.manifest("package")
    assert set(manifest.inputs) == {"gate", "build_dataset", "compress", "resolve_champion"}
    assert set(world.manifest("finetune").inputs) == {"build_dataset", "resolve_champion"}
    assert world.manifest("finetune").params == {"recipe": "tiny"} and world.manifest("gate").params == {}
    assert set(world.manifest("benchmark").inputs) == {"build_dataset", "resolve_champion", "compress", "evaluate"}

    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = (
            session.query(XComModel).filter(XComModel.key == "return_value", XComModel.dag_id == "model_refresh").all()
        )
        values = [str(row.value).strip('"') for row in rows]
    assert len(values) >= 10
    assert all(
        str(value).startswith("memory://runs/") or value in ("resolve_champion", "package") for value in values
    ), values


def test_a_step_leads_to_its_pages_even_while_mlflow_is_down(world: World) -> None:
    run(partition=DAY)
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = (
            session.query(XComModel).filter(XComModel.key == "_link_Pages", XComModel.dag_id == "model_refresh").all()
        )
        links = {row.task_id: str(row.value).strip('"') for row in rows}
    assert set(links) >= {"ingest", "validate_data", "build_dataset", "evaluate", "gate", "package"}
    assert set(links.values()) == {Settings().url("mlflow")}  # nothing answers there: the front page is what remains


def test_the_event_of_package_names_manifest_and_partition(world: World) -> None:
    run(partition="2017-07-03")
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        last = session.query(AssetEvent).order_by(AssetEvent.id.desc()).first()
        extra, key = last.extra, last.partition_key
    assert key == "2017-07-03"
    assert world.store.key(extra["manifest"]).startswith("runs/package/2017-07-03/")
    assert extra["refresh"].startswith("manual__")


def test_a_run_for_a_new_state_only_trains_nothing_and_still_ships(world: World) -> None:
    world.shipped = "state"
    state, tasks = run(partition=DAY, candidates="state")
    assert state == "success"
    assert {tasks[name] for name in ("finetune", "compress")} == {SKIPPED}
    assert {tasks[name] for name in ("evaluate", "benchmark", "gate", "package")} == {DONE}
    assert set(world.manifest("evaluate").inputs) == {"build_dataset", "resolve_champion"}
    assert world.manifest("gate").params == {"candidates": "state"}


@pytest.mark.parametrize(
    ("verdict", "told"), [("empty", "nothing_to_do"), ("refuse", "keep_champion"), ("hold", "keep_champion")]
)
def test_a_day_that_is_not_sound_ends_green_and_keeps_the_champion(world: World, verdict: str, told: str) -> None:
    world.data_verdict = verdict
    state, tasks = run(partition="2017-12-25")
    assert state == "success"
    assert {name for name, said in tasks.items() if said == DONE} == {
        "ingest",
        "wait_for_partition",
        "validate_data",
        "route_data",
        told,
    }
    waiting = "".join(path.read_text() for path in (Path(world_home(world)) / "spool" / "mlflow").glob("*.json"))
    assert "the champion keeps serving" in waiting
    assert ("brought no events" if verdict == "empty" else "a third of the rows is missing") in waiting


def world_home(world: World) -> Path:
    return world.calls[0].settings.home


def test_a_refused_candidate_is_a_green_run(world: World) -> None:
    world.shipped, world.weights = "none", Outcome.FAIL
    state, tasks = run(partition=DAY)
    assert state == "success"
    assert (tasks["report_rejection"], tasks["package"], tasks["request_review"]) == (DONE, SKIPPED, SKIPPED)


def test_wrong_input_fails_at_the_first_try(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import steps

    tries = []

    def refuse(call: Call) -> dict[str, Any]:
        tries.append(call)
        raise InputRejected("the day has no slates")

    monkeypatch.setitem(
        steps.STEPS, "build_dataset", Step("build_dataset", ("validate_data",), refuse, optional=("resolve_champion",))
    )
    state, tasks = run(partition=DAY)
    assert (state, tasks["build_dataset"], tasks["finetune"], len(tries)) == ("failed", "failed", "upstream_failed", 1)
    spooled = [json.loads(path.read_text()) for path in sorted((world_home(world) / "spool" / "mlflow").glob("*.json"))]
    assert spooled[-1]["call"] == "end" and spooled[-1]["arguments"]["status"] == "FAILED"


def test_a_run_that_is_told_no_day_says_what_to_do(world: World) -> None:
    state, tasks = run()
    assert (state, tasks["ingest"], world.calls) == ("failed", "failed", [])
