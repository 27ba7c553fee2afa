"""Ranker processes: a replica of each release, started from the release's own code, restarted when it crashes.

Replicas outlive the controller on purpose (serving does not depend on it); the next controller adopts them. Every one
carries FRSTACK_HOME in its environment, so that `make down` finds them all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tasks.adapters.launcher import Replica, new_replica
from tasks.adapters.merchandising import merchandising_folder
from tasks.adapters.signing import public_keys
from tasks.atomic import drafted, write_atomically
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.manifest import canonical_json
from tasks.machine import MARKER, is_taken
from tasks.serving.launch import launch_command, launch_environment
from tasks.settings import PORT_OFFSETS, REPLICA_PORTS, Settings

log = logging.getLogger(__name__)

PROBE_S = 2.0  # timeout of one readiness probe, and its period once ready
SILENT_S = 20.0  # a ready replica that does not answer for this long is killed and started again
SILENT_AT_START_S = 120.0  # one that starts; it answers, with 503, as soon as it has imported what it needs
GRACE_S = 20.0  # it finishes requests and uploads feedback; what it does not upload, the next process does
BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(slots=True)
class _Watch:
    """What is known about a process beyond its record; lost with the controller, rebuilt by probing."""

    child: subprocess.Popen[bytes] | None
    probed: float = 0.0
    answered: float = 0.0
    restart_at: float | None = None
    kill_at: float | None = None


class ProcessLauncher:
    """Processes of this machine, each in its own session with a scrubbed environment.

    `check` raises InputRejected for a release that must not run. It is asked before every start, here and not by the
    replica alone: what runs there is the release's own code, and a forged release would not refuse itself.
    `nth` of `of` launchers on this machine has its own part of the ports and its own table.
    """

    def __init__(self, settings: Settings, check: Callable[[str], None], nth: int = 0, of: int = 1) -> None:
        self._settings = settings
        self._check = check
        self._starting: dict[str, int] = {}  # release whose files are read -> the port that it will have
        tables = [settings.data / "controller" / f"replicas{f'-{n + 1}' if n else ''}.json" for n in range(of)]
        self._table, self._others = tables[nth], [*tables[:nth], *tables[nth + 1 :]]
        first = settings.port_base + PORT_OFFSETS["first_replica"]
        self._own_ports = range(first + nth * REPLICA_PORTS // of, first + (nth + 1) * REPLICA_PORTS // of)
        self._replicas: dict[str, Replica] = {}
        self._watches: dict[str, _Watch] = {}
        self._ports: dict[str, int] = {}
        self._http = httpx.AsyncClient(timeout=PROBE_S, limits=httpx.Limits(max_keepalive_connections=0))

    def replicas(self) -> dict[str, Replica]:
        return dict(self._replicas)

    async def adopt(self) -> None:
        known = _read_table(self._table)
        self._ports = {replica.release: replica.port for replica in known}
        for replica in known:
            if _alive(replica.pid, replica.created) and replica.state != "stopping":
                self._replicas[replica.release] = replica.model_copy(update={"state": "starting"})
                self._watches[replica.release] = _Watch(child=None, answered=time.monotonic())
        mine = {replica.pid for replica in self._replicas.values()} | self._of_others()
        for process in marked_processes(self._settings.home):
            if process.pid not in mine:
                _kill_group(process.pid, self._settings.home)
        self._save()
        await self.tick()

    async def start(self, release: str, src: Path, view: Path) -> None:
        if release in self._replicas or release in self._starting:
            return
        port = self._free_port(self._ports.get(release))
        await self._spawn(new_replica(release, port, src, view))

    async def stop(self, release: str) -> None:
        replica = self._replicas.get(release)
        if replica is None or replica.state == "stopping":
            return
        watch = self._watches[release]
        self._update(release, state="stopping", message="asked to stop")
        watch.kill_at = time.monotonic() + GRACE_S
        # one that is down has no process: 0 would be our own group, an old pid a stranger's
        if self._running(replica, watch):
            _signal(replica, signal.SIGTERM)

    async def tick(self) -> None:
        failed: list[Exception] = []
        for release in list(self._replicas):
            if release in self._starting or release not in self._replicas:
                continue  # another tick is at it
            try:
                await self._look_after(self._replicas[release], self._watches[release])
            except Exception as err:  # what ails one must not leave the others without a look
                failed.append(err)
        if failed:
            raise failed[0]

    async def _look_after(self, replica: Replica, watch: _Watch) -> None:
        if not self._running(replica, watch):
            await self._on_exit(replica, watch)
        elif replica.state == "stopping":
            if watch.kill_at is not None and time.monotonic() > watch.kill_at:
                _kill_group(replica.pid, self._settings.home)
        elif not self._too_large(replica):
            await self._probe(replica, watch)

    async def aclose(self) -> None:
        await self._http.aclose()

    def _too_large(self, replica: Replica) -> bool:
        """End what takes the machine's memory from the others: a crash like any other, and counted as one."""
        try:
            held = psutil.Process(replica.pid).memory_info().rss >> 20
        except psutil.Error:
            return False
        if held <= self._settings.replica_memory_mib:
            return False
        log.warning("replica=%s event=killed memory_mib=%d", replica.name, held)
        _kill_group(replica.pid, self._settings.home)
        return True

    async def _on_exit(self, replica: Replica, watch: _Watch) -> None:
        if replica.state == "stopping":
            _kill_group(replica.pid, self._settings.home)  # its own children, should it have left any
            if not is_taken(replica.port):
                del self._replicas[replica.release], self._watches[replica.release]
                self._save()
            return
        now = time.monotonic()
        if watch.restart_at is None:
            _kill_group(replica.pid, self._settings.home)
            status = watch.child.returncode if watch.child else "unknown"
            pause = BACKOFF_S[min(replica.restarts, len(BACKOFF_S) - 1)]
            watch.restart_at = now + pause
            message = f"exited with status {status}; see logs/replica-{replica.name}.log"
            self._update(replica.release, state="down", message=message)
        # the same port, so that the router's clusters stay as they are
        if now >= watch.restart_at and not is_taken(replica.port):
            await self._spawn(self._replicas[replica.release].model_copy(update={"restarts": replica.restarts + 1}))

    async def _probe(self, replica: Replica, watch: _Watch) -> None:
        now = time.monotonic()
        if replica.state == "ready" and now - watch.probed < PROBE_S:
            return
        watch.probed = now
        try:
            reply = await self._http.get(f"{replica.url}/readyz")
            body = reply.json() if reply.status_code == 200 else {}
        except (httpx.HTTPError, ValueError):
            if now - watch.answered > (SILENT_S if replica.state == "ready" else SILENT_AT_START_S):
                _kill_group(replica.pid, self._settings.home)
            return
        watch.answered = now
        if body.get("release") == replica.release:
            if replica.state != "ready":
                self._update(replica.release, state="ready", message="")
        elif body:
            # another program, or other bytes, answer on this port: never route to it
            message = f"answers as release {str(body.get('release'))[:12]}, not {replica.release[:12]}"
            self._update(replica.release, state="starting", message=message)
            _kill_group(replica.pid, self._settings.home)

    async def _spawn(self, replica: Replica) -> None:
        """Check the release, then start a process of it. One that is refused is down, and is checked again later."""
        self._starting[replica.release] = replica.port
        try:
            await asyncio.to_thread(self._check, replica.release)
        except InputRejected as err:
            pause = BACKOFF_S[min(replica.restarts + 1, len(BACKOFF_S) - 1)]
            self._watches[replica.release] = _Watch(child=None, restart_at=time.monotonic() + pause)
            self._replicas[replica.release] = replica
            self._update(replica.release, state="down", pid=0, message=f"refused: {err}")
            return
        finally:
            del self._starting[replica.release]
        known = self._replicas.get(replica.release)
        if known is not None and known.state == "stopping":
            return  # asked to stop while its files were read
        settings = self._settings
        settings.logs.mkdir(parents=True, exist_ok=True)
        command = launch_command(
            Path(replica.src),
            Path(replica.view),
            replica.port,
            replica.name,
            digest=replica.release,
            secrets=settings.home / "secrets.json",
            valkey=settings.url("valkey"),
            spool=settings.data / "serving" / "spool",
            store_config=_write_store_config(settings),
            public_keys=public_keys(settings),
            merchandising=merchandising_folder(settings),
        )
        environment = launch_environment() | {MARKER: str(settings.home)}
        try:
            with (settings.logs / f"replica-{replica.name}.log").open("ab") as log:
                child = subprocess.Popen(
                    command,
                    cwd=replica.src,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            created = psutil.Process(child.pid).create_time()
        except (OSError, psutil.Error) as err:
            raise Unavailable(f"replica {replica.name} could not be started: {err}; it is tried again") from err
        self._replicas[replica.release] = replica.model_copy(
            update={"pid": child.pid, "created": created, "state": "starting", "message": "loading"}
        )
        self._watches[replica.release] = _Watch(child=child, answered=time.monotonic())
        self._save()

    def _running(self, replica: Replica, watch: _Watch) -> bool:
        if watch.child is not None:
            return watch.child.poll() is None
        return _alive(replica.pid, replica.created)

    def _of_others(self) -> set[int]:
        """Processes that the tables of the other launchers name; theirs to look after. One that is no more left orphans."""
        named = [replica for path in self._others for replica in _read_table(path)]
        return {replica.pid for replica in named if _alive(replica.pid, replica.created)}

    def _free_port(self, last: int | None) -> int:
        """The port this release had last time, if it is free: then the router's clusters stay as they are."""
        own = self._own_ports
        used = {replica.port for replica in self._replicas.values()} | set(self._starting.values())
        for port in [*([last] if last else []), *own]:
            if port not in used and not is_taken(port):
                return port
        raise Unavailable(f"ports {own[0]} to {own[-1]} are all taken; set FRESHRANK_PORT_BASE to a free range")

    def _update(self, release: str, **changes: object) -> None:
        self._replicas[release] = self._replicas[release].model_copy(update=changes)
        self._save()

    def _save(self) -> None:
        rows = [replica.model_dump(mode="json") for replica in self._replicas.values()]
        self._table.parent.mkdir(parents=True, exist_ok=True)
        with drafted(self._table) as draft:
            draft.write_bytes(canonical_json(rows))


def marked_processes(home: Path) -> list[psutil.Process]:
    """Every ranker process of this home, whoever started it."""
    found = []
    for process in psutil.process_iter():
        try:
            if "bentos.ranker" in process.cmdline() and process.environ().get(MARKER) == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def stop_all(settings: Settings) -> int:
    """End every replica of this home, for tests: `make down` ends all processes of the stack. Returns how many there were."""
    processes = marked_processes(settings.home)
    for process in processes:
        process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=GRACE_S)
    for process in stubborn:
        _kill_group(process.pid, settings.home)
    return len(processes)


def _write_store_config(settings: Settings) -> Path:
    """Where replicas send feedback. In a file, readable by the owner only: arguments can be read by everybody."""
    config: dict[str, object] = {
        "bucket": settings.store_bucket,
        "region": settings.store_region,
        "timeout_s": settings.store_timeout_s,
        "sse": settings.store_sse,
        "kms_key": settings.store_kms_key,
    }
    if settings.local_store:
        config |= {
            "endpoint": settings.url("store"),
            "access_key": settings.secrets.store_access_key,
            "secret_key": settings.secrets.store_secret_key,
        }
    elif settings.store_endpoint != "aws":
        config["endpoint"] = settings.store_endpoint
    path = settings.data / "serving" / "store.json"
    write_atomically(path, canonical_json(config), mode=0o600)
    return path


def _read_table(path: Path) -> list[Replica]:
    try:
        return [Replica.model_validate(row) for row in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        return []  # unreadable: the mark in their environment still finds the processes


def _alive(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(replica: Replica, number: signal.Signals) -> None:
    try:
        os.kill(replica.pid, number)
    except ProcessLookupError:
        pass


def _kill_group(group: int, home: Path) -> None:
    """The whole group: a worker whose parent died would keep the port and answer with the old model.

    Member by member, and only with our mark: the number of an ended group may belong to somebody else by now.
    """
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.environ().get(MARKER) == str(home):
                process.kill()
        except (psutil.Error, OSError):
            continue
