"""`make run` from an empty home, and the next day on the warm stack: wall time per step, peak memory of everything.

The environment exists already (packages are downloaded). Takes about a quarter of an hour; the stack is stopped at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from benchmarks._table import Row, below, publish
from infra.local.services import MARKER

ROOT = Path(__file__).parents[1]
PORT_BASE = 26_000
FIRST_RUN_S, NEXT_DAY_S, MEMORY_GIB = 900, 360, 12


class Memory(threading.Thread):
    """Highest sum of the proportional set size of all processes of one stack, looked at every two seconds."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self.home, self.peak, self.done = str(home), 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(2):
            self.peak = max(self.peak, sum(map(self.pss, psutil.process_iter())))

    def pss(self, process: psutil.Process) -> int:
        try:
            environment = process.environ()
            if self.home not in (environment.get(MARKER), environment.get("FRESHRANK_HOME")):
                return 0
            return int(process.memory_full_info().pss)
        except psutil.Error:
            return 0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="freshrank-bench-") as folder:
        home = Path(folder) / "home"
        environment = os.environ | {"FRESHRANK_HOME": str(home), "FRESHRANK_PORT_BASE": str(PORT_BASE)}
        memory = Memory(home)
        memory.start()
        try:
            rows = measure(home, environment)
        finally:
            memory.done.set()
            subprocess.run([sys.executable, "-m", "infra.local", "down"], cwd=ROOT, env=environment, check=False)
    rows.insert(2, below("peak memory of all processes (PSS)", memory.peak / 2**30, "GiB", MEMORY_GIB))
    return 0 if publish("first_run", rows, ("apache-airflow", "torch", "openvino", "mlflow")) else 1


def measure(home: Path, environment: dict[str, str]) -> list[Row]:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "infra.local.run"], cwd=ROOT, env=environment, check=True)
    first = time.monotonic() - began
    refreshed = json.loads((home / "run" / "last_refresh.json").read_text())
    began = time.monotonic()
    command = [
        str(Path(sys.executable).parent / "freshrank"),
        "refresh",
        "--partition",
        "2017-07-02",
        "--wait",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    following = time.monotonic() - began
    next_day = json.loads(done.stdout)
    return [
        below("`make run`, empty home to exit 0", first, "s", FIRST_RUN_S),
        below(f"next day on the warm stack (ships {next_day['shipped']})", following, "s", NEXT_DAY_S),
        Row(f"refresh of 2017-07-01 with its rollout (ships {refreshed['shipped']})", refreshed["seconds"], "s"),
        *(Row(f"2017-07-01, {step}", seconds, "s") for step, seconds in refreshed["steps"].items()),
        *(Row(f"2017-07-02, {step}", seconds, "s") for step, seconds in next_day["steps"].items()),
    ]


if __name__ == "__main__":
    sys.exit(main())
