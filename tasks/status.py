"""One answer to "what is going on?": the controller's rollout state and the supervisor's service table."""

from __future__ import annotations

import json
from typing import Any

from tasks.controller.client import ControllerClient
from tasks.settings import Settings


def read_status(settings: Settings, controller: ControllerClient) -> dict[str, Any]:
    """{champion, challenger, previous, weights, rollout, frozen, services}. Needs the controller, nothing else."""
    told = controller.status()
    keys = ("champion", "challenger", "previous", "weights", "rollout", "frozen")
    return {key: told.get(key) for key in keys} | {"services": services(settings)}


def services(settings: Settings) -> dict[str, dict[str, Any]]:
    """name -> {state, url}, as the supervisor last wrote it; empty where there is no local stack."""
    table = settings.run_dir / "services.json"
    if not table.exists():
        return {}
    rows: dict[str, dict[str, Any]] = json.loads(table.read_text())
    return {name: {"state": row["state"], "url": row["url"]} for name, row in rows.items()}
