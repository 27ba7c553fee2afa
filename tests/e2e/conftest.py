"""One real stack for the end-to-end tests: everything that `make run` starts, on ports and in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from infra.local.down import bring_down
from tasks.settings import Settings
from tests.conftest import free_port_base

ROOT = Path(__file__).parents[2]


class Stack:
    """A running stack, and the commands that people use on it."""

    def __init__(self, home: Path, port_base: int) -> None:
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FRESHRANK_")} | {
            "FRESHRANK_HOME": str(home),
            "FRESHRANK_PORT_BASE": str(port_base),
            "FRESHRANK_RECIPE": "tiny",
            "FRESHRANK_POLICY": "tiny",
        }
        self.settings = Settings(home=home, port_base=port_base, recipe="tiny", policy="tiny")

    def run(self, *command: str, timeout: float = 900, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment | extra,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def freshrank(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(Path(sys.executable).parent / "freshrank"), *arguments, **extra)

    def step(self, name: str, partition: str, **inputs: str) -> str:
        done = self.run(
            *(sys.executable, "-m", "tasks", name, "--partition", partition),
            *(part for step, uri in inputs.items() for part in ("--input", f"{step}={uri}")),
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("e2e"), free_port_base())
    try:
        yield made
    finally:
        bring_down(made.settings, Console(stderr=True, quiet=True))


@pytest.fixture(scope="session")
def first_run(stack: Stack) -> subprocess.CompletedProcess[str]:
    """`make run`, on the tiny recipe."""
    done = stack.run(sys.executable, "-m", "infra.local.run", timeout=1200)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{logs(stack)}"
    return done


def logs(stack: Stack) -> str:
    found = sorted(stack.settings.logs.glob("*.log"), key=lambda path: path.stat().st_mtime)[-6:]
    return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in found)
