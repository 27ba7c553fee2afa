"""Logs of the services: one file each, cut by size while the service keeps writing to it."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from tasks.settings import Settings

LIMIT_BYTES = 16 << 20
KEPT = 3


def path(settings: Settings, service: str) -> Path:
    return settings.logs / f"{service}.log"


def note(log: Path, sentence: str) -> None:
    """One line of the supervisor's own between the service's lines."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} [supervisor] {sentence}\n")


def rotate(log: Path, limit: int = LIMIT_BYTES) -> bool:
    """Copy and truncate: the child holds the file open and appends. The few lines written in between are lost."""
    if not log.exists() or log.stat().st_size <= limit:
        return False
    for number in range(KEPT - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)
    return True


def last_lines(log: Path, lines: int = 15) -> list[str]:
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        return file.read().decode(errors="replace").splitlines()[-lines:]
