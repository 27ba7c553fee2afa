"""DAG files are parsed for every task: they are quick because nothing heavy is imported, also not through others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.dags.conftest import DAGS, REPO

HEAVY = (
    "torch",
    "mlflow",
    "great_expectations",
    "boto3",
    "polars",
    "numpy",
    "pandas",
    "pyarrow",
    "transformers",
    "bentoml",
)
PROBE = """
import importlib.util, json, sys, time
import airflow.sdk
before, began = set(sys.modules), time.perf_counter()
spec = importlib.util.spec_from_file_location("dag_under_test", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
seconds, modules = time.perf_counter() - began, set(sys.modules)
print(json.dumps({"seconds": seconds, "modules": sorted(modules), "new": len(modules - before)}))
"""


@pytest.fixture(scope="module")
def parsed() -> dict[str, dict[str, object]]:
    files = sorted(path for path in DAGS.glob("*.py") if not path.name.startswith("_"))
    assert [path.stem for path in files] == [
        "gate_error_rates",
        "model_refresh",
        "model_rollback",
        "model_rollout",
        "prune",
        "rollback_drill",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{DAGS}"}
    started = {
        path.stem: subprocess.Popen(
            [sys.executable, "-c", PROBE, str(path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for path in files
    }
    found = {}
    for name, process in started.items():
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err[-2000:]
        found[name] = json.loads(out.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "name", ["gate_error_rates", "model_refresh", "model_rollback", "model_rollout", "prune", "rollback_drill"]
)
def test_parsing_a_dag_file_imports_nothing_heavy(parsed: dict[str, dict[str, object]], name: str) -> None:
    modules = parsed[name]["modules"]
    assert isinstance(modules, list) and "tasks.domain.errors" in modules
    assert [module for module in HEAVY if module in modules] == []
    print(f"{name}: {parsed[name]['seconds']:.3f} s, {parsed[name]['new']} modules beside airflow.sdk")


def test_the_probe_sees_a_heavy_import_that_comes_through_another_module(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "innocent.py").write_text("import numpy\n")
    (folder / "planted.py").write_text("import innocent\n")
    environment = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{folder}"}
    command = [sys.executable, "-c", PROBE.replace("import airflow.sdk\n", ""), str(folder / "planted.py")]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "numpy" in json.loads(out)["modules"]
