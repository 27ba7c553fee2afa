"""How long Airflow's parser spends on each DAG file once airflow itself is imported, each in a process of its own.

    python -m benchmarks.dag_parse

The peer is the same file with the imports of its steps at the top, which is how most published pipelines are written.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._table import below, publish

REPO = Path(__file__).resolve().parent.parent
TARGET_S, TIMES = 0.3, 5
HEAVY = "import boto3, great_expectations, mlflow, torch\n"
PROBE = """
import importlib.util, sys, time
import airflow.sdk
began = time.perf_counter()
spec = importlib.util.spec_from_file_location("dag_under_test", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(time.perf_counter() - began)
"""


def seconds(path: Path, home: str, times: int) -> float:
    environment = {**os.environ, "AIRFLOW_HOME": home, "PYTHONPATH": os.pathsep.join([str(REPO), str(REPO / "dags")])}
    command = [sys.executable, "-c", PROBE, str(path)]
    runs = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        for _ in range(times)
    ]
    return statistics.median(map(json.loads, runs))


def main() -> int:
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for path in sorted((REPO / "dags").glob("model_*.py")):
            usual = Path(home) / path.name
            usual.write_text(path.read_text().replace("\nfrom _ranker", f"\n{HEAVY}from _ranker", 1))
            peers = {"imports at the top": seconds(usual, home, 1)}
            rows.append(below(f"parse dags/{path.name}", seconds(path, home, TIMES), "s", TARGET_S, peers))
    return 0 if publish("dag_parse", rows, ("apache-airflow", "mlflow", "torch")) else 1


if __name__ == "__main__":
    sys.exit(main())
