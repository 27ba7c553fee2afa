"""`python -m infra.compose.service NAME`: become one row of the local stack's table, as process 1 of a container.

The same command lines, environments and files as the supervisor's (infra/local/services.py), so that the two cannot
drift. `prepare` instead of a name: make this home's secrets once, before anything reads them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.local.prepare import prepare
from infra.local.services import base_environment, services
from tasks.atomic import write_atomically
from tasks.domain.errors import FreshrankError, InputRejected
from tasks.settings import Settings

# asked from other containers by these names; MLflow refuses names it does not know (DNS rebinding)
MLFLOW_HOSTS = "mlflow:28002,localhost:28002,127.0.0.1:28002"


def credentials(settings: Settings) -> str:
    """~/.aws/credentials of every container: the store asks for the keys that this home generated."""
    keys = settings.secrets
    return f"[default]\naws_access_key_id={keys.store_access_key}\naws_secret_access_key={keys.store_secret_key}\n"


def command(name: str, settings: Settings, inherited: dict[str, str]) -> tuple[tuple[str, ...], dict[str, str], Path]:
    """(argv, environment, directory) of a service. Raises InputRejected for a name that the table does not have."""
    table = services(settings, everywhere=True)
    if name not in table:
        raise InputRejected(f"no service is called {name}; services: {', '.join(table)}")
    spec = table[name]
    prepare(spec, settings)
    environment = base_environment(settings, inherited) | spec.env
    if name == "mlflow":
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = MLFLOW_HOSTS
        environment["MLFLOW_S3_ENDPOINT_URL"] = str(settings.store_endpoint)
    return spec.argv, environment, spec.cwd


def main() -> int:
    try:
        settings = Settings()
        if sys.argv[1:] == ["prepare"]:
            _write_private(settings.home / ".aws" / "credentials", credentials(settings))
            return 0
        argv, environment, directory = command(" ".join(sys.argv[1:]), settings, dict(os.environ))
    except FreshrankError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    os.chdir(directory)
    os.execve(argv[0], argv, environment)


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, text.encode(), mode=0o600)


if __name__ == "__main__":
    sys.exit(main())
