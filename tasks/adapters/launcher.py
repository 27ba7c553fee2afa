"""Replicas of releases: the promise, its values, several of each, the in-memory twin. Real: tasks.adapters.processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from tasks.domain.manifest import Record


class Replica(Record):
    """One process of a release. `ready` means that it answered with the right digest at the last probe."""

    release: str
    name: str
    port: int
    host: str = "127.0.0.1"
    pid: int
    created: float  # start time of the process, because pids are used again
    src: str
    view: str
    state: Literal["starting", "ready", "down", "stopping"] = "starting"
    restarts: int = 0
    message: str = ""
    others: tuple[Replica, ...] = ()  # more processes of the same release; the router balances over all of them

    @property
    def all(self) -> tuple[Replica, ...]:
        return (self.model_copy(update={"others": ()}), *self.others)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def new_replica(release: str, port: int, src: Path, view: Path) -> Replica:
    """A replica that has no process yet."""
    name = f"{release[:12]}-{port}"
    return Replica(release=release, name=name, port=port, pid=0, created=0, src=str(src), view=str(view))


class Launcher(Protocol):
    async def adopt(self) -> None:
        """Take over what an earlier life of the controller left running, and kill what nobody remembers."""
        ...

    async def start(self, release: str, src: Path, view: Path) -> None:
        """Start its replicas unless they are there. Returns before they are ready; `tick` and `replicas` tell."""
        ...

    async def stop(self, release: str) -> None:
        """Ask the replica to end; `tick` kills it when it takes too long. The caller has drained it."""
        ...

    async def tick(self) -> None:
        """Probe, restart what crashed, forget what ended."""
        ...

    def replicas(self) -> dict[str, Replica]:
        """By release: a ready replica if there is one, and `others` of its release."""
        ...


class SeveralLauncher:
    """Several replicas of each release: as many launchers, each of which knows one of them.

    A release is complete or on its way out: what an earlier controller, which ran fewer, left alone gets company.
    """

    def __init__(self, launchers: Sequence[Launcher]) -> None:
        self._launchers = tuple(launchers)

    async def adopt(self) -> None:
        for launcher in self._launchers:
            await launcher.adopt()

    async def start(self, release: str, src: Path, view: Path) -> None:
        for launcher in self._launchers:
            await launcher.start(release, src, view)

    async def stop(self, release: str) -> None:
        for launcher in self._launchers:
            await launcher.stop(release)

    async def tick(self) -> None:
        for launcher in self._launchers:
            await launcher.tick()
        for release, replica in self.replicas().items():
            if not any(one.state == "stopping" for one in replica.all):
                await self.start(release, Path(replica.src), Path(replica.view))

    def replicas(self) -> dict[str, Replica]:
        found: dict[str, list[Replica]] = {}
        for launcher in self._launchers:
            for release, replica in launcher.replicas().items():
                found.setdefault(release, []).append(replica)
        return {release: _together(group) for release, group in found.items()}


def _together(group: Sequence[Replica]) -> Replica:
    first, *others = sorted(group, key=lambda one: (one.state != "ready", one.port))
    return first.model_copy(update={"others": tuple(others)})


class MemoryLauncher:
    """The in-memory twin. `world` stands for the machine: it survives the controller."""

    def __init__(self, world: dict[str, Replica] | None = None) -> None:
        self.world = {} if world is None else world
        self.broken: set[str] = set()

    async def adopt(self) -> None:
        pass

    async def start(self, release: str, src: Path, view: Path) -> None:
        if release not in self.world:
            port = max((replica.port for replica in self.world.values()), default=20_000) + 1
            self.world[release] = new_replica(release, port, src, view).model_copy(update={"pid": port})

    async def stop(self, release: str) -> None:
        self.world.pop(release, None)

    def crash(self, release: str) -> None:
        replica = self.world[release]
        self.world[release] = replica.model_copy(update={"state": "down", "message": "exited with status -9"})

    async def tick(self) -> None:
        for release, replica in list(self.world.items()):
            if release in self.broken:
                update = {"state": "down", "restarts": replica.restarts + 1, "message": "exited with status 1"}
            elif replica.state == "down":
                update = {"state": "starting", "restarts": replica.restarts + 1}
            else:
                update = {"state": "ready"}
            self.world[release] = replica.model_copy(update=update)

    def replicas(self) -> dict[str, Replica]:
        return dict(self.world)
