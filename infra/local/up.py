"""Start the stack, or join one that runs, and follow it until everything is ready. The work is done by a detached
supervisor; nothing here is needed any more once it runs, so Ctrl-C leaves a healthy stack behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import psutil
from rich.console import Console

from infra.local import journal
from infra.local.one_supervisor import already_running
from infra.local.services import REPO
from infra.local.view import GOOD, Progress
from tasks import service_table
from tasks.domain.errors import Unavailable
from tasks.machine import MARKER
from tasks.settings import Settings

POLL_S = 0.2
PATIENCE_S = 300.0


def bring_up(
    settings: Settings,
    console: Console,
    only: tuple[str, ...] = (),
    timeout_s: float = PATIENCE_S,
    owner: int | None = None,
) -> None:
    """Return when all services are ready. Safe to repeat and to interrupt. The stack ends with the process `owner`.

    Raises:
        Unavailable: with the one thing that is in the way. What did start goes on running.
    """
    began = time.monotonic()
    running = service_table.read_supervisor(settings)
    if running and running["phase"] == "stopping":
        raise Unavailable(f"the stack of {settings.home} is being stopped right now; run the command again in a moment")
    if running and _covers(running, settings, only):
        if _all_ready(running, settings):
            _say(console, f"the stack is already up (supervisor pid {running['pid']}); nothing to do")
            return
        _say(console, f"the stack is already kept by supervisor pid {running['pid']}; waiting until it is ready")
    pid = int(running["pid"]) if running else _launch(settings, only, owner)
    try:
        _follow(settings, pid, began, timeout_s, console)
    except KeyboardInterrupt:
        _say(
            console,
            f"interrupted: the stack goes on starting in the background (supervisor pid {pid}); "
            f"run the same command to watch it, or `make down` to stop it",
        )
        raise


def wait(settings: Settings, console: Console, timeout_s: float = PATIENCE_S) -> None:
    """Follow a stack that somebody else started."""
    running = service_table.read_supervisor(settings)
    if running is None:
        raise Unavailable(f"no stack is running in {settings.home}; `python -m infra.local up` starts it")
    _follow(settings, int(running["pid"]), time.monotonic(), timeout_s, console)


def _covers(running: dict[str, Any], settings: Settings, only: tuple[str, ...]) -> bool:
    """True, or a refusal: two different stacks cannot share a home."""
    if running["port_base"] != settings.port_base:
        theirs, ours = running["port_base"], settings.port_base
        raise Unavailable(f"{already_running(settings)}. It uses port base {theirs}, this command asked for {ours}")
    if running["only"] and not (only and set(only) <= set(service_table.read_services(settings))):
        raise Unavailable(f"{already_running(settings)}. It was started with only {', '.join(running['only'])}")
    return True


def _all_ready(running: dict[str, Any], settings: Settings) -> bool:
    rows = service_table.read_services(settings)
    return running["phase"] == "ready" and all(row["state"] in GOOD for row in rows.values())


def _launch(settings: Settings, only: tuple[str, ...], owner: int | None) -> int:
    """Detached: it survives the terminal, and Ctrl-C there does not reach it."""
    log = journal.path(settings, "supervisor")
    log.parent.mkdir(parents=True, exist_ok=True)
    home = str(settings.home)
    environment = {**os.environ, "FRESHRANK_HOME": home, "FRESHRANK_PORT_BASE": str(settings.port_base), MARKER: home}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "infra.local", "supervise", "--only", ",".join(only)),
                *(("--owner", str(owner)) if owner else ()),
            ],
            cwd=REPO,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process.pid


def _follow(settings: Settings, pid: int, began: float, timeout_s: float, console: Console) -> None:
    with Progress(settings, console, began) as progress:
        while time.monotonic() - began < timeout_s:
            running = service_table.read_supervisor(settings)
            ours = running is not None and running["pid"] == pid
            if not ours and not _lives(pid):
                raise _why_it_ended(settings, pid)
            if ours and running:
                if running["phase"] == "stopping":
                    raise Unavailable("the stack was told to stop while it started; run the same command again")
                progress.show()
                rows = service_table.read_services(settings)
                if _all_ready(running, settings):
                    break
                _raise_if_failing(rows)
            time.sleep(POLL_S)
        else:
            late = ", ".join(n for n, row in service_table.read_services(settings).items() if row["state"] not in GOOD)
            raise Unavailable(
                f"not ready after {timeout_s:.0f} s: {late or 'the supervisor'}. What runs goes on; logs are in "
                f"{settings.logs}, `make down` stops it"
            )
    _say(console, f"the stack is up: {len(rows)} services in {time.monotonic() - began:.1f} s")


def _raise_if_failing(rows: dict[str, dict[str, Any]]) -> None:
    failing = "; ".join(f"{name} {row['note']}" for name, row in rows.items() if row["state"] == "failing")
    if failing:
        raise Unavailable(f"{failing}. It is tried again, the other services go on; `make down` stops everything")


def _why_it_ended(settings: Settings, pid: int) -> Unavailable:
    row = service_table.last_supervisor(settings) or {}
    if row.get("pid") == pid and row.get("phase") == "refused":
        return Unavailable(str(row["sentence"]))
    if service_table.read_supervisor(settings):
        return Unavailable(already_running(settings))  # somebody else was first
    log = journal.path(settings, "supervisor")
    last = (journal.last_lines(log, 1) or ["it wrote nothing"])[0]
    return Unavailable(f"the supervisor ended: {last}. Its log is {log}; `make down` cleans up")


def _lives(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return True
        process.wait(0)  # ours: take its exit status
    except (psutil.Error, ValueError):
        pass
    return False


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)
