"""`freshrank doctor`: each planted problem is found, named, and comes with what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import doctor, machine, service_table
from tasks.settings import Settings
from tests.supervisor_builders import LISTEN


@pytest.fixture
def settings(tmp_path: Path, port_base: int) -> Settings:
    return Settings(home=tmp_path / "home", port_base=port_base)


def problems(settings: Settings) -> dict[str, dict[str, Any]]:
    findings = doctor.examine(settings)
    assert {"home", "disk", "packages", "secrets", "ports", "supervisor"} <= {finding["check"] for finding in findings}
    assert all(finding["sentence"] and bool(finding["next"]) != finding["ok"] for finding in findings)
    return {finding["check"]: finding for finding in findings if not finding["ok"]}


def test_a_fresh_machine_lacks_only_a_running_stack(settings: Settings) -> None:
    assert set(problems(settings)) == {"supervisor"}
    assert not settings.home.exists(), "looking changes nothing"


def test_a_readable_secrets_file_is_found(settings: Settings) -> None:
    assert settings.secrets
    (settings.home / "secrets.json").chmod(0o644)
    assert "chmod 600" in problems(settings)["secrets"]["next"]


def test_a_full_disk_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NEEDED_BYTES", 1 << 60)
    assert "GiB are free" in problems(settings)["disk"]["sentence"]


def test_a_missing_package_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", {"pytest", "no-such-package"})
    assert problems(settings)["packages"]["sentence"] == "not installed: no-such-package"


@pytest.mark.parametrize("ours", [True, False])
def test_a_port_is_a_problem_only_when_somebody_else_holds_it(settings: Settings, tmp_path: Path, ours: bool) -> None:
    port = settings.port("mlflow")
    argv = [sys.executable, "-ISc", LISTEN, str(port), str(tmp_path / "starts")]
    mark = {machine.MARKER: str(settings.home if ours else tmp_path)}
    server = subprocess.Popen(argv, env=mark, stdout=subprocess.PIPE)
    try:
        assert server.stdout
        server.stdout.readline()
        found = problems(settings).get("ports")
    finally:
        server.kill()
        server.communicate()
    if ours:
        assert found is None
    else:
        assert (
            found and f"port {port} (mlflow) is taken" in found["sentence"] and f"pid {server.pid}" in found["sentence"]
        )


def test_what_runs_unattended_is_named(settings: Settings) -> None:
    import psutil

    me = psutil.Process()
    row = {"pid": me.pid, "born": me.create_time(), "state": "ready", "url": "", "restarts": 0, "note": ""}
    service_table.write(service_table.services_path(settings), {"envoy": row})
    found = problems(settings)
    assert "envoy still run" in found["supervisor"]["sentence"]
    assert "unattended" in found["service envoy"]["sentence"]


def test_a_check_that_breaks_is_a_finding(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> bool:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(machine, "is_taken", broken)
    findings = {finding["check"]: finding for finding in doctor.examine(settings)}
    assert "RuntimeError: no such luck" in findings["ports"]["sentence"]
    assert "supervisor" in findings, "the checks after it still ran"


def test_services_and_store_that_do_not_answer_are_found(settings: Settings) -> None:
    """The supervisor lives, its services do not."""
    import psutil

    me = psutil.Process()
    row = {"pid": me.pid, "born": me.create_time(), "phase": "ready", "at": "now"}
    service_table.write(service_table.supervisor_path(settings), row)
    found = problems(settings)
    assert {"answer of controller", "answer of mlflow", "answer of airflow", "store"} == set(found)
