"""Fixtures that need a running server: one small stack for a test session, in a home and on ports of its own.

It runs beside a live stack, and the supervisor ends it when the test process ends, however that happens.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from infra.local.down import bring_down
from infra.local.up import bring_up
from tasks.machine import is_taken
from tasks.settings import PORT_OFFSETS, Settings

# below the ports that the kernel hands out, also with the 10,000 that SeaweedFS adds; clear of the default 28000
PORT_BASES = range(12_000, 22_600, 100)


def free_port_base() -> int:
    """The first of 100 ports that nobody uses now. Random, so that two test sessions rarely look at the same ones."""
    for base in random.sample(PORT_BASES, len(PORT_BASES)):
        wanted = [base + offset for offset in PORT_OFFSETS.values()]
        if not any(is_taken(port) for port in (*wanted, *(port + 10_000 for port in wanted))):
            return base
    raise RuntimeError(f"no 100 free ports between {PORT_BASES.start} and {PORT_BASES.stop}")


@contextmanager
def running_stack(settings: Settings, *only: str) -> Iterator[Settings]:
    """Start these services (all, without names) and stop them at the end, whatever happened."""
    quiet = Console(stderr=True, quiet=True)
    try:
        bring_up(settings, quiet, only, owner=os.getpid())
        yield settings
    finally:
        bring_down(settings, quiet)


@pytest.fixture(scope="session")
def stack_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def store_settings(stack_home: Path) -> Iterator[Settings]:
    """Settings of a real object store and a real Valkey, shared by all contract tests of the session."""
    with running_stack(Settings(home=stack_home, port_base=free_port_base()), "store", "valkey") as settings:
        yield settings


@pytest.fixture
def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def port_base() -> int:
    return free_port_base()
