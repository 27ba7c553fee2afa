"""Champion and candidates on the same machine and the same requests, interleaved in random order, one at a time.

Pairs are added until the bounds of every candidate are clear of the policy's limits, or until the last planned look, after
which it is inconclusive (tasks/domain/latency.py). Every answer counts, slow ones too; what comes before the warm-up ends does
not, and neither does the time in which other processes had the core (tasks/stopwatch.py). Nothing else of ours should run
beside it: Airflow gives the step a pool of one. Size and peak memory are measured beside it (tasks/footprint.py). `freshrank
bench` compares two releases with the same code.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import footprint
from tasks.bench_history import history
from tasks.domain.errors import InputRejected
from tasks.domain.evidence import LatencyRatio
from tasks.domain.latency import LOOKS, NAMES, QUANTILES, SITTING, allowed_ratio, is_clear, ratios
from tasks.domain.statistics import Floats
from tasks.footprint import Parts
from tasks.machine import processor
from tasks.stopwatch import Stopwatch

if TYPE_CHECKING:
    from tasks.ranker.runtime import Scorer
    from tasks.ranker.state import ItemState, View

WARM_UP = 6  # requests of each sitting that do not count
CHAMPION, STATE, WEIGHTS = "champion", "state", "weights"
Answer = Callable[[str], None]
Times = dict[str, Floats]  # system -> [pairs] ms
Watch = Callable[[str], None]


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
    dataset: Path,
    candidate: Path | None,
    champion: Path,
    champion_view: Path,
    out: Path,
    seed: int,
    limits: Mapping[str, float],
    partition: str,
    earlier: Sequence[Mapping[str, Any]] = (),
    threads: int = 1,
) -> dict[str, Any]:
    """Time the champion, the new state with the champion's weights and, if trained, the new weights; write benchmark.json.

    Args:
        dataset: directory with items/ and view/, the state of the coming morning.
        candidate: directory with model/, or None where only the state is refreshed.
        champion: src directory of the release that serves, with its view beside it.
        limits: largest ratio that the policy allows, by name; when no more pairs are needed is asked of these.
        earlier: rows of bench_history.earlier_benches.

    Raises:
        InputRejected: no user is known to both views, so there is no request to compare on; or a limit nobody knows.
    """
    release, items, view = champion / "release", dataset / "items", dataset / "view"
    parts = {
        CHAMPION: Parts(release / "model", release / "items", champion_view),
        STATE: Parts(release / "model", items, view),
    }
    if candidate is not None:
        parts[WEIGHTS] = Parts(candidate / "model", items, view)
    told = compare_systems(parts, limits, seed, threads)
    summary = _summary(told) | {"machine": f"{processor()}, {threads} threads"}
    now = {name: summary[f"{CHAMPION}.{name}_ms"] for name in NAMES}
    told["history"] = history(earlier, {**now, **summary, "day": partition})
    (out / "benchmark.json").write_text(json.dumps(told, indent=1))
    return summary


def compare_systems(
    parts: Mapping[str, Parts], limits: Mapping[str, float], seed: int, threads: int = 1, watch: Watch = lambda _: None
) -> dict[str, Any]:
    """Everything that benchmark.json holds: `champion` against each of the others in `parts`.

    watch: told in a sentence how far it is, after each sitting.
    """
    if unknown := sorted(set(limits) - set(NAMES)):
        raise InputRejected(
            f"the policy limits {', '.join(unknown)}; measured are {', '.join(NAMES)}: change latency_ratio"
        )
    users = shared_users(parts)
    grown = growth(parts, users)
    allowed = {name: allowed_ratio(limit, grown) for name, limit in limits.items()}
    wall, cpu, pace = measure({name: loading(one, threads) for name, one in parts.items()}, users, allowed, seed, watch)
    compared = compare(wall, cpu, seed, limits)
    draws = np.random.default_rng(seed)
    watch("size and peak memory")
    others = {name: one for name, one in parts.items() if name != CHAMPION}
    costs = footprint.compare(parts[CHAMPION], others, [users[n] for n in draws.integers(0, len(users), 20)], threads)
    return {
        "requests": len(wall[CHAMPION]),
        "threads": threads,
        "limits": dict(limits),
        "growth": grown,
        "yardstick_ms": round(float(np.median(pace)), 4),
        "candidates": {name: [row.model_dump() for row in rows] for name, rows in compared.items()},
        "resources": {name: [row.model_dump() for row in rows] for name, rows in costs.items()},
        "wall_ms": {name: times.tolist() for name, times in wall.items()},
        "cpu_ms": {name: times.tolist() for name, times in cpu.items()},
    }


def shared_users(parts: Mapping[str, Parts]) -> list[str]:
    """Those whom every view knows, in order. Raises InputRejected where there is none."""
    from tasks.ranker.state import View

    shared = sorted(set.intersection(*(set(View(one.view).user_ids) for one in parts.values())))
    if not shared:
        raise InputRejected("no user is in the champion's view and in the new one; the two releases cannot be compared")
    return shared


def growth(parts: Mapping[str, Parts], users: Sequence[str]) -> float:
    """What a request reads, of the largest new state over the champion's: items that can be ranked, or lines of the users'
    histories, whichever grew more; 1 where neither did. An item that is known and cannot be ranked costs a request nothing."""
    from tasks.ranker.state import ItemState, View

    sizes = {name: (ItemState.load(one.items).size, View(one.view).lines(users)) for name, one in parts.items()}
    ratios = (new / max(old, 1) for both in sizes.values() for new, old in zip(both, sizes[CHAMPION], strict=True))
    return round(max(1.0, *ratios), 4)


def measure(
    load: Mapping[str, Callable[[], Answer]],
    users: Sequence[str],
    limits: Mapping[str, float],
    seed: int,
    watch: Watch = lambda _: None,
) -> tuple[Times, Times, list[float]]:
    """Wall and CPU ms of each request under each system, {name: [pairs]} twice, and the yardstick of each sitting.

    Wall time is a stopwatch's: waiting for a core that others have is left out.

    A candidate that is clear leaves, so it may have fewer pairs than the champion: its n-th is a pair with the champion's n-th.
    """
    draws = np.random.default_rng(seed)
    walls: dict[str, list[Floats]] = {name: [] for name in load}
    cpus: dict[str, list[Floats]] = {name: [] for name in load}
    waiting, pace = [name for name in load if name != CHAMPION], list[float]()
    for sitting in range(1, LOOKS[-1] + 1):
        wall, cpu = sit({name: load[name] for name in (CHAMPION, *waiting)}, users, draws)
        pace.append(yardstick_ms())
        for name in wall:
            walls[name].append(wall[name])
            cpus[name].append(cpu[name])
        watch(f"{sitting * SITTING:,} of at most {LOOKS[-1] * SITTING:,} pairs, not clear yet: {', '.join(waiting)}")
        if sitting in LOOKS:
            so_far = {name: np.concatenate(walls[name]) for name in (CHAMPION, *waiting)}
            on_cpu = {name: np.concatenate(cpus[name]) for name in (CHAMPION, *waiting)}
            waiting = [
                name for name, rows in compare(so_far, on_cpu, seed, limits).items() if not is_clear(rows, limits)
            ]
        if not waiting:
            break
    walled, on_cpu = ({name: np.concatenate(one) for name, one in times.items()} for times in (walls, cpus))
    return walled, on_cpu, pace


def yardstick_ms() -> float:
    """Median time of a fixed computation, like a ranker's: products, a sort, and Python. What the machine does to it, it does
    to a release: in yardsticks, two days can be compared.
    """
    left, right = (np.random.default_rng(n).random((192, 192), np.float32) for n in (0, 1))
    took, watch = [], Stopwatch()
    for _ in range(21):
        began = watch.now()
        for row in np.sort((left @ right).ravel())[::64].tolist():
            str(row)
        took.append(watch.now() - began)
    return float(np.median(took))


def sit(
    load: Mapping[str, Callable[[], Answer]], users: Sequence[str], draws: np.random.Generator
) -> tuple[Times, Times]:
    """One sitting: load every system anew in random order, warm up, and time SITTING requests: {name: [SITTING]} twice."""
    names, watch = list(load), Stopwatch()
    answer = {names[n]: load[names[n]]() for n in draws.permutation(len(names))}
    asked = [users[n] for n in draws.integers(0, len(users), WARM_UP + SITTING)]
    wall, cpu = ({name: np.empty(SITTING) for name in names} for _ in range(2))
    gc.collect()  # what loading left behind is nobody's latency
    for n, user in enumerate(asked, start=-WARM_UP):
        for name in (names[i] for i in draws.permutation(len(names))):
            wall_began, cpu_began = watch.now(), time.process_time_ns()
            answer[name](user)
            cpu_took, wall_took = time.process_time_ns() - cpu_began, watch.now() - wall_began
            if n >= 0:
                wall[name][n], cpu[name][n] = wall_took, cpu_took / 1e6
    # what is written down is what is compared: the ratios can be made again from the file
    return {name: ms.round(4) for name, ms in wall.items()}, {name: ms.round(4) for name, ms in cpu.items()}


def compare(
    wall: Mapping[str, Floats], cpu: Mapping[str, Floats], seed: int, names: Collection[str]
) -> dict[str, list[LatencyRatio]]:
    """Every system against the champion, from what `measure` saw, in the numbers that the policy limits."""
    return {
        name: ratios(wall[CHAMPION], wall[name], cpu[CHAMPION], cpu[name], seed, names)
        for name in wall
        if name != CHAMPION
    }


def _summary(told: dict[str, Any]) -> dict[str, Any]:
    """For MLflow and the Airflow page: quantiles of every system in ms, and every ratio."""
    walls = {name: np.array(times) for name, times in told["wall_ms"].items()}
    p50 = ", ".join(f"{name} {np.median(times):.2f} ms" for name, times in walls.items())
    summary: dict[str, Any] = {"sentence": f"p50 over {told['requests']} requests: {p50}"}
    summary["yardstick_ms"] = told["yardstick_ms"]
    for name, times in walls.items():
        summary |= {f"{name}.{tail}_ms": round(float(np.quantile(times, q)), 4) for tail, q in QUANTILES.items()}
        summary[f"{name}.cpu_ms"] = round(float(np.mean(told["cpu_ms"][name])), 4)
    return summary | {
        f"{name}.{row['name']}_ratio": round(row["ratio"], 4)
        for measured in (told["candidates"], told["resources"])
        for name, rows in measured.items()
        for row in rows
    }


def loading(parts: Parts, threads: int) -> Callable[[], Answer]:
    from tasks.ranker.device import device_of, reference_scorer, require_here
    from tasks.ranker.state import ItemState, View

    require_here(device_of(parts.model))  # times of another device say nothing
    return lambda: System(reference_scorer(parts.model, threads), ItemState.load(parts.items), View(parts.view)).answer
