"""What the start of a Celery worker costs before it asks anybody anything: its own code, Airflow's, and its command's.

    python -m benchmarks.worker_start

CPU seconds of a process of its own, three times each way, in turns; the median. The peer is what it costs where Python may
write no bytecode, as in containers that do not bring it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from benchmarks._table import Row, publish
from infra.local import airflow_config
from infra.local.services import base_environment
from tasks.settings import Settings

TIMES = 3
START = """
import sys, infra.local.worker
sys.argv = ["airflow", "celery", "worker", "--help"]
from airflow.__main__ import main
try:
    main()
except SystemExit:
    pass
import airflow.providers.celery.cli.celery_command, airflow.providers.celery.executors.celery_executor
"""
OURS, UNCOMPILED = "ours", "nothing compiled"


def cpu_s(environment: dict[str, str]) -> float:
    before = getrusage(RUSAGE_CHILDREN)
    line = [sys.executable, "-c", START]
    subprocess.run(line, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), executor="celery")
        environment = base_environment(settings, dict(os.environ)) | airflow_config.environment(settings)
        environment |= {"PYTHONPATH": str(Path.cwd()), "PYTHONPYCACHEPREFIX": str(Path(folder) / "bytecode")}
        uncompiled = {**environment, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(Path(folder) / "none")}
        ways = {OURS: environment, UNCOMPILED: uncompiled}
        cpu_s(environment)  # writes the bytecode
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TIMES):
            for name, way in ways.items():
                spent[name].append(cpu_s(way))
    median = {name: statistics.median(found) for name, found in spent.items()}
    peers = {UNCOMPILED: median[UNCOMPILED]}
    row = Row("start of a Celery worker, until its command is loaded", median[OURS], "s of CPU", peers=peers)
    return 0 if publish("worker_start", [row], ("apache-airflow", "celery"), evidence={"cpu_s": spent}) else 1


if __name__ == "__main__":
    sys.exit(main())
