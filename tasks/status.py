"""One answer to "what is going on?": the controller's rollout state and the supervisor's service table."""

from __future__ import annotations

from typing import Any

from tasks.controller.client import ControllerClient
from tasks.service_table import read_services
from tasks.settings import Settings


def read_status(settings: Settings, controller: ControllerClient) -> dict[str, Any]:
    """{champion, challenger, previous, weights, rollout, frozen, services}. Needs the controller, nothing else."""
    told = controller.status()
    keys = ("champion", "challenger", "previous", "weights", "rollout", "frozen")
    return {key: told.get(key) for key in keys} | {"services": services(settings)}


def services(settings: Settings) -> dict[str, dict[str, Any]]:
    """name -> {state, url} of the local services; empty where there is no local stack."""
    return {name: {"state": row["state"], "url": row["url"]} for name, row in read_services(settings).items()}
