"""Replicas of releases: the promise, its values, and the in-memory twin. Real ones are in tasks.adapters.processes."""

from __future__ import annotations

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
        """Start a replica unless there is one. Returns before it is ready; `tick` and `replicas` tell."""
        ...

    async def stop(self, release: str) -> None:
        """Ask the replica to end; `tick` kills it when it takes too long. The caller has drained it."""
        ...

    async def tick(self) -> None:
        """Probe, restart what crashed, forget what ended."""
        ...

    def replicas(self) -> dict[str, Replica]: ...


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
