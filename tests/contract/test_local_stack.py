"""The real servers under the real supervisor: all of them come up, listen on loopback only, heal, and leave nothing.

The slowest file of the contract tests: Airflow starts twice (two minutes on a busy two-core machine).
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from infra.local import processes
from infra.local.down import bring_down
from infra.local.services import services
from infra.local.up import bring_up
from tasks import doctor, service_table
from tasks.domain.errors import Unavailable
from tasks.settings import Settings
from tests.conftest import free_port_base, running_stack

PATIENCE_S = 180.0
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
HEALED = [name for name in services(Settings()) if name != "airflow-database"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = Settings(home=tmp_path_factory.mktemp("whole"), port_base=free_port_base())
    with running_stack(settings):
        yield settings


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.1)


def states(settings: Settings) -> dict[str, str]:
    return {name: row["state"] for name, row in service_table.read_services(settings).items()}


def ask(url: str, content: dict[str, Any] | None = None, token: str = "") -> tuple[int, Any]:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(content).encode() if content else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as err:
        return err.code, json.load(err)


def listening(settings: Settings) -> dict[tuple[str, int], str]:
    """(address, port) -> process, of everything that belongs to the stack."""
    found = {}
    for process in processes.of_stack(settings):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found[connection.laddr.ip, connection.laddr.port] = process.name()
    return found


def test_everything_is_ready_and_the_doctor_agrees(stack: Settings) -> None:
    assert set(states(stack)) == set(services(stack))
    findings = doctor.examine(stack)
    assert len(findings) > 15
    assert [finding for finding in findings if not finding["ok"]] == []


def test_every_socket_listens_on_loopback_and_on_a_port_of_the_table(stack: Settings) -> None:
    sockets = listening(stack)
    planned = {port for spec in services(stack).values() for port in spec.ports.values()}
    assert {port for _, port in sockets} == planned
    assert {at: name for at, name in sockets.items() if at[0] not in LOOPBACK} == {}


def test_up_again_is_a_quick_no_op(stack: Settings) -> None:
    before = service_table.read_services(stack)
    screen = Console(record=True, file=io.StringIO())
    bring_up(stack, screen)
    assert "already up" in screen.export_text()
    assert service_table.read_services(stack) == before


def test_a_home_refuses_a_stack_on_other_ports(stack: Settings) -> None:
    elsewhere = Settings(home=stack.home, port_base=stack.port_base + 100)
    with pytest.raises(Unavailable, match=f"uses port base {stack.port_base}"):
        bring_up(elsewhere, Console(quiet=True))


def test_airflow_lets_in_who_has_the_password_and_knows_the_pools(stack: Settings) -> None:
    login = {"username": "admin", "password": stack.secrets.airflow_password}
    status, answer = ask(f"{stack.url('airflow')}/auth/token", login)
    assert status == 201
    _, pools = ask(f"{stack.url('airflow')}/api/v2/pools", token=answer["access_token"])
    assert {"default_pool": 128, "one_benchmark_at_a_time": 1}.items() <= {
        p["name"]: p["slots"] for p in pools["pools"]
    }.items()
    assert ask(f"{stack.url('airflow')}/api/v2/pools")[0] == 401
    assert ask(f"{stack.url('airflow')}/auth/token", login | {"password": "wrong"})[0] == 401


def test_mlflow_keeps_artifacts_in_the_object_store(stack: Settings) -> None:
    from mlflow import MlflowClient

    from tasks.adapters.store import S3Store

    client = MlflowClient(tracking_uri=stack.url("mlflow"))
    run = client.create_run(client.create_experiment("contract"))
    client.log_text(run.info.run_id, "hello", "notes/hello.txt")
    (key,) = [key for key in S3Store(stack).list("mlflow/") if run.info.run_id in key]
    assert S3Store(stack).get(key) == b"hello"


def test_the_router_says_why_it_cannot_answer_yet(stack: Settings) -> None:
    status, answer = ask(f"{stack.url('router')}/rank", {"surface": "recommendation"})
    assert status == 503
    assert "no release serves yet" in answer["error"]


def test_no_secret_is_in_a_log_or_a_file_that_others_can_read(stack: Settings) -> None:
    secrets = [str(value).encode() for name, value in stack.secrets if name != "pseudonym_key_id"]
    logs = [path for path in stack.logs.rglob("*") if path.is_file()]
    assert len(logs) >= len(HEALED)
    for path in (*logs, *(path for path in stack.run_dir.rglob("*") if path.is_file())):
        text = path.read_bytes()
        assert not [secret for secret in secrets if secret in text], path


def test_sigkill_of_every_service_is_healed_and_loses_nothing(stack: Settings) -> None:
    from tasks.adapters.store import S3Store

    S3Store(stack).put_new("contract/survives", b"a SIGKILL")
    before = service_table.read_services(stack)
    for name in HEALED:
        os.kill(before[name]["pid"], signal.SIGKILL)
    until(lambda: all(service_table.read_services(stack)[name]["restarts"] == 1 for name in HEALED))
    until(lambda: set(states(stack).values()) == {"ready", "done"})
    assert S3Store(stack).get("contract/survives") == b"a SIGKILL"
    assert ask(f"{stack.url('airflow')}/api/v2/version")[0] == 200
    assert {at for at in listening(stack) if at[0] not in LOOPBACK} == set()


def test_services_outlive_a_killed_supervisor_and_the_next_up_replaces_them(tmp_path: Path) -> None:
    settings, quiet = Settings(home=tmp_path, port_base=free_port_base()), Console(quiet=True)
    with running_stack(settings, "store", "valkey", "envoy"):
        supervisor = service_table.read_supervisor(settings)
        assert supervisor
        os.kill(supervisor["pid"], signal.SIGKILL)
        until(lambda: set(states(settings).values()) == {"unattended"})
        assert ask(f"{settings.url('router')}/rank")[0] == 503, "the router goes on without its supervisor"
        strays = processes.of_stack(settings)
        assert len(strays) == 3
        bring_up(settings, quiet, ("store", "valkey", "envoy"), owner=os.getpid())
        assert not [process for process in strays if processes.runs(process)]
        assert set(states(settings).values()) == {"ready"}
    assert processes.of_stack(settings) == []


def test_down_after_a_killed_supervisor_leaves_no_process(tmp_path: Path) -> None:
    settings, quiet = Settings(home=tmp_path, port_base=free_port_base()), Console(quiet=True)
    with running_stack(settings, "valkey", "envoy"):
        supervisor = service_table.read_supervisor(settings)
        assert supervisor
        os.kill(supervisor["pid"], signal.SIGKILL)
        bring_down(settings, quiet)
        assert processes.of_stack(settings) == []
        assert listening(settings) == {}


def test_an_interrupted_up_says_what_goes_on(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port_base=free_port_base())
    argv = [sys.executable, "-m", "infra.local", "up", "--home", str(tmp_path), "--port-base", str(settings.port_base)]
    up = subprocess.Popen([*argv, "--owner", str(os.getpid())], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: "valkey" in states(settings))
        up.send_signal(signal.SIGINT)
        said, _ = up.communicate(timeout=PATIENCE_S)
        assert up.returncode == 130
        assert "goes on starting in the background" in said and "make down" in said
        assert service_table.read_supervisor(settings)
    finally:
        up.kill()
        bring_down(settings, Console(quiet=True))
    assert processes.of_stack(settings) == []


def test_two_ups_at_the_same_time_make_one_stack(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port_base=free_port_base())
    argv = [sys.executable, "-m", "infra.local", "up", "--home", str(tmp_path), "--port-base", str(settings.port_base)]
    argv += ["--only", "valkey", "--owner", str(os.getpid())]
    ups = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        said = [up.communicate(timeout=PATIENCE_S)[0] for up in ups]
        assert 0 in {up.returncode for up in ups}, said
        for up, sentence in zip(ups, said, strict=True):
            assert up.returncode == 0 or "already kept by supervisor pid" in sentence
        until(lambda: states(settings) == {"valkey": "ready"})
        assert len(listening(settings)) == 1
    finally:
        bring_down(settings, Console(quiet=True))
    assert processes.of_stack(settings) == []
