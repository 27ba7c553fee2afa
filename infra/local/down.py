"""Stop the stack and prove it: success means that no process of this home is left."""

from __future__ import annotations

import time

import psutil
from rich.console import Console

from infra.local import processes
from infra.local.view import Progress
from tasks import service_table
from tasks.domain.errors import Unavailable
from tasks.settings import Settings

PATIENCE_S = 90.0


def bring_down(settings: Settings, console: Console) -> None:
    began = time.monotonic()
    running = service_table.read_supervisor(settings)
    if running:
        _end_supervisor(psutil.Process(int(running["pid"])), Progress(settings, console, began), began)
    strays, stubborn = processes.end_stack(settings)
    if stubborn:
        pids = ", ".join(str(p.pid) for p in stubborn)
        raise Unavailable(f"processes {pids} of the stack in {settings.home} do not end; end them by hand")
    seconds = time.monotonic() - began
    if running or strays:
        sentence = f"the stack is down after {seconds:.1f} s: no process is left, its data stay in {settings.home}"
    else:
        sentence = f"no stack was running in {settings.home}"
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _end_supervisor(supervisor: psutil.Process, progress: Progress, began: float) -> None:
    """It stops its services in order. If it does not come to an end, kill it; the services are swept afterwards."""
    try:
        supervisor.terminate()
        with progress:
            while processes.runs(supervisor) and time.monotonic() - began < PATIENCE_S:
                progress.show()
                time.sleep(0.1)
        if processes.runs(supervisor):
            supervisor.kill()
    except psutil.NoSuchProcess:
        pass
