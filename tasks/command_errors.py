"""How an error of a command is told: ours in a sentence, a mistyped setting as refused, the rest as a bug, its traceback kept."""

from __future__ import annotations

import sys
import tomllib
import traceback
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import SettingsError

from tasks.domain.errors import FreshrankError, InputRejected, Unavailable
from tasks.settings import Settings, default_home

REFUSED, AGAIN, FAILED, BUG = 2, 75, 1, 70  # of sysexits.h: temporary failure, internal software error


def told(err: Exception) -> tuple[str, int]:
    """(what the person reads, exit code)."""
    if isinstance(err, InputRejected) or _is_setting(err):
        return f"refused: {err}", REFUSED
    if isinstance(err, Unavailable):
        return f"unavailable: {err}", AGAIN
    if isinstance(err, FreshrankError):
        return str(err), FAILED
    kept = _keep(err)
    where = f"the traceback is in {kept}" if kept else "".join(traceback.format_exception(err))
    if isinstance(err, OSError) and err.filename:
        return f"failed: {err.strerror}: {err.filename}; {where}", FAILED
    return f"a bug of freshrank: {_named(err)}; nothing of yours is wrong, tell its maintainers; {where}", BUG


def _is_setting(err: Exception) -> bool:
    if isinstance(err, ValidationError):
        return err.title == Settings.__name__
    return isinstance(err, SettingsError | tomllib.TOMLDecodeError)


def _named(err: Exception) -> str:
    line = traceback.extract_tb(err.__traceback__)[-1] if err.__traceback__ else None
    at = f" at {Path(line.filename).name}:{line.lineno}" if line else ""
    return f"{type(err).__name__}: {err}{at}"


def _keep(err: Exception) -> Path | None:
    """Append the traceback to logs/cli.log; None where that cannot be written either."""
    log = default_home() / "logs" / "cli.log"
    head = f"{datetime.now(UTC).isoformat(timespec='seconds')} freshrank {' '.join(sys.argv[1:2])}\n"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(head + "".join(traceback.format_exception(err)) + "\n")
    except OSError:
        return None
    return log
