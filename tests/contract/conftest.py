"""A real MLflow server with the switches of our stack, shared by the tests of a session."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from infra.local.services import NO_JOBS, NO_PICKLE
from tasks.settings import Settings
from tasks.telemetry_off import TELEMETRY_OFF


@dataclass(frozen=True, slots=True)
class MlflowServer:
    settings: Settings
    group: int  # of its processes

    @property
    def url(self) -> str:
        return self.settings.url("mlflow")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """SQLite, one worker; stopped with its whole process group."""
    home = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{home}/mlflow.db"]
    command += ["--artifacts-destination", str(home / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, **TELEMETRY_OFF, **NO_JOBS, **NO_PICKLE}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--workers", "1"], cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, (home / "log").read_text()
            try:
                httpx.get(f"{url}/health", timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield MlflowServer(Settings(home=home, mlflow_url=url), server.pid)
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)


@pytest.fixture(scope="session")
def mlflow_settings(mlflow_server: MlflowServer) -> Settings:
    return mlflow_server.settings
