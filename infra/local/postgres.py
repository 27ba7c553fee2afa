"""Airflow's PostgreSQL where tasks run on workers: `python -m infra.local.postgres`, started by the supervisor.

The server refuses to run as root. There it gets another user that may, like root, pass through this home's directories:
changing their modes, or making a user on this machine, is not ours to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from infra.local import binaries
from tasks.domain.errors import InputRejected
from tasks.settings import Settings

USER = "postgres"
NOBODY = 65534


def url(settings: Settings) -> str:
    password = settings.secrets.derived("postgres")
    return f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{settings.port('postgres')}/postgres"


def folder(settings: Settings) -> Path:
    return settings.data / "postgres"


def main() -> int:
    settings = Settings()
    data = folder(settings)
    if not (data / "PG_VERSION").exists():
        _make(settings, data)
    options = {
        "listen_addresses": settings.bind,
        "port": settings.port("postgres"),
        "unix_socket_directories": "",
        "max_connections": 100,
        "shared_buffers": "64MB",
        "update_process_title": "off",
    }
    arguments = [str(binaries.postgres("postgres")), "-D", str(data)]
    for name, value in options.items():
        arguments += ["-c", f"{name}={value}"]
    command = [*_unprivileged(), *arguments]
    os.execv(command[0], command)


def _make(settings: Settings, data: Path) -> None:
    """initdb under a draft name, so that a kill leaves no half-made database behind."""
    draft, password = data.with_name(f"{data.name}.draft"), data.with_name(".postgres-password")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    password.unlink(missing_ok=True)
    with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(settings.secrets.derived("postgres"))
    if os.geteuid() == 0:
        os.chown(draft, NOBODY, NOBODY)
        os.chown(password, NOBODY, NOBODY)
    try:
        subprocess.run(
            [
                *_unprivileged(),
                *(str(binaries.postgres("initdb")), "-D", str(draft), "--username", USER, "--pwfile", str(password)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            ],
            check=True,
        )
    finally:
        password.unlink(missing_ok=True)
    draft.rename(data)


def _unprivileged() -> list[str]:
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise InputRejected("PostgreSQL does not run as root and setpriv (util-linux) is missing; run as another user")
    through = "+dac_override"
    return [
        *(setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *(f"--inh-caps={through}", f"--ambient-caps={through}"),
    ]


if __name__ == "__main__":
    sys.exit(main())
