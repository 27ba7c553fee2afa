"""The whole path on the real stack, in the order in which an on-call week goes: run, ask, refuse, roll back, stop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from rich.console import Console

from benchmarks._load import households, load
from infra.local.down import bring_down
from infra.local.services import MARKER
from tasks.adapters.airflow import AirflowClient
from tasks.adapters.store import Store, open_store
from tasks.controller.client import ControllerClient
from tasks.decisions import find_gate
from tasks.domain.errors import FreshrankError
from tasks.policies import load_policy
from tests.rollout_stack import wait_until
from tests.runbook_blocks import params, run

HERE = Path(__file__).parent
UNTRAINED = str(HERE / "untrained.yaml")
pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]
KILLED = ("store", "valkey", "mlflow", "airflow-api-server")
TRAINING_SIDE = (
    "store",
    "valkey",
    "mlflow",
    "airflow-api-server",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
)


def processes(stack) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == str(stack.settings.home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def connections(stack) -> list[tuple[str, object]]:
    found = []
    for process in processes(stack):
        try:
            found += [(process.name(), connection) for connection in process.net_connections(kind="inet")]
        except psutil.Error:
            continue
    return found


class OutgoingWatch(threading.Thread):
    """Looks, five times a second, for a connection of the stack to anything but loopback."""

    def __init__(self, stack) -> None:
        super().__init__(daemon=True)
        self.stack, self.looks, self.seen, self.stopped = stack, 0, set(), threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.2):
            self.looks += 1
            self.seen |= {
                f"{name} -> {connection.raddr.ip}:{connection.raddr.port}"
                for name, connection in connections(self.stack)
                if connection.raddr and connection.raddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
            }


@pytest.fixture(scope="module")
def watched_run(stack, request):
    watch = OutgoingWatch(stack)
    watch.start()
    done = request.getfixturevalue("first_run")
    watch.stopped.set()
    watch.join()
    return done, watch


def test_make_run_ends_with_products_a_verdict_and_what_to_do_next(watched_run):
    done, _ = watched_run
    for expected in (
        "bought that day",
        "answered by release",
        "shipped:",
        "ndcg_at_10[all]",
        "freshrank rollback",
        "make down",
    ):
        assert expected in done.stdout, done.stdout[-3000:]


def test_nothing_connected_to_the_outside(watched_run):
    _, watch = watched_run
    assert watch.looks > 50
    assert not watch.seen


def test_every_listening_socket_is_on_loopback(stack, first_run):
    listening = [(name, c.laddr) for name, c in connections(stack) if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 10
    assert not [row for row in listening if row[1].ip not in ("127.0.0.1", "::1")]


def test_status_has_the_promised_shape(stack, first_run):
    told = json.loads(stack.freshrank("status", "--json").stdout)
    rollout = {"champion", "challenger", "previous", "weights", "rollout", "frozen", "frozen_because"}
    assert set(told) == rollout | {"alerts", "alerts_unknown", "services"}
    assert told["alerts_unknown"] == "" and "ServiceDown" not in {alert["name"] for alert in told["alerts"]}
    assert set(told["champion"]) >= {"release", "version", "digest", "since"}
    assert sum(told["weights"].values()) == 100
    assert {row["state"] for row in told["services"].values()} <= {"ready", "done"}, told["services"]


def mlflow(stack, path: str, **body: object) -> dict:
    answer = httpx.post(f"{stack.settings.url('mlflow')}/api/2.0/mlflow/{path}", json=body, timeout=20)
    answer.raise_for_status()
    return answer.json()


def test_explain_and_mlflow_show_the_same_numbers(stack, first_run):
    told = json.loads(stack.freshrank("explain", "2017-07-01", "--json").stdout)
    assert set(told) >= {"run", "shipped", "candidates"}
    experiments = mlflow(stack, "experiments/search", max_results=10)["experiments"]
    where = f"tags.`gate.manifest` = '{told['run']}'"
    ids = [experiment["experiment_id"] for experiment in experiments]
    runs = mlflow(stack, "runs/search", experiment_ids=ids, filter=where)["runs"]
    tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs]
    recorded = {
        told_by["kind"]: {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
        for run, told_by in zip(runs, tags, strict=True)
        if "kind" in told_by  # the refresh's own run names the gate too; its nested runs are the candidates
    }
    compared = 0
    for candidate in told["candidates"]:
        for finding in candidate["findings"]:
            for field in ("champion", "candidate", "difference", "bound", "margin"):
                if finding[field] is not None:
                    key = f"finding.{finding['name']}.{finding['slice']}.{field}"
                    assert recorded[candidate["kind"]][key] == finding[field], key
                    compared += 1
    assert compared > 20


def test_a_task_leads_to_its_report_and_the_report_is_there(stack, first_run):
    airflow = AirflowClient(stack.settings)
    run_id = next(run["dag_run_id"] for run in airflow.runs("model_refresh") if run["state"] == "success")
    page = airflow.links("model_refresh", run_id, "validate_data")["Report and Data Docs"]
    assert page.startswith(stack.settings.url("mlflow"))
    assert page.endswith("/artifacts/validate_data")
    run = page.split("/runs/")[1].split("/")[0]
    where = {"run_id": run, "path": "validate_data"}
    listed = httpx.get(f"{stack.settings.url('mlflow')}/api/2.0/mlflow/artifacts/list", params=where, timeout=20).json()
    assert {file["path"] for file in listed["files"]} >= {"validate_data/report.html", "validate_data/data_docs"}


def test_a_second_make_run_reuses_what_exists(stack, first_run):
    before = json.loads(stack.freshrank("status", "--json").stdout)["champion"]
    done = stack.run(*first_run.args)
    assert done.returncode == 0, done.stderr
    assert "a champion serves already" in done.stdout and "is done already" in done.stdout
    assert json.loads(stack.freshrank("status", "--json").stdout)["champion"] == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"surface": "recommendation", "user_id": "no such household", "k": 3}, 200),
        ({"surface": "recommendation", "user_id": "1", "candidates": ["no such item", "1029743"]}, 200),
        ({"surface": "search", "query": "whole milk", "k": 3}, 200),
        ({"surface": "elsewhere"}, 422),
        ({"surface": "recommendation", "k": 3, "colour": "red"}, 422),
        ({"surface": "search", "k": 3}, 400),
    ],
)
def test_odd_requests_get_a_documented_answer(stack, first_run, body, status):
    answer = httpx.post(f"{stack.settings.url('router')}/rank", json=body, timeout=10)
    assert answer.status_code == status, answer.text
    if status == 200:
        items = answer.json()["items"]
        assert len(items) == (len(body["candidates"]) if "candidates" in body else 3)
        assert answer.headers["x-freshrank-release"] == answer.json()["release"]
    else:
        assert len(answer.json()["error"]) > 10


def is_running(airflow: AirflowClient, step: str) -> bool:
    try:
        newest = airflow.runs("model_refresh", limit=1)[0]["dag_run_id"]
        return any(
            task["task_id"] == step and task["state"] == "running" for task in airflow.tasks("model_refresh", newest)
        )
    except FreshrankError:
        return False


@pytest.fixture(scope="module")
def second_day(stack, first_run):
    """The next day, with a recipe that learns nothing, and with four services killed in the middle of it."""
    command = ("refresh", "--partition", "2017-07-02", "--recipe", UNTRAINED, "--wait", "--json")
    airflow = AirflowClient(stack.settings)
    with ThreadPoolExecutor(1) as beside:
        refresh = beside.submit(stack.freshrank, *command)
        while not refresh.done() and not is_running(airflow, "build_dataset"):
            time.sleep(0.5)
        table = json.loads((stack.settings.run_dir / "services.json").read_text())
        for name in KILLED:
            psutil.Process(table[name]["pid"]).kill()
        done = refresh.result()
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_refresh_survives_the_kill_of_services_and_every_service_is_healed(stack, second_day):
    assert second_day["ok"], second_day
    told = json.loads(stack.freshrank("status", "--json").stdout)["services"]
    assert {name: told[name]["state"] for name in KILLED} == dict.fromkeys(KILLED, "ready")
    table = json.loads((stack.settings.run_dir / "services.json").read_text())
    assert all(table[name]["restarts"] >= 1 for name in KILLED), table


def test_a_planted_bad_candidate_is_refused_and_the_run_is_green(stack, second_day):
    told = json.loads(stack.freshrank("explain", "2017-07-02", "--json").stdout)
    verdicts = {candidate["kind"]: candidate for candidate in told["candidates"]}
    assert verdicts["weights"]["verdict"] in ("fail", "inconclusive")
    assert told["shipped"] in ("state", "none")
    assert second_day["ok"], second_day


def a_verdict_that_nobody_reached(store: Store, gate_uri: str, day: str) -> str:
    """A gate's manifest that lets the weights pass, as somebody who can write to the store could leave it there."""
    gate = json.loads(store.get(store.key(gate_uri)))
    decision = json.loads(store.get(store.key(gate["outputs"]["decision.json"]["uri"])))
    for verdict in decision["verdicts"]:
        verdict["outcome"] = "pass"
    decision |= {"shipped": "weights", "needs_review": False, "reason": "forged by a test"}
    body, key = json.dumps(decision).encode(), f"runs/gate/{day}/{'f' * 24}"
    store.put_new(f"{key}/0/decision.json", body)
    uri, digest = store.uri(f"{key}/0/decision.json"), hashlib.sha256(body).hexdigest()
    gate["outputs"] = {"decision.json": {"uri": uri, "sha256": digest, "bytes": len(body)}}
    store.put_new(f"{key}.json", json.dumps(gate).encode())
    return store.uri(f"{key}.json")


def test_a_bad_release_does_not_survive_the_shadow(stack, second_day):
    """Past the gate by a forged verdict, packaged and signed like any other: the live judge is the second door."""
    store, controller = open_store(stack.settings), ControllerClient(stack.settings)
    real = find_gate(store, "2017-07-02")
    inputs = json.loads(store.get(store.key(real)))["inputs"]
    evaluation = json.loads(store.get(store.key(inputs["evaluate"])))["inputs"]
    packed = stack.run(
        *command(
            "package",
            "2017-07-02",
            gate=a_verdict_that_nobody_reached(store, real, "2017-07-02"),
            build_dataset=evaluation["build_dataset"],
            compress=evaluation["compress"],
        )
    )
    assert packed.returncode == 0, packed.stderr
    release = json.loads(store.get(store.key(packed.stdout.strip())))["summary"]["release"]
    champion = controller.status()["champion"]["digest"]
    asked = controller.submit(
        release=release,
        kind="canary",
        actor="test",
        reason="planted",
        idempotency_key=uuid.uuid4().hex,
        # champion and challenger have the same day's state: a sound challenger was seen to share 9 of 10
        policy=load_policy("tiny").rollout.model_dump(mode="json") | {"min_overlap_at_10": 0.5},
    )
    ended = controller.wait(asked["rollout"], deadline_s=240)
    assert ended["state"] in ("aborted", "rolled_back", "failed"), ended
    assert "overlap" in ended["reason"], ended["reason"]
    assert controller.status()["champion"]["digest"] == champion


def command(step: str, partition: str, **inputs: str) -> list[str]:
    given = [part for name, uri in inputs.items() for part in ("--input", f"{name}={uri}")]
    return [sys.executable, "-m", "tasks", step, "--partition", partition, *given]


def test_rollback_under_load_with_the_training_side_hung_fails_no_request(stack, first_run):
    """Hung, not dead: a dead service refuses at once, a hung one takes the time of whoever waits for it."""
    controller = ControllerClient(stack.settings)
    before = controller.status()
    table = json.loads((stack.settings.run_dir / "services.json").read_text())
    hung = [psutil.Process(table[name]["pid"]) for name in TRAINING_SIDE]
    pressed: dict[str, object] = {}

    async def press() -> None:
        await asyncio.sleep(3)
        for process in hung:
            process.send_signal(signal.SIGSTOP)
        pressed["at"] = time.monotonic()
        done = await asyncio.to_thread(stack.freshrank, "rollback", "--reason", "test", "--json")
        pressed["said"] = done.stdout or done.stderr

    try:
        users = households(stack.settings, "2017-07-03")
        replies = asyncio.run(load(stack.settings, users, rate=50, seconds=8, during=press))
        status = stack.freshrank("status", "--json")
    finally:
        for process in hung:
            process.send_signal(signal.SIGCONT)
    said = json.loads(str(pressed["said"]))
    assert (said["from"], said["to"]) == (before["champion"]["digest"], before["previous"]["digest"])
    assert [reply for reply in replies if reply.status != 200] == []
    assert {reply.release for reply in replies if reply.sent < pressed["at"] - 0.5} == {said["from"]}
    assert {reply.release for reply in replies[-50:]} == {said["to"]}
    assert json.loads(status.stdout)["champion"]["digest"] == said["to"]

    again = json.loads(stack.freshrank("rollback", "--reason", "pressed twice", "--json").stdout)
    assert again["to"] == said["to"], "a second press never brings the bad release back"
    assert ControllerClient(stack.settings).status()["champion"]["digest"] == said["to"]


@pytest.mark.parametrize("block", params("stack"))
def test_a_runbook_s_block_does_what_its_page_says(stack, first_run, block, tmp_path_factory):
    done = run(block, stack.settings, tmp_path_factory.mktemp("checkout"))
    assert done.returncode == 0, f"{block.id}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    if block.text.startswith("kill"):
        time.sleep(2)
        wait_until(lambda: state_of(stack, "controller") == "ready", "the supervisor has started the controller again")


def state_of(stack, service: str) -> str:
    return json.loads(stack.freshrank("status", "--json").stdout)["services"][service]["state"]


def test_the_console_leads_to_the_decision_of_what_serves(stack, first_run):
    controller = stack.settings.url("controller")
    assert "freshrank console" in httpx.get(controller).text
    page = f"{controller}/console/data"
    wait_until(lambda: bool(httpx.get(page, timeout=20).json()["points"]), "the console has looked at the router twice")
    told = httpx.get(page, timeout=20).json()
    assert told["rows"]
    page = httpx.get(f"{controller}/decision/{told['champion']['release']}", timeout=120)
    assert page.status_code == 200, page.text
    assert "ndcg_at_10" in page.text


def test_the_watch_sees_the_whole_stack(stack, first_run):
    """Also what only the training side knows: the verdict on the newest day, the last run of each DAG."""
    page = f"http://127.0.0.1:{stack.settings.port('watch')}/metrics"
    wait_until(lambda: "freshrank_dag_last_run_failed" in httpx.get(page).text, "the watch has asked Airflow", 120)
    told = httpx.get(page).text
    assert 'freshrank_dag_last_run_failed{dag="model_refresh"} 0' in told
    assert "freshrank_data_last_verdict{" in told and 'alertname="ServiceDown",alertstate="firing"' not in told


def test_raw_household_ids_are_nowhere_and_secrets_only_in_files_of_the_owner(stack, first_run):
    marker = b"household-8d1f7c-marker"
    body = {"surface": "recommendation", "user_id": marker.decode(), "k": 1}
    assert httpx.post(f"{stack.settings.url('router')}/rank", json=body, timeout=10).status_code == 200
    secrets = {
        name: value.encode()
        for name, value in stack.settings.secrets.model_dump().items()
        if name != "pseudonym_key_id"
    }
    folders = (stack.settings.logs.rglob("*"), stack.settings.data.rglob("*.json"), stack.settings.data.rglob("*.db*"))
    files = [path for folder in folders for path in folder if path.is_file()]
    assert len(files) > 20
    for path in files:
        content, for_the_owner = path.read_bytes(), path.stat().st_mode & 0o077 == 0 and path.suffix != ".log"
        assert marker not in content, path
        told = [name for name, value in secrets.items() if value in content]
        assert not told or for_the_owner, f"{path} tells {told}"


def test_make_down_leaves_no_process(stack, first_run):
    assert len(processes(stack)) > 8
    bring_down(stack.settings, Console(quiet=True))
    assert processes(stack) == []
