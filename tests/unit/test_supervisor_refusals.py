"""What makes a start impossible is said in one sentence, before anything is started."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local import supervisor
from infra.local.services import ServiceSpec
from infra.local.supervisor import Supervisor
from tasks import machine, service_table
from tasks.domain.errors import FreshrankError, InputRejected, Unavailable
from tasks.settings import Settings
from tests.supervisor_builders import (
    LISTEN,
    a_command,
    a_server,
    free_port,
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(supervisor, "READY_POLL_S", 0.02)
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.02,))
    return Settings(home=tmp_path / "home")


def refused(settings: Settings, spec: ServiceSpec) -> FreshrankError:
    with pytest.raises(FreshrankError) as caught:
        asyncio.run(Supervisor(settings, table=lambda _: {spec.name: spec}).run())
    row = service_table.last_supervisor(settings) or {}
    assert (row["phase"], row["sentence"]) == ("refused", str(caught.value)), "`up` reads the reason there"
    assert service_table.last_services(settings) == {}, "nothing was started"
    return caught.value


def test_a_taken_port_is_named_with_its_holder_and_the_setting(settings: Settings, tmp_path: Path) -> None:
    port = free_port()
    holder = subprocess.Popen(
        [sys.executable, "-ISc", LISTEN, str(port), str(tmp_path / "starts")], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout
        holder.stdout.readline()
        error = refused(settings, a_server("one", port, tmp_path / "starts"))
    finally:
        holder.kill()
        holder.communicate()
    assert isinstance(error, Unavailable)
    for part in (f"port {port} (one of one)", f"pid {holder.pid}", "FRESHRANK_PORT_BASE", str(settings.port_base)):
        assert part in str(error)


def test_a_full_disk_is_refused_with_numbers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NEEDED_BYTES", 1 << 60)
    error = refused(settings, a_command("one", ""))
    assert isinstance(error, Unavailable)
    assert "GiB free" in str(error) and "FRESHRANK_HOME" in str(error)


def test_a_missing_package_is_named(settings: Settings) -> None:
    error = refused(settings, a_command("one", "", packages=("json", "no_such_package_here")))
    assert isinstance(error, InputRejected)
    assert "no_such_package_here" in str(error) and "json" not in str(error)
