"""What the local supervisor last wrote about itself and its services; read by `freshrank status` and `doctor`.

Two files in `run/`: services.json, the table {name: row}, and supervisor.json, who keeps it. Both are replaced
atomically. Readers never trust a row whose supervisor is gone: a file outlives the process that wrote it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.atomic import drafted
from tasks.machine import is_alive
from tasks.settings import Settings


def services_path(settings: Settings) -> Path:
    return settings.run_dir / "services.json"


def supervisor_path(settings: Settings) -> Path:
    return settings.run_dir / "supervisor.json"


def write(path: Path, content: dict[str, Any]) -> None:
    with drafted(path) as draft:
        draft.write_text(json.dumps(content, indent=1))


def read_supervisor(settings: Settings) -> dict[str, Any] | None:
    """The supervisor's own row, or None when it is not running. A reused pid is told apart by its start time."""
    row = _read(supervisor_path(settings))
    return row if row and is_alive(row.get("pid"), row.get("born")) else None


def last_supervisor(settings: Settings) -> dict[str, Any] | None:
    """What the last supervisor wrote, also when it has ended: its `phase` and `sentence` say why."""
    return _read(supervisor_path(settings))


def last_services(settings: Settings) -> dict[str, dict[str, Any]]:
    """The table as it was last written, by whomever."""
    return _read(services_path(settings)) or {}


def read_services(settings: Settings) -> dict[str, dict[str, Any]]:
    """{name: {state, url, pid, restarts, since, note}}. Without a supervisor a row says "unattended" while its process
    lives (nothing will restart it) and "stopped" otherwise."""
    rows = last_services(settings)
    if read_supervisor(settings):
        return rows
    for row in rows.values():
        alive = is_alive(row.get("pid"), row.get("born"))
        row |= {"state": "unattended" if alive else "stopped", "pid": row.get("pid") if alive else None}
    return rows


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
