"""Real replicas in trouble: one that hangs while nobody looks, and one that was never started."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

import pytest

from tasks.adapters import processes
from tasks.adapters.processes import ProcessLauncher
from tasks.domain.errors import InputRejected
from tasks.settings import Settings
from tests.contract.test_launcher import bench, serving, until
from tests.rollout_stack import free_port_base


@pytest.mark.stack
def test_a_replica_that_hangs_while_the_controller_restarts_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PROBE_S", 0.2)

    async def scenario() -> None:
        async with bench("processes", tmp_path) as machine:
            launcher, digest = await serving(machine)
            os.kill(launcher.replicas()[digest].pid, signal.SIGSTOP)
            successor = machine.launcher()
            await successor.adopt()
            monkeypatch.setattr(processes, "SILENT_AT_START_S", 0.5)
            await until(successor, lambda found: found[digest].restarts > 0, "it is killed and started again")
            monkeypatch.undo()
            await until(successor, lambda found: found[digest].state == "ready", "another one is ready")
            assert successor.replicas()[digest].pid != launcher.replicas()[digest].pid

    asyncio.run(scenario())


def test_stopping_a_refused_release_signals_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no process: signal 15 to pid 0 would end the controller itself and all that it started."""

    def refuse(release: str) -> None:
        raise InputRejected("model/model.bin has another sha256")

    async def scenario() -> None:
        sent: list[int] = []
        monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(pid))
        launcher = ProcessLauncher(Settings(home=tmp_path, port_base=free_port_base()), refuse)
        await launcher.start("a" * 64, tmp_path, tmp_path)
        assert launcher.replicas()["a" * 64].message.startswith("refused")
        await launcher.stop("a" * 64)
        await until(launcher, lambda found: not found, "it is forgotten")
        assert sent == []

    asyncio.run(scenario())


def test_two_releases_that_start_at_once_get_ports_of_their_own(tmp_path: Path) -> None:
    """The loop starts one, a rollback to another one comes while its files are read: neither has a process yet."""
    both_are_read = threading.Barrier(2)

    def refuse(release: str) -> None:
        both_are_read.wait(timeout=10)
        raise InputRejected("model/model.bin has another sha256")

    async def scenario() -> None:
        launcher = ProcessLauncher(Settings(home=tmp_path, port_base=free_port_base()), refuse)
        await asyncio.gather(*(launcher.start(digit * 64, tmp_path, tmp_path) for digit in "ab"))
        first, second = launcher.replicas().values()
        assert first.port != second.port

    asyncio.run(scenario())


def test_what_ails_one_replica_leaves_no_other_without_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BACKOFF_S", (0.0,))
    looked: list[str] = []
    full = False

    def check(release: str) -> None:
        looked.append(release[0])
        if full and release[0] == "a":
            raise OSError(28, "No space left on device")
        raise InputRejected("model/model.bin has another sha256")

    async def scenario() -> None:
        nonlocal full
        launcher = ProcessLauncher(Settings(home=tmp_path, port_base=free_port_base()), check)
        for digit in "ab":
            await launcher.start(digit * 64, tmp_path, tmp_path)
        full = True
        with pytest.raises(OSError, match="No space"):
            await launcher.tick()
        assert looked == ["a", "b", "a", "b"]

    asyncio.run(scenario())
