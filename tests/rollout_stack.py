"""The serving side for real, in small: Envoy, the controller process, replicas started from release directories."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from infra.local import binaries, envoy_bootstrap
from tasks.adapters.processes import stop_all
from tasks.adapters.router import write_initial
from tasks.adapters.signing import sign, signing_keys
from tasks.controller.client import ControllerClient
from tasks.domain.errors import FreshrankError
from tasks.open_loop import open_loop
from tasks.serving.release import seal, seal_view
from tasks.settings import PORT_OFFSETS, Settings

PORT_BASES = range(22_700, 27_900, 100)  # clear of the default stack, and below what the kernel hands out
PROGRAM = Path(__file__).parent / "replica_program.py"
FAST = {
    "ready_within_s": 30,
    "shadow_s": 1,
    "steps": [{"weight": 20, "bake_s": 2}],
    "full_bake_s": 1,
    "hold_s": 20,
    "min_requests": 15,
    "max_error_rate": 0.01,
    "max_latency_ratio_p50": 3.0,
    "max_latency_ratio_p95": 5.0,
    "latency_slack_ms": 50,
    "min_overlap_at_10": 0.3,
    "max_restarts": 2,
}


def free_port_base() -> int:
    """A block of ports that nothing uses, so that tests run beside a live stack and beside each other."""
    for base in random.sample(PORT_BASES, len(PORT_BASES)):
        if not any(_taken(base + offset) for offset in (*PORT_OFFSETS.values(), 21, 22, 23)):
            return base
    raise RuntimeError("no free block of ports")


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def make_release(settings: Settings, name: str, **behaviour: Any) -> str:
    """A sealed and signed release and its view, where a pull would have put them. Returns its digest."""
    serving = settings.data / "serving"
    draft = serving / f".draft-{name}"
    view = draft / "view"
    view.mkdir(parents=True)
    (view / "users.json").write_text("{}")
    view_digest = seal_view(view, 0)
    src = draft / "src"
    (src / "bentos" / "ranker").mkdir(parents=True)
    (src / "bentos" / "__init__.py").touch()
    (src / "bentos" / "ranker" / "__init__.py").touch()
    shutil.copy(PROGRAM, src / "bentos" / "ranker" / "__main__.py")
    (src / "release").mkdir()
    (src / "release" / "behaviour.json").write_text(json.dumps({"name": name} | behaviour))
    digest = seal(src, {"kind": "state", "partition": "2017-07-01", "created": "2017-07-01", "view": view_digest})
    put_in_place(settings, digest, src, view_digest, view)
    shutil.rmtree(draft, ignore_errors=True)
    return digest


def put_in_place(settings: Settings, digest: str, src: Path, view_digest: str, view: Path) -> None:
    """Sign a sealed release and move it, its signature and its view to where this machine serves from."""
    serving = settings.data / "serving"
    for kind, found, path in (("releases", digest, src), ("views", view_digest, view)):
        target = serving / kind / found
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            path.rename(target)
    sign(serving / "releases" / digest, signing_keys(settings))


class Stack:
    """Started in order, ended in full: no process of it survives the test."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.changed = settings
        self.settings = Settings(home=home, port_base=free_port_base(), **settings)
        self.serving = self.settings.data / "serving"
        self.controller: subprocess.Popen[bytes] | None = None
        self.envoy: subprocess.Popen[bytes] | None = None
        self.client = ControllerClient(self.settings)

    def start(self) -> Stack:
        self.start_envoy()
        self.start_controller()
        return self

    def start_envoy(self, before: Callable[[], None] | None = None) -> None:
        """`before` runs in the new process."""
        envoy_bootstrap.write(self.settings)
        write_initial(self.settings)
        binary = str(binaries.envoy(self.settings))
        options = [
            "-c",
            str(envoy_bootstrap.path(self.settings)),
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
        ]
        with (self.settings.logs / "envoy.log").open("ab") as log:
            self.envoy = subprocess.Popen([binary, *options], stdout=log, stderr=log, preexec_fn=before)
        admin = f"http://127.0.0.1:{self.settings.port('envoy_admin')}/ready"
        wait_until(lambda: httpx.get(admin, timeout=1).text.strip() == "LIVE", "Envoy is live")

    def start_controller(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FRESHRANK_")}
        own = {"FRESHRANK_HOME": str(self.settings.home), "FRESHRANK_PORT_BASE": str(self.settings.port_base)}
        own |= {f"FRESHRANK_{name}".upper(): str(value) for name, value in self.changed.items()}
        with (self.settings.logs / "controller.log").open("ab") as log:
            self.controller = subprocess.Popen(
                [sys.executable, "-m", "tasks.controller"], env=kept | own, stdout=log, stderr=log
            )
        wait_until(lambda: self.client.status() is not None, "the controller answers")

    def stop(self) -> None:
        for process in (self.controller, self.envoy):
            if process and process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        stop_all(self.settings)

    def release(self, name: str, **behaviour: Any) -> str:
        return make_release(self.settings, name, **behaviour)

    def submit(self, release: str, kind: str = "canary", **policy: Any) -> str:
        started = self.client.submit(
            release=release,
            kind=kind,  # type: ignore[arg-type]
            policy=FAST | policy,
            actor="test",
            reason="a test",
            idempotency_key=uuid.uuid4().hex,
        )
        return str(started["rollout"])

    def champion(self, name: str = "first", **behaviour: Any) -> str:
        """Bootstrap a release and wait until it serves."""
        release = self.release(name, **behaviour)
        ended = self.client.wait(self.submit(release, "bootstrap"), deadline_s=60)
        assert ended["state"] == "promoted", ended
        return release

    async def ended(self, rollout: str, deadline_s: float = 90) -> dict[str, Any]:
        return await asyncio.to_thread(self.client.wait, rollout, deadline_s=deadline_s)

    async def reached(self, rollout: str, step: str, deadline_s: float = 60) -> None:
        await asyncio.to_thread(
            wait_until,
            lambda: self.client.rollout(rollout)["step"].startswith(step),
            f"{rollout} in {step}",
            deadline_s,
        )

    def log_text(self) -> str:
        return (self.settings.logs / "controller.log").read_text()


class Load:
    """What callers saw: (status, release) -> count, and the order of releases by time of sending."""

    def __init__(self) -> None:
        self.replies: Counter[tuple[int, str]] = Counter()
        self.failures: list[str] = []
        self.trail: list[tuple[float, float, str]] = []  # sent, answered, release

    @property
    def total(self) -> int:
        return sum(self.replies.values()) + len(self.failures)

    @property
    def failed(self) -> list[str]:
        return self.failures + [str(key) for key in self.replies if key[0] != 200]


@asynccontextmanager
async def load(settings: Settings, per_second: float = 50) -> AsyncIterator[Load]:
    """Open-loop requests through the router for as long as the block runs."""
    seen = Load()
    async with httpx.AsyncClient(base_url=settings.url("router"), timeout=10) as client:

        async def one(number: int) -> None:
            sent = time.monotonic()
            try:
                reply = await client.post("/rank", json={"surface": "recommendation", "k": 20})
            except httpx.HTTPError as err:
                seen.failures.append(type(err).__name__)
                return
            release = reply.headers.get("x-freshrank-release", "")
            seen.replies[(reply.status_code, release)] += 1
            seen.trail.append((sent, time.monotonic(), release))

        async with open_loop(one, per_second):
            yield seen


def wait_until(holds: Callable[[], bool], what: str, deadline_s: float = 60) -> None:
    """Poll a condition. A generous deadline: it says that something hangs, not that it is slow."""
    until = time.monotonic() + deadline_s
    while True:
        try:
            if holds():
                return
        except (FreshrankError, httpx.HTTPError):
            pass
        if time.monotonic() > until:
            raise AssertionError(f"gave up after {deadline_s:g} s waiting until {what}")
        time.sleep(0.1)
