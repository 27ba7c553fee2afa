"""Which alerts fire now, as the local watch last wrote it; read by `freshrank status`, `doctor` and the console.

A file in `run/`, replaced atomically. One that is too old tells nothing: then that is what is told.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tasks import service_table
from tasks.settings import Settings

STALE_S = 120.0


def path(settings: Settings) -> Path:
    return settings.run_dir / "alerts.json"


def write(settings: Settings, alerts: list[dict[str, Any]], at: float) -> None:
    """Each alert: {name, severity, summary, runbook, since}, all text, `since` an ISO time."""
    service_table.write(path(settings), {"at": at, "alerts": alerts})


def read(settings: Settings) -> tuple[list[dict[str, Any]], str]:
    """(alerts that fire, why nobody knows: empty when the watch is at work)."""
    try:
        told = json.loads(path(settings).read_text())
        age = time.time() - float(told["at"])
        alerts: list[dict[str, Any]] = told["alerts"]
    except FileNotFoundError:
        return [], "no watch has run in this home; alerts are not evaluated here"
    except (OSError, ValueError, KeyError, TypeError):
        return [], f"{path(settings).name} cannot be read; alerts are not known"
    if age > STALE_S:
        return [], f"the watch has said nothing for {age:.0f} s; see logs/watch.log"
    return alerts, ""
