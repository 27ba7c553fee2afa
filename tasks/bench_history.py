"""Earlier benches of this machine, from the manifests of their steps: the series in which creep is looked for.

MLflow shows the same numbers (`benchmark.champion.p95_ms` of each run); it decides nothing, so nothing is read from there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.adapters.store import Store
from tasks.domain.creep import BENCHES
from tasks.domain.latency import NAMES
from tasks.lineage import manifests_of

RUN = re.compile(r"(runs/benchmark/(?P<partition>[0-9-]{10})/[0-9a-f]{24})\.json")


def bench_keys(store: Store, before: str) -> list[str]:
    """Runs of the benchmark step for earlier partitions, the newest BENCHES of them, oldest first."""
    found = [match for key in store.list("runs/benchmark/") if (match := RUN.fullmatch(key))]
    return sorted(match[1] for match in found if match["partition"] < before)[-BENCHES:]


def earlier_benches(store: Store, before: str) -> list[dict[str, Any]]:
    """{day, machine, yardstick_ms, p50, p95, p99, cpu} of the champion in each, in the order in which they were made."""
    made = sorted(
        manifests_of(store, bench_keys(store, before)).values(), key=lambda one: (one.partition, one.started_at)
    )
    return [
        {"day": one.partition, "machine": one.summary["machine"], "yardstick_ms": one.summary["yardstick_ms"]}
        | {name: one.summary[f"champion.{name}_ms"] for name in NAMES}
        for one in made
        if "yardstick_ms" in one.summary
    ]


def history(earlier: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> dict[str, Any]:
    """{days, relative: {p95: [...]}}: the champion's numbers in yardsticks, the newest last; other machines are left out."""
    rows = [one for one in [*earlier, now] if one["machine"] == now["machine"]][-BENCHES:]
    return {
        "days": [one["day"] for one in rows],
        "relative": {name: [round(one[name] / one["yardstick_ms"], 5) for one in rows] for name in NAMES},
    }
