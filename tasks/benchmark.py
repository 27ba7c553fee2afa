"""Champion and candidates on the same machine and the same requests, interleaved in random order, one at a time.

Each request is ranked `REPEATS` times by each system and its fastest time counts: what the scheduler of a shared machine
adds is not the model's. Nothing else of ours should run beside it: Airflow gives the step a pool of one.
Size and peak memory are measured beside it (tasks/footprint.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import footprint
from tasks.domain.errors import InputRejected
from tasks.domain.gate import LatencyRatio
from tasks.domain.statistics import Floats, quantile_ratio
from tasks.footprint import Parts

if TYPE_CHECKING:
    from tasks.ranker.runtime import Scorer
    from tasks.ranker.state import ItemState, View

REQUESTS, REPEATS, WARM_UP = 300, 3, 20
CHAMPION, STATE, WEIGHTS = "champion", "state", "weights"
QUANTILES = {"p50": 0.50, "p95": 0.95}


@dataclass(frozen=True)
class System:
    """One way to answer: weights, item state and the users' histories that belong to it."""

    scorer: Scorer
    items: ItemState
    view: View

    def answer(self, user: str) -> None:
        from tasks.ranker.rank import recommend

        recommend(self.scorer, self.items, self.view.get(user))


def benchmark(
    dataset: Path, candidate: Path | None, champion: Path, champion_view: Path, out: Path, seed: int, threads: int = 1
) -> dict[str, Any]:
    """Time the champion, the new state with the champion's weights and, if trained, the new weights; write benchmark.json.

    Args:
        dataset: directory with items/ and view/, the state of the coming morning.
        candidate: directory with model/, or None where only the state is refreshed.
        champion: src directory of the release that serves, with its view beside it.

    Raises:
        InputRejected: no user is known to both views, so there is no request to compare on.
    """
    parts = _parts(dataset, candidate, champion, champion_view)
    systems = {name: _loaded(one, threads) for name, one in parts.items()}
    shared = sorted(set.intersection(*(set(system.view.user_ids) for system in systems.values())))
    if not shared:
        raise InputRejected("no user is in the champion's view and in the new one; the two releases cannot be compared")
    draws = np.random.default_rng(seed)
    users = [shared[n] for n in draws.integers(0, len(shared), REQUESTS)]
    wall, cpu = measure({name: system.answer for name, system in systems.items()}, users, draws)
    compared = compare(wall, cpu, seed)
    costs = footprint.compare(parts.pop(CHAMPION), parts, users, threads)
    told = {
        "requests": len(users),
        "repeats": REPEATS,
        "threads": threads,
        "candidates": {name: [row.model_dump() for row in rows] for name, rows in compared.items()},
        "resources": {name: [row.model_dump() for row in rows] for name, rows in costs.items()},
        "wall_ms": {name: times.tolist() for name, times in wall.items()},
        "cpu_ms": {name: times.tolist() for name, times in cpu.items()},
    }
    (out / "benchmark.json").write_text(json.dumps(told, indent=1))
    p50 = ", ".join(f"{name} {np.median(times):.2f} ms" for name, times in wall.items())
    summary: dict[str, Any] = {"sentence": f"p50 over {len(users)} requests: {p50}"}
    return summary | {
        f"{name}.{row.name}_ratio": round(row.ratio, 4)
        for measured in (compared, costs)
        for name, rows in measured.items()
        for row in rows
    }


def measure(
    answer: dict[str, Callable[[str], None]], users: list[str], draws: np.random.Generator
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Fastest wall and CPU milliseconds of each request under each system: {name: [requests]} twice."""
    names = list(answer)
    for user in users[:WARM_UP]:
        for name in names:
            answer[name](user)
    wall = {name: np.full(len(users), np.inf) for name in names}
    cpu = {name: np.full(len(users), np.inf) for name in names}
    for n, user in enumerate(users):
        for name in (names[i] for i in draws.permutation(np.repeat(np.arange(len(names)), REPEATS))):
            wall_began, cpu_began = time.perf_counter(), time.process_time()
            answer[name](user)
            cpu[name][n] = min(cpu[name][n], (time.process_time() - cpu_began) * 1000)
            wall[name][n] = min(wall[name][n], (time.perf_counter() - wall_began) * 1000)
    # what is written down is what is compared: the ratios can be made again from the file
    return {name: ms.round(4) for name, ms in wall.items()}, {name: ms.round(4) for name, ms in cpu.items()}


def compare(wall: Mapping[str, Floats], cpu: Mapping[str, Floats], seed: int) -> dict[str, list[LatencyRatio]]:
    """Every system against the champion, from what `measure` saw."""
    return {
        name: ratios(wall[CHAMPION], wall[name], cpu[CHAMPION], cpu[name], seed) for name in wall if name != CHAMPION
    }


def ratios(
    champion: Floats, candidate: Floats, champion_cpu: Floats, candidate_cpu: Floats, seed: int
) -> list[LatencyRatio]:
    """What the gate judges: p50 and p95 of the wall time, and the median CPU time, each with bounds."""
    rows = [(name, champion, candidate, quantile) for name, quantile in QUANTILES.items()]
    rows.append(("cpu", champion_cpu, candidate_cpu, 0.5))
    made = []
    for name, one, other, quantile in rows:
        ratio, lower, upper = quantile_ratio(one, other, quantile, seed=seed)
        made.append(
            LatencyRatio(
                name=name,
                champion_ms=float(np.quantile(one, quantile)),
                candidate_ms=float(np.quantile(other, quantile)),
                ratio=ratio,
                lower=lower,
                upper=upper,
                pairs=len(one),
            )
        )
    return made


def _parts(dataset: Path, candidate: Path | None, champion: Path, champion_view: Path) -> dict[str, Parts]:
    release, items, view = champion / "release", dataset / "items", dataset / "view"
    parts = {
        CHAMPION: Parts(release / "model", release / "items", champion_view),
        STATE: Parts(release / "model", items, view),
    }
    if candidate is not None:
        parts[WEIGHTS] = Parts(candidate / "model", items, view)
    return parts


def _loaded(parts: Parts, threads: int) -> System:
    from tasks.ranker.runtime import OpenVinoScorer
    from tasks.ranker.state import ItemState, View

    return System(OpenVinoScorer(parts.model, threads), ItemState.load(parts.items), View(parts.view))
