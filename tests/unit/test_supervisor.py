"""The supervisor keeps its services: start order, stop order, healing, and stopping at any moment."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from infra.local import journal, processes, supervisor
from infra.local.checks import PortCheck
from infra.local.supervisor import Supervisor
from tasks import service_table
from tasks.settings import Settings
from tests.supervisor_builders import (
    LISTEN,
    PATIENCE_S,
    STUBBORN,
    WITH_CHILD,
    a_command,
    a_server,
    free_port,
    pid,
    states,
    supervise,
    until,
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(supervisor, "READY_POLL_S", 0.02)
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.02,))
    return Settings(home=tmp_path / "home")


def test_a_service_starts_only_when_what_it_depends_on_is_ready(settings: Settings, tmp_path: Path) -> None:
    first, starts = free_port(), tmp_path / "starts"
    connects = f"import socket; socket.create_connection(('127.0.0.1', {first})).close()\n"
    specs = [
        a_server("second", free_port(), starts, connects + LISTEN, depends_on=("once",)),
        a_command("once", connects, depends_on=("first",)),
        a_server("first", first, starts, "import time; time.sleep(0.2)\n" + LISTEN),
    ]

    async def scenario(_: Supervisor) -> None:
        await until(lambda: states(settings) == {"first": "ready", "once": "done", "second": "ready"})
        await until(lambda: (service_table.read_supervisor(settings) or {}).get("phase") == "ready")

    rows = supervise(settings, specs, scenario)
    assert {row["state"] for row in rows.values()} == {"stopped"}
    assert [row["restarts"] for row in rows.values()] == [0, 0, 0]


def test_what_depends_on_a_service_stops_before_it(settings: Settings, tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    # on SIGTERM it proves that the other one still answers
    last_call = f"""
import signal, socket, sys
def leave(*_):
    socket.create_connection(('127.0.0.1', {first})).close()
    open({str(tmp_path / "left")!r}, "w").write("in order")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
"""
    specs = [
        a_server("first", first, tmp_path / "starts"),
        a_server("second", second, tmp_path / "starts", last_call + LISTEN, depends_on=("first",)),
    ]

    async def scenario(_: Supervisor) -> None:
        await until(lambda: states(settings) == {"first": "ready", "second": "ready"})

    supervise(settings, specs, scenario)
    assert (tmp_path / "left").read_text() == "in order"


def test_a_killed_service_is_healed_with_its_whole_group(settings: Settings, tmp_path: Path) -> None:
    specs = [
        a_server("one", free_port(), tmp_path / "starts", WITH_CHILD),
        a_server("other", free_port(), tmp_path / "starts"),
    ]

    async def scenario(_: Supervisor) -> None:
        await until(lambda: states(settings) == {"one": "ready", "other": "ready"})
        killed, untouched = psutil.Process(pid(settings, "one")), pid(settings, "other")
        (child,) = killed.children()
        killed.kill()
        await until(lambda: service_table.last_services(settings)["one"]["restarts"] == 1)
        await until(lambda: states(settings)["one"] == "ready")
        assert pid(settings, "one") != killed.pid
        assert not processes.runs(child), "the dead service's child still runs"
        assert pid(settings, "other") == untouched

    rows = supervise(settings, specs, scenario)
    assert rows["other"]["restarts"] == 0


def test_a_hanging_service_is_replaced(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, and its liveness question is answered wrongly again and again."""
    monkeypatch.setattr(supervisor, "LIVENESS_EVERY_S", 0.02)
    monkeypatch.setattr(supervisor, "LIVENESS_FAILURES", 3)
    spec = a_server("one", free_port(), tmp_path / "starts", liveness=PortCheck(free_port()))

    async def scenario(_: Supervisor) -> None:
        await until(lambda: service_table.last_services(settings).get("one", {}).get("restarts") == 2)

    supervise(settings, [spec], scenario)
    assert "hangs" in journal.path(settings, "supervisor").read_text()
    assert len((tmp_path / "starts").read_text().splitlines()) >= 2


def test_a_service_that_never_starts_is_named_and_the_others_run(settings: Settings, tmp_path: Path) -> None:
    specs = [
        a_server("well", free_port(), tmp_path / "starts"),
        a_command("broken", "raise SystemExit(3)"),
        a_server("needs it", free_port(), tmp_path / "starts", depends_on=("broken",)),
    ]

    async def scenario(_: Supervisor) -> None:
        await until(lambda: states(settings).get("broken") == "failing" and states(settings)["well"] == "ready")
        row = service_table.last_services(settings)["broken"]
        assert "exit code 3" in str(row["note"]) and "broken.log" in str(row["note"])
        assert states(settings)["needs it"] == "waiting"

    supervise(settings, specs, scenario)


def test_a_service_that_recovers_after_failing_becomes_ready(settings: Settings, tmp_path: Path) -> None:
    flag = tmp_path / "repaired"
    spec = a_command("repaired later", f"import os; raise SystemExit(not os.path.exists({str(flag)!r}))")

    async def scenario(_: Supervisor) -> None:
        await until(lambda: states(settings).get("repaired later") == "failing")
        flag.touch()
        await until(lambda: states(settings)["repaired later"] == "done")

    supervise(settings, [spec], scenario)


def test_a_check_that_raises_anything_is_only_an_answer(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str | None:
        raise RuntimeError("a fault in the check")

    monkeypatch.setattr("infra.local.supervisor.ask", broken)
    specs = [a_server("one", free_port(), tmp_path / "starts"), a_command("other", "")]

    async def scenario(_: Supervisor) -> None:
        await until(lambda: states(settings) == {"one": "failing", "other": "done"})

    supervise(settings, specs, scenario)


def test_a_service_that_ignores_the_stop_signal_is_killed_after_its_grace(settings: Settings, tmp_path: Path) -> None:
    spec = a_server("stubborn", free_port(), tmp_path / "starts", STUBBORN, grace_s=0.05)

    async def scenario(_: Supervisor) -> None:
        await until(lambda: states(settings) == {"stubborn": "ready"})

    supervise(settings, [spec], scenario)
    assert "was killed" in journal.path(settings, "supervisor").read_text()


@pytest.mark.parametrize("moment", ["waiting", "starting", "restarting"])
def test_it_can_be_stopped_at_any_moment(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (PATIENCE_S * 10,))
    specs = {
        "starting": a_server("starting", free_port(), tmp_path / "starts", ready=PortCheck(free_port())),
        "restarting": a_command("restarting", "raise SystemExit(1)"),
        "waiting": a_server("waiting", free_port(), tmp_path / "starts", depends_on=("restarting",)),
    }

    async def scenario(_: Supervisor) -> None:
        await until(lambda: states(settings) == {name: name for name in specs})

    rows = supervise(settings, list(specs.values()), scenario)
    assert rows[moment]["state"] == "stopped"


def test_a_table_that_cannot_be_written_does_not_end_the_stack(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    starts = tmp_path / "starts"

    async def scenario(keeper: Supervisor) -> None:
        await until(lambda: states(settings) == {"one": "ready"})
        monkeypatch.setattr(service_table, "write", full)
        psutil.Process(pid(settings, "one")).kill()
        await until(lambda: len(starts.read_text().splitlines()) == 2)  # healed all the same
        keeper.stop()

    supervise(settings, [a_server("one", free_port(), starts)], scenario)
    assert "No space left on device" in journal.path(settings, "supervisor").read_text()
