"""Files that must exist before a service starts. Each function may run again at any time: a restart calls it too."""

from __future__ import annotations

import json
from pathlib import Path

from infra.local import airflow_config, envoy_bootstrap
from infra.local.services import ServiceSpec
from tasks.atomic import write_atomically
from tasks.settings import Settings


def prepare(spec: ServiceSpec, settings: Settings) -> None:
    spec.cwd.mkdir(parents=True, exist_ok=True)
    if spec.name == "envoy":
        _envoy(settings)
    elif spec.name == "airflow-database":
        _airflow(settings)
    elif spec.name == "broker":
        # a file, because arguments can be read by everybody
        _write_private(spec.cwd / "broker.conf", f"requirepass {settings.secrets.derived('broker')}\n")


def _envoy(settings: Settings) -> None:
    from tasks.adapters.router import write_initial

    envoy_bootstrap.write(settings)
    # keeps routes of an earlier life: a restarted Envoy goes on with the weights it had, also without the controller
    write_initial(settings)


def _airflow(settings: Settings) -> None:
    airflow_config.home(settings).mkdir(parents=True, exist_ok=True)
    # Airflow would generate a password and print it into its log
    wanted = json.dumps({airflow_config.USER: settings.secrets.airflow_password})
    _write_private(airflow_config.password_file(settings), wanted + "\n")


def _write_private(path: Path, text: str) -> None:
    write_atomically(path, text.encode(), mode=0o600)
