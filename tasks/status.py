"""One answer to "what is going on?": the controller's rollout state and the supervisor's service table."""

from __future__ import annotations

from typing import Any

from tasks import firing
from tasks.controller.client import ControllerClient
from tasks.service_table import read_services
from tasks.settings import Settings


def read_status(settings: Settings, controller: ControllerClient) -> dict[str, Any]:
    """{champion, challenger, previous, weights, rollout, frozen, alerts, alerts_unknown, services}. Needs the controller,
    nothing else; `alerts_unknown` says why nobody knows what fires, and is empty while the watch is at work."""
    told = controller.status()
    keys = ("champion", "challenger", "previous", "weights", "rollout", "frozen", "frozen_because")
    alerts, unknown = firing.read(settings)
    found = {key: told.get(key) for key in keys} | {"alerts": alerts, "alerts_unknown": unknown}
    return found | {"services": services(settings)}


def services(settings: Settings) -> dict[str, dict[str, Any]]:
    """name -> {state, url} of the local services; empty where there is no local stack."""
    return {name: {"state": row["state"], "url": row["url"]} for name, row in read_services(settings).items()}
