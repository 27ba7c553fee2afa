"""What the lock may hold, which way imports go, and that each guard really guards."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CUDA_STACK = re.compile(r"^(nvidia|triton|cuda)[-_]?", re.IGNORECASE)


def test_the_lock_is_hashed_and_holds_nothing_of_the_cuda_stack():
    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)
    assert len(pinned) > 200
    assert not [name for name in pinned if CUDA_STACK.match(name) or name == "torch"]
    blocks = re.split(r"^(?=[A-Za-z0-9._-]+==)", lock, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_no_nvidia_package_is_installed_where_there_is_no_gpu():
    installed = {found.metadata["Name"] for found in distributions()}
    assert "apache-airflow" in installed
    assert not sorted(name for name in installed if name and CUDA_STACK.match(name))


@pytest.mark.parametrize("door", ["tasks.__main__", "tasks.cli"])
def test_every_telemetry_switch_is_off_in_steps_and_on_the_command_line(door):
    from tasks.telemetry_off import TELEMETRY_OFF

    assert len(TELEMETRY_OFF) >= 8
    code = (
        f"import atexit, json, os, sys; from {door} import main; sys.argv[1:] = ['--help']; "
        "atexit.register(lambda: json.dump(dict(os.environ), sys.stderr)); main()"
    )
    clean = {name: value for name, value in os.environ.items() if name not in TELEMETRY_OFF}
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=clean)
    assert {name: json.loads(told.stderr).get(name) for name in TELEMETRY_OFF} == TELEMETRY_OFF


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder)},
    )


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("tasks/domain/gate.py", "import mlflow", "domain is pure"),
        ("tasks/domain/gate.py", "import tasks.adapters.store", "domain is pure"),
        ("tasks/finetune.py", "import airflow", "tasks never import airflow"),
        ("tasks/compress.py", "import tasks.finetune", "steps never import each other"),
        (
            "bentos/ranker/service.py",
            "import tasks.adapters.store",
            "the service imports serving, ranker and domain only",
        ),
        ("tasks/controller/commands.py", "import tasks.record", "the controller knows no registry"),
        ("tasks/serving/signature.py", "import model_signing", "stays out of the service and of pulls"),
    ],
)
def test_a_planted_bad_import_breaks_its_contract(tmp_path, file, line, contract):
    for folder in ("tasks", "bentos", "expectations", "infra"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as module:
        module.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode != 0
    assert re.search(rf"{re.escape(contract)}.*BROKEN", result.stdout), result.stdout[-2000:]


def test_the_contracts_hold_as_they_stand():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout[-2000:]
