"""Small real child processes in place of servers, and a supervisor that keeps them while a scenario plays."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from infra.local import processes
from infra.local.checks import PortCheck
from infra.local.services import ServiceSpec
from infra.local.supervisor import Supervisor
from tasks import service_table
from tasks.settings import Settings

PATIENCE_S = 30.0
LISTEN = """
import os, socket, sys, time
open(sys.argv[2], "a").write(f"{sys.argv[1]} {os.getpid()}\\n")
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
while True: server.accept()[0].close()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LISTEN
WITH_CHILD = "import subprocess; subprocess.Popen(['sleep', '600'])\n" + LISTEN


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def a_server(name: str, port: int, starts: Path, program: str = LISTEN, **changes: object) -> ServiceSpec:
    """A process that listens on a port and appends a line to `starts` each time it starts."""
    spec = ServiceSpec(
        name=name,
        argv=(sys.executable, "-ISc", program, str(port), str(starts)),
        cwd=starts.parent,
        ready=PortCheck(port),
        ports={name: port},
        grace_s=PATIENCE_S,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def a_command(name: str, code: str, **changes: object) -> ServiceSpec:
    spec = ServiceSpec(name=name, argv=(sys.executable, "-ISc", code), ready=None)
    return replace(spec, **changes)  # type: ignore[arg-type]


def supervise(
    settings: Settings, specs: list[ServiceSpec], scenario: Callable[[Supervisor], Awaitable[None]]
) -> dict[str, dict[str, object]]:
    """Run the supervisor while the scenario plays; then stop it. Returns the last table."""
    keeper = Supervisor(settings, table=lambda _: {spec.name: spec for spec in specs})

    async def play() -> None:
        running = asyncio.create_task(keeper.run())
        acting = asyncio.create_task(scenario(keeper))
        await asyncio.wait({running, acting}, return_when=asyncio.FIRST_COMPLETED)
        keeper.stop()
        await running
        await acting

    asyncio.run(play())
    assert processes.of_stack(settings) == []
    return service_table.last_services(settings)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        await asyncio.sleep(0.01)


def states(settings: Settings) -> dict[str, str]:
    return {name: row["state"] for name, row in service_table.last_services(settings).items()}


def pid(settings: Settings, name: str) -> int:
    found = service_table.last_services(settings)[name]["pid"]
    assert isinstance(found, int)
    return found
