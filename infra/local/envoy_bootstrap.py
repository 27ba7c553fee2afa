"""Envoy's bootstrap: where its admin page is and which files hold listeners and clusters. Routes are not its business.

The controller owns everything under data/envoy/xds (tasks/adapters/router.py) and replaces those files by rename.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.adapters import envoy_edge
from tasks.atomic import drafted
from tasks.settings import Settings

# Envoy's own buckets jump from 5 to 25 ms and from 100 to 250: too far apart for a p99 of a ranker. In ms.
LATENCY_BUCKETS = (*range(1, 11), 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000, 10_000)


def path(settings: Settings) -> Path:
    return settings.data / "envoy" / "bootstrap.json"


def bootstrap(settings: Settings) -> dict[str, Any]:
    xds = settings.data / "envoy" / "xds"

    def from_file(name: str) -> dict[str, Any]:
        return {"resource_api_version": "V3", "path_config_source": {"path": str(xds / name)}}

    return {
        "node": {"id": "freshrank-local", "cluster": "freshrank"},
        "admin": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": settings.port("envoy_admin")}},
        },
        "dynamic_resources": {"lds_config": from_file("lds.json"), "cds_config": from_file("cds.json")},
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"suffix": "rq_time"}, "buckets": [float(bound) for bound in LATENCY_BUCKETS]}
            ]
        },
        "overload_manager": envoy_edge.overload(),
        # what an operator sets on the admin page holds until Envoy restarts
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
    }


def write(settings: Settings) -> None:
    target = path(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with drafted(target) as draft:
        draft.write_text(json.dumps(bootstrap(settings), indent=1))
