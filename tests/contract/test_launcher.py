"""One promise, three launchers: in memory, real processes, Deployments in an emulated cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.adapters.kubernetes_launcher import KubernetesLauncher
from tasks.adapters.launcher import Launcher, MemoryLauncher, Replica, SeveralLauncher
from tasks.adapters.processes import ProcessLauncher, marked_processes, stop_all
from tasks.adapters.signing import public_keys
from tasks.adapters.store import MemoryStore
from tasks.controller.pull import ReleaseLibrary
from tasks.serving.release import verify
from tasks.settings import Settings
from tests.kubernetes_cluster import KUBERNETES, Cluster, pattern
from tests.rollout_stack import free_port_base, make_release, wait_until

PROCESSES = pytest.param("processes", marks=pytest.mark.stack)


class InCluster(KubernetesLauncher):
    """Looks at the cluster after the kubelet did: in an emulator nobody else acts on what was written."""

    def __init__(self, cluster: Cluster, check: Callable[[str], None]) -> None:
        super().__init__(cluster.api(), cluster.pattern, check)
        self.cluster = cluster

    async def tick(self) -> None:
        self.cluster.kubelet()
        await super().tick()


class Bench:
    """Launchers on one machine or cluster, and ways to hurt what they started."""

    def __init__(self, kind: str, home: Path) -> None:
        self.kind = kind
        self.settings = Settings(home=home, port_base=free_port_base())
        self.world: dict[str, Replica] = {}
        self.cluster = Cluster(pattern()) if kind == "kubernetes" else None

    def launcher(self) -> Launcher:
        if self.kind == "memory":
            return MemoryLauncher(self.world)
        library = self.library()
        if self.cluster is not None:
            return InCluster(self.cluster, library.verify)
        return ProcessLauncher(self.settings, library.verify)

    def library(self) -> ReleaseLibrary:
        return ReleaseLibrary(self.settings.data / "serving", lambda: MemoryStore(), public_keys(self.settings))

    def release(self, name: str = "one", **behaviour: Any) -> tuple[str, Path, Path]:
        serving = self.settings.data / "serving"
        digest = make_release(self.settings, name, **behaviour)
        src = serving / "releases" / digest
        return digest, src, serving / "views" / verify(src).record.view

    def kill(self, launcher: Launcher, release: str) -> None:
        if isinstance(launcher, MemoryLauncher):
            launcher.crash(release)
        elif self.cluster is not None:
            self.cluster.crash(release)
        else:
            os.kill(launcher.replicas()[release].pid, signal.SIGKILL)


async def serving(machine: Bench) -> tuple[Launcher, str]:
    """A launcher with one release that is ready, and its digest."""
    launcher = machine.launcher()
    digest, src, view = machine.release()
    await launcher.start(digest, src, view)
    await until(launcher, lambda found: found[digest].state == "ready", "it is ready")
    return launcher, digest


async def until(launcher: Launcher, holds: Callable[[dict[str, Replica]], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds(launcher.replicas()):
        assert time.monotonic() < deadline, f"gave up waiting until {what}: {launcher.replicas()}"
        await launcher.tick()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def bench(kind: str, home: Path) -> AsyncIterator[Bench]:
    found = Bench(kind, home)
    try:
        yield found
    finally:
        stop_all(found.settings)
        if found.cluster is not None:
            found.cluster.close()


@pytest.mark.parametrize("kind", ["memory", PROCESSES, KUBERNETES])
def test_the_life_of_a_replica(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(kind, tmp_path) as machine:
            launcher = machine.launcher()
            await launcher.adopt()
            digest, src, view = machine.release()
            await launcher.start(digest, src, view)
            await until(launcher, lambda found: found[digest].state == "ready", "it is ready")
            first = launcher.replicas()[digest]

            await launcher.start(digest, src, view)
            assert launcher.replicas() == {digest: first}, "a second start changed something"

            machine.kill(launcher, digest)
            await until(launcher, lambda found: found[digest].restarts == 1, "it is restarted")
            await until(launcher, lambda found: found[digest].state == "ready", "it is ready again")
            assert launcher.replicas()[digest].port == first.port, "the router would have to learn a new port"

            successor = machine.launcher()
            await successor.adopt()
            await until(successor, lambda found: digest in found and found[digest].state == "ready", "it is adopted")
            assert successor.replicas()[digest].pid == launcher.replicas()[digest].pid

            await successor.stop(digest)
            await successor.stop(digest)
            await until(successor, lambda found: not found, "it is gone")

    asyncio.run(scenario())


@pytest.mark.stack
def test_processes_that_nobody_remembers_are_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench("processes", tmp_path) as machine:
            launcher, digest = await serving(machine)
            (machine.settings.data / "controller" / "replicas.json").unlink()
            successor = machine.launcher()
            await successor.adopt()
            assert successor.replicas() == {}
            wait_until(lambda: marked_processes(machine.settings.home) == [], "the old process has ended")

    asyncio.run(scenario())


@pytest.mark.stack
def test_a_process_that_claims_to_be_another_release_is_never_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench("processes", tmp_path) as machine:
            launcher = machine.launcher()
            digest, src, view = machine.release(claims="f" * 64)
            await launcher.start(digest, src, view)
            seen: set[str] = set()

            def restarted(found: dict[str, Replica]) -> bool:
                seen.add(found[digest].state)
                return found[digest].restarts >= 2

            await until(launcher, restarted, "it was killed twice")
            assert "ready" not in seen

    asyncio.run(scenario())


@pytest.mark.stack
def test_a_replica_sees_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "marker")
    monkeypatch.setenv("FRESHRANK_RECIPE", "demo")

    async def scenario() -> None:
        async with bench("processes", tmp_path) as machine:
            launcher = machine.launcher()
            digest, src, view = machine.release()
            await launcher.start(digest, src, view)
            # for a moment after exec, the kernel shows neither arguments nor environment
            wait_until(lambda: len(marked_processes(machine.settings.home)) == 1, "its process shows")
            (process,) = marked_processes(machine.settings.home)
            environment = process.environ()
            assert not {name for name in environment if name.startswith(("AWS_", "FRESHRANK_"))}
            assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
            assert machine.settings.secrets.store_secret_key not in " ".join(process.cmdline())

    asyncio.run(scenario())


@pytest.mark.stack
def test_a_taken_port_is_left_alone(tmp_path: Path) -> None:
    import socket

    async def scenario() -> None:
        async with bench("processes", tmp_path) as machine:
            with socket.socket() as other:
                other.bind(("127.0.0.1", machine.settings.port("first_replica")))
                other.listen()
                launcher, digest = await serving(machine)
                replica = launcher.replicas()[digest]
                assert replica.port == machine.settings.port("first_replica") + 1
                assert httpx.get(f"{replica.url}/readyz").json()["release"] == digest

    asyncio.run(scenario())


@pytest.mark.stack
def test_a_release_whose_code_was_changed_is_not_even_started(tmp_path: Path) -> None:
    """Its own code could not be trusted to refuse itself."""

    async def scenario() -> None:
        async with bench("processes", tmp_path) as machine:
            launcher = machine.launcher()
            await launcher.adopt()
            digest, src, view = machine.release()
            await launcher.start(digest, src, view)
            await until(launcher, lambda found: found[digest].state == "ready", "it is ready")
            first, ran = launcher.replicas()[digest], tmp_path / "ran"
            program = src / "bentos" / "ranker" / "__main__.py"
            good = program.read_text()
            program.write_text(f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n{good}")
            machine.kill(launcher, digest)
            await until(launcher, lambda found: found[digest].message.startswith("refused"), "it is refused")
            assert "bentos/ranker/__main__.py has sha256" in launcher.replicas()[digest].message
            program.write_text(good)
            await until(launcher, lambda found: found[digest].state == "ready", "the right bytes serve again")
            assert launcher.replicas()[digest].port == first.port
            assert not ran.exists()

    asyncio.run(scenario())


@pytest.mark.stack
def test_two_replicas_of_a_release_live_and_end_apart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench("processes", tmp_path) as machine:

            def two() -> SeveralLauncher:
                check = machine.library().verify
                return SeveralLauncher([ProcessLauncher(machine.settings, check, n, 2) for n in range(2)])

            def both_ready(found: dict[str, Replica]) -> bool:
                return digest in found and [one.state for one in found[digest].all] == ["ready"] * 2

            launcher = two()
            await launcher.adopt()
            digest, src, view = machine.release()
            await launcher.start(digest, src, view)
            await until(launcher, both_ready, "both are ready")
            first, second = launcher.replicas()[digest].all
            assert first.port != second.port and first.pid != second.pid

            os.kill(first.pid, signal.SIGKILL)
            await until(launcher, lambda found: sum(one.restarts for one in found[digest].all) == 1, "one came back")
            assert launcher.replicas()[digest].pid == second.pid, "who is ready speaks for the release"
            await until(launcher, both_ready, "both are ready again")
            assert {one.port for one in launcher.replicas()[digest].all} == {first.port, second.port}

            successor = two()
            await successor.adopt()
            await until(successor, both_ready, "both are adopted")
            assert {p.pid for p in marked_processes(machine.settings.home)} == {
                one.pid for one in launcher.replicas()[digest].all
            }, "neither launcher ended what the other one knows"

            alone = ProcessLauncher(machine.settings, machine.library().verify)
            await alone.adopt()
            wait_until(lambda: len(marked_processes(machine.settings.home)) == 1, "one is enough from now on")
            await alone.stop(digest)
            await until(alone, lambda found: not found, "and that one is gone")

    asyncio.run(scenario())


@pytest.mark.stack
def test_of_two_starts_at_once_one_process_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench("processes", tmp_path) as machine:
            launcher = machine.launcher()
            await launcher.adopt()
            digest, src, view = machine.release()
            await asyncio.gather(*(launcher.start(digest, src, view) for _ in range(3)), launcher.tick())
            assert len(marked_processes(machine.settings.home)) == 1

    asyncio.run(scenario())
