"""Does the latency gate see a slowdown of 5 % in the p95, and let a release pass that is as fast? Beside simpler rules.

    .venv/bin/python -m benchmarks.latency_gate --release DIR/release --view VIEW --record 200   # as often as you like
    .venv/bin/python -m benchmarks.latency_gate

The first command adds real sittings of the benchmark step to a pool: the release, the same release once more, and the same
with a planted regression (an answer that took longer than 80 % of its last 512 waits another 5 % of its time, really). The second
draws runs from the pool: whole sittings with replacement, so what lasts for a sitting (where memory lies, a busy neighbour) is
kept. In each A/A sitting chance says which of the two loads is called the champion. A run is judged as the step and the gate do
it: the production policy's limits, at the planned looks. Two slowdowns are planted: the real one, and an exact one (the second
load's answers beyond its own 80 % times 1.05).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu, ttest_ind

from benchmarks._table import Row, at_least, below, publish
from tasks.benchmark import WARM_UP, Answer, loading, shared_users, sit
from tasks.domain.evidence import LatencyRatio
from tasks.domain.latency import LOOKS, SITTING, allowed_ratio, is_clear, ratios
from tasks.domain.statistics import Floats
from tasks.footprint import Parts
from tasks.policies import load_policy
from tasks.stopwatch import Stopwatch

POOL = Path(".freshrank/bench/latency_gate")
POLICY, SLOWDOWN, SLOW = "production", 1.05, 0.8
RECENT = 8 * SITTING  # answers, over several sittings: the slowest fifth of one alone is a dozen
GROWTH = 1.005  # of a state over a day, and of the limits with it (docs/adr/0057)
RUNS, FIXED = 100, LOOKS[0] * SITTING  # the simpler rules take one look at so many pairs
SIDES = ("champion", "same", "planted")
Sittings = dict[str, Floats]  # WHAT.SIDE -> [sittings, SITTING] ms


def main(pool: Sittings) -> bool:
    limits = load_policy(POLICY).gate.latency_ratio
    grown = {name: allowed_ratio(limit, GROWTH) for name, limit in limits.items()}
    kinds = {
        "A/A": (equal, limits),
        "exact": (exact, limits),
        "real": (real, limits),
        "real, and the state grew": (real, grown),
    }
    told = {
        kind: [judged(draw(pool, np.random.default_rng([n, 7])), within, n) for n in range(RUNS)]
        for kind, (draw, within) in kinds.items()
    }
    print("| runs | refused | inconclusive | passed | pairs, median |\n| --- | --- | --- | --- | --- |")
    for kind, runs in told.items():
        counts = [sum(run["ours"] == outcome for run in runs) for outcome in ("fail", "inconclusive", "pass")]
        print(f"| {kind} | {' | '.join(map(str, counts))} | {np.median([run['pairs'] for run in runs]):,.0f} |")
    return publish("latency_gate", bars(pool, told), ("numpy", "scipy", "openvino"))


def bars(pool: Sittings, told: dict[str, list[dict[str, object]]]) -> list[Row]:
    def count(kind: str, *outcomes: str) -> float:
        return sum(run["ours"] in outcomes for run in told[kind])

    def others(kind: str) -> dict[str, float]:
        names = [name for name in told[kind][0] if name not in ("ours", "pairs")]
        return {name: float(sum(run[name] == "fail" for run in told[kind])) for name in names}

    rows = []
    for kind in ("exact", "real"):
        rows += [
            at_least(
                f"p95 slower by 5 %, {kind}: refused as shown to be slower",
                count(kind, "fail"),
                "of 100",
                90,
                others(kind),
            ),
            Row(f"... {kind}: inconclusive, so not shipped", count(kind, "inconclusive"), "of 100"),
            Row(f"... {kind}: passed", count(kind, "pass"), "of 100"),
        ]
    rows += [
        below(
            "A/A: not passed, refused or inconclusive", count("A/A", "fail", "inconclusive"), "of 100", 5, others("A/A")
        ),
        Row("A/A: refused as shown to be slower", count("A/A", "fail"), "of 100"),
    ]
    rows.append(
        Row(
            f"p95 slower by 5 %, real, under a state grown by {GROWTH - 1:.1%}: refused",
            count("real, and the state grew", "fail"),
            "of 100",
        )
    )
    for kind, runs in told.items():
        rows.append(
            Row(f"{kind}: pairs that a run took, median", float(np.median([run["pairs"] for run in runs])), "pairs")
        )
    for side in SIDES[1:]:
        for q in (0.5, 0.95, 0.99):
            true = np.quantile(pool[f"wall.{side}"], q) / np.quantile(pool["wall.champion"], q)
            rows.append(Row(f"in the whole pool: p{100 * q:.0f}, {side} / champion", float(true), "x"))
    return [*rows, Row("pairs in the pool", float(pool["wall.champion"].size), "pairs")]


def equal(pool: Sittings, draws: np.random.Generator) -> Sittings:
    """Two loads of one release; which of them is the champion is drawn for each sitting."""
    rows, swap = _drawn(pool, draws), draws.random(LOOKS[-1]) < 0.5
    told = {}
    for what in ("wall", "cpu"):
        one, other = pool[f"{what}.champion"][rows], pool[f"{what}.same"][rows]
        told[f"{what}.champion"] = np.where(swap[:, None], other, one)
        told[f"{what}.candidate"] = np.where(swap[:, None], one, other)
    return told


def exact(pool: Sittings, draws: np.random.Generator) -> Sittings:
    """As `equal`, and the candidate's slow answers take 1.05 times as long, in wall and CPU time."""
    told = equal(pool, draws)
    wall = told["wall.candidate"]
    factor = np.where(wall > np.quantile(wall, SLOW), SLOWDOWN, 1.0)
    return told | {f"{what}.candidate": told[f"{what}.candidate"] * factor for what in ("wall", "cpu")}


def real(pool: Sittings, draws: np.random.Generator) -> Sittings:
    rows = _drawn(pool, draws)
    return {
        f"{w}.{role}": pool[f"{w}.{side}"][rows]
        for w in ("wall", "cpu")
        for role, side in (("champion", "champion"), ("candidate", "planted"))
    }


def _drawn(pool: Sittings, draws: np.random.Generator) -> np.ndarray:
    return draws.integers(0, len(pool["wall.champion"]), LOOKS[-1])


def judged(run: Sittings, limits: dict[str, float], seed: int) -> dict[str, object]:
    """What we and simpler rules make of one run."""
    flat = {name: times.ravel() for name, times in run.items()}
    rows: list[LatencyRatio] = []
    for look in LOOKS:
        n = look * SITTING
        rows = ratios(
            *(flat[name][:n] for name in ("wall.champion", "wall.candidate", "cpu.champion", "cpu.candidate")), seed
        )
        if is_clear(rows, limits):
            break
    found = {row.name: row for row in rows}
    harm = any(found[name].lower > limit for name, limit in limits.items())
    within = all(found[name].upper <= limit for name, limit in limits.items())
    one, other = flat["wall.champion"][:FIXED], flat["wall.candidate"][:FIXED]
    point = np.quantile(other, 0.95) / np.quantile(one, 0.95)
    return {
        "ours": "fail" if harm else "pass" if within else "inconclusive",
        "pairs": len(rows) and rows[0].pairs,
        "p95 as measured is over the limit": "fail" if point > limits["p95"] else "pass",
        "p95 as measured is larger": "fail" if point > 1 else "pass",
        "t-test of the means, p < .05": "fail"
        if ttest_ind(other, one, alternative="greater").pvalue < 0.05
        else "pass",
        "Mann-Whitney, p < .05": "fail" if mannwhitneyu(other, one, alternative="greater").pvalue < 0.05 else "pass",
    }


def record(release: Path, view: Path, seconds: float, folder: Path) -> None:
    """Sittings of the release, itself again, and itself with a real wait after slow answers."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.npz")))
    parts = Parts(release / "model", release / "items", view)
    users, load, draws = shared_users({"champion": parts}), loading(parts, 1), np.random.default_rng([number, 1])
    recent = deque[float](maxlen=RECENT)

    def planted() -> Answer:
        answer, watch, left = load(), Stopwatch(), [WARM_UP]
        slow = float(np.quantile(recent, SLOW)) if recent else 0.0

        def slower(user: str) -> None:
            began = watch.now()
            answer(user)
            took = watch.now() - began
            if left[0] > 0:  # cold answers are slow, and would hide which of the others are
                left[0] -= 1
                return
            recent.append(took)
            while took >= slow and watch.now() < began + took * SLOWDOWN:
                pass

        return slower

    told: dict[str, list[Floats]] = {f"{what}.{side}": [] for what in ("wall", "cpu") for side in SIDES}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for what, times in zip(
            ("wall", "cpu"), sit({"champion": load, "same": load, "planted": planted}, users, draws), strict=True
        ):
            for side, ms in times.items():
                told[f"{what}.{side}"].append(ms)
    np.savez(folder / f"{number:03d}.npz", **{name: np.array(rows) for name, rows in told.items()})
    sys.stderr.write(f"{len(told['wall.champion'])} sittings\n")


def read(folder: Path) -> Sittings:
    files = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    if not files:
        raise SystemExit(f"{folder} holds no sittings; run this with --release, --view and --record first")
    return {name: np.concatenate([file[name] for file in files]) for name in files[0].files}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, default=POOL, help=f"where sittings are kept ({POOL})")
    parser.add_argument("--record", type=float, default=0, help="seconds of sittings to add to the pool, and no more")
    parser.add_argument("--release", type=Path, help="the directory release/ of a pulled release")
    parser.add_argument("--view", type=Path)
    asked = parser.parse_args()
    if asked.record:
        record(asked.release, asked.view, asked.record, asked.pool)
        sys.exit(0)
    sys.exit(0 if main(read(asked.pool)) else 1)
