"""One supervisor per home, no process left behind, and no row believed that nobody keeps."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from infra.local import journal, processes, supervisor
from infra.local.one_supervisor import AlreadyRunning
from infra.local.supervisor import Supervisor
from tasks import service_table
from tasks.machine import MARKER
from tasks.settings import Settings
from tests.supervisor_builders import (
    PATIENCE_S,
    a_command,
    states,
    supervise,
    until,
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(supervisor, "READY_POLL_S", 0.02)
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.02,))
    return Settings(home=tmp_path / "home")


def test_a_second_supervisor_is_told_who_runs(settings: Settings) -> None:
    async def scenario(_: Supervisor) -> None:
        await until(lambda: states(settings) == {"one": "done"})
        with pytest.raises(AlreadyRunning, match=rf"pid {os.getpid()} .*make down"):
            await Supervisor(settings, table=lambda _: {}).run()

    supervise(settings, [a_command("one", "")], scenario)


def test_the_next_start_ends_what_a_killed_supervisor_left(settings: Settings) -> None:
    """Found by its mark, also where it left its session and the table does not know it."""
    stray = subprocess.Popen(["sleep", "600"], env={MARKER: str(settings.home)}, start_new_session=True)
    stranger = subprocess.Popen(["sleep", "600"], env={MARKER: f"{settings.home}-other"})
    try:

        async def scenario(_: Supervisor) -> None:
            await until(lambda: states(settings) == {"one": "done"})
            assert stray.poll() is not None
            assert stranger.poll() is None, "it belongs to another home"

        supervise(settings, [a_command("one", "")], scenario)
    finally:
        stray.kill()
        stranger.kill()
        stranger.wait()
        stray.wait()


def test_a_stray_without_the_mark_is_found_by_its_session(settings: Settings) -> None:
    leader = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"], start_new_session=True)
    while len(psutil.Process(leader.pid).children()) < 2:
        time.sleep(0.01)
    row = {"pid": leader.pid, "born": processes.born(leader.pid), "state": "ready", "url": ""}
    service_table.write(service_table.services_path(settings), {"one": row})
    ended, stubborn = processes.end_stack(settings)
    leader.wait()
    assert (ended, stubborn) == (3, [])


def test_a_reused_pid_is_not_ours(settings: Settings) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        row = {"pid": stranger.pid, "born": 1.0, "state": "ready", "url": ""}
        service_table.write(service_table.services_path(settings), {"one": row})
        assert processes.end_stack(settings) == (0, [])
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_the_stack_ends_with_its_owner(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "OWNER_EVERY_S", 0.02)
    owner = subprocess.Popen(["sleep", "600"])
    keeper = Supervisor(settings, owner=owner.pid, table=lambda _: {"one": a_command("one", "")})

    async def play() -> None:
        running = asyncio.create_task(keeper.run())
        await until(lambda: states(settings) == {"one": "done"})
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        await asyncio.wait_for(running, PATIENCE_S)

    asyncio.run(play())


def test_the_stack_ends_with_an_owner_that_was_gone_before_it_looked(settings: Settings) -> None:
    owner = subprocess.Popen(["true"])
    owner.wait()
    keeper = Supervisor(settings, owner=owner.pid, table=lambda _: {"one": a_command("one", "")})
    asyncio.run(asyncio.wait_for(keeper.run(), PATIENCE_S))


def test_a_log_that_cannot_be_cut_does_not_stop_the_cutting_of_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "ROTATE_EVERY_S", 0.02)
    tries: list[Path] = []

    def full(log: Path) -> bool:
        tries.append(log)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "rotate", full)

    async def scenario(_: Supervisor) -> None:
        await until(lambda: len(tries) >= 4)

    supervise(settings, [a_command("one", "")], scenario)
    assert "could not be cut: No space left" in journal.path(settings, "supervisor").read_text()


def test_a_log_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(f"life {number} ".encode() * 20)
            assert journal.rotate(log, limit=100)
            assert not journal.rotate(log, limit=100)
        writer.write(b"after")
    assert log.read_text() == "after"
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["one.log", *(f"one.log.{number}" for number in range(1, journal.KEPT + 1))]
    assert "life 4" in (tmp_path / "one.log.1").read_text()


def test_rows_of_a_dead_supervisor_are_not_believed(settings: Settings) -> None:
    me = {"pid": os.getpid(), "born": processes.born(os.getpid())}
    rows = {"alive": me | {"state": "ready", "url": ""}, "gone": {"pid": 1, "born": 5.0, "state": "ready", "url": ""}}
    service_table.write(service_table.services_path(settings), rows)
    service_table.write(service_table.supervisor_path(settings), {"pid": os.getpid(), "born": 5.0, "phase": "ready"})
    assert service_table.read_supervisor(settings) is None
    found = service_table.read_services(settings)
    assert {name: (row["state"], row["pid"]) for name, row in found.items()} == {
        "alive": ("unattended", os.getpid()),
        "gone": ("stopped", None),
    }


def test_a_half_written_table_reads_as_empty(settings: Settings) -> None:
    service_table.write(service_table.services_path(settings), {"one": {"state": "ready"}})
    service_table.services_path(settings).write_text(json.dumps({"one": {}})[:-3])
    assert service_table.last_services(settings) == {}
