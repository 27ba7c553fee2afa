"""What a refresh is worth: everything frozen, new state with old weights, and new state with new weights, week after week.

    make bench NAME=freshness           # draws docs/freshness.png

The chain of benchmarks/_updates.py: one first champion, five weekly updates, 500 households of Complete Journey. Frozen keeps the
first champion's weights, counters, histories and catalogue; state-only builds the state anew each morning; full also trains
anew each week.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks._table import Row, at_least, publish
from benchmarks._updates import METRICS, SEED, UPDATES, judged
from tasks.domain.statistics import paired_differences

LINES = {"frozen": "frozen", "kept": "state only: new state, old weights", "fresh": "full: new state, new weights"}
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "freshness.png"


def main() -> int:
    slates = [slate for update in range(1, UPDATES + 1) for slate in judged(update)]
    draw(slates, PICTURE)
    user = np.array([slate["user"] for slate in slates], np.int64)
    of = {
        name: np.array([[slate[name].get(metric, np.nan) for metric in METRICS] for slate in slates])  # type: ignore[attr-defined]
        for name in LINES
    }
    rows = []
    for better, worse, what in (
        ("kept", "frozen", "state refresh against frozen"),
        ("fresh", "kept", "weight refresh against state refresh alone"),
    ):
        told = paired_differences(user, of[worse], of[better], seed=SEED, allowed_loss=[0.0] * len(METRICS))
        for metric, one in zip(METRICS, told, strict=True):
            peers = {LINES[better]: one.candidate, LINES[worse]: one.champion, "upper bound": one.upper}
            rows.append(Row(f"{what}: {metric}", one.difference, "", peers=peers))
            if metric == METRICS[0] and worse == "frozen":
                rows.append(at_least(f"{what}: {metric}, lower bound", one.lower, "", 0.0))
            else:
                rows.append(Row(f"{what}: {metric}, lower bound", one.lower, ""))
    return 0 if publish("freshness", rows, ("torch",)) else 1


def draw(slates: list[dict[str, object]], path: Path) -> None:
    """NDCG@10 of each day's slates (faint), and the mean of the seven days up to it, as a line for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for axis, metric in zip(axes, METRICS[:2], strict=True):
        for color, (name, label) in enumerate(LINES.items()):
            days: dict[str, list[float]] = defaultdict(list)
            for slate in slates:
                row: dict[str, float] = slate[name]  # type: ignore[assignment]
                if metric in row:
                    days[str(slate["day"])].append(row[metric])
            shown = sorted(days)
            week = [
                np.mean([one for day in shown[max(0, n - 6) : n + 1] for one in days[day]]) for n in range(len(shown))
            ]
            axis.plot([np.mean(days[day]) for day in shown], color=f"C{color}", alpha=0.25, linewidth=0.8)
            axis.plot(week, color=f"C{color}", linewidth=2, label=label)
        axis.set_title(metric)
        axis.set_xticks(range(0, len(shown), 7), [day[5:] for day in shown[::7]])
        axis.set_xlabel("day of 2017; thick: mean of seven days")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
