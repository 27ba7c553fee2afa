"""What each day's refresh was worth: the release left as it was, new state with its weights, new state and new weights.

From the slates that `evaluate` has published, so a line has a point for each day that was refreshed. The release of a day is
the one that served when its refresh began: where every refresh ships, it is a day old. What weeks without any refresh cost
is measured by benchmarks/freshness.py.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.adapters.store import Store
from tasks.domain.errors import InputRejected
from tasks.explain.plots import Axis
from tasks.lineage import manifests_of, runs_since
from tasks.page import CHAMPION, GOOD, UNSURE, chart, document, table

LINES = {
    "frozen": ("the release as it was", CHAMPION),
    "state": ("new state, its weights", UNSURE),
    "full": ("new state, new weights", GOOD),
}
TASKS = {"all": "everything bought", "new": "bought for the first time", "repeat": "bought again"}
METRIC = "ndcg_at_10"
WIDTH, HEIGHT, LEFT, FLOOR = 340.0, 180.0, 44.0, 150.0


def freshness(store: Store, since: str = "") -> list[dict[str, Any]]:
    """One row a day that was evaluated beside a champion, oldest first: day, slates, and {line: {task: mean NDCG@10}}.

    Of several refreshes of a day the latest counts.

    Raises:
        InputRejected: no such day.
    """
    runs = [run for run in runs_since(store, since) if run.startswith("runs/evaluate/")]
    newest: dict[str, Any] = {}
    for manifest in sorted(manifests_of(store, runs).values(), key=lambda one: one.started_at):
        newest[manifest.partition] = manifest
    rows = []
    for day in sorted(newest):
        artifact = newest[day].outputs["slates.parquet"]
        rows += row_of(day, pq.read_table(io.BytesIO(store.get(store.key(artifact.uri)))))
    if not rows:
        raise InputRejected(
            f"no day{' since ' + since if since else ''} was evaluated beside a champion yet; the second refresh is the "
            f"first that can be drawn"
        )
    return rows


def row_of(day: str, slates: pa.Table) -> list[dict[str, Any]]:
    """The row of one day, as a list of one; empty for a first champion, which has nothing to be held against."""
    kind, of = (np.array(slates[name].to_pylist(), object) for name in ("kind", "day"))
    state, weights = (np.flatnonzero((kind == name) & (of == day)) for name in ("state", "weights"))
    if not len(state):
        return []
    places = {"frozen": (state, "champion"), "state": (state, "candidate"), "full": (weights, "candidate")}
    lines = {
        line: {task: mean for task in TASKS if (mean := _mean(slates, f"{side}.{METRIC}[{task}]", chosen)) is not None}
        for line, (chosen, side) in places.items()
        if len(chosen)
    }
    return [{"day": day, "slates": len(state), "lines": lines}]


def _mean(slates: pa.Table, column: str, rows: np.ndarray) -> float | None:
    if column not in slates.column_names:
        return None
    known = [value for value in slates[column].take(pa.array(rows)).to_pylist() if value is not None]
    return float(np.mean(known)) if known else None


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as one HTML file: a picture for each task, and the numbers below."""
    legend = " ".join(
        f"<span style='white-space:nowrap;margin-right:1rem'><i style='display:inline-block;width:.8em;height:.8em;"
        f"border-radius:50%;margin-right:.35em;background:{ink}'></i>{escape(name)}</span>"
        for name, ink in LINES.values()
    )
    parts = [f"<h1>What each refresh was worth</h1><p>{legend}</p>"]
    for task, told in TASKS.items():
        if any(task in line for row in rows for line in row["lines"].values()):
            parts.append(f"<h2>NDCG@10, {escape(told)}</h2>{_plot(rows, task)}")
    head = ["day", "slates", *(name for name, _ in LINES.values())]
    cells = [[row["day"], f"{row['slates']:,}", *(_told(row["lines"].get(line, {})) for line in LINES)] for row in rows]
    parts.append(f"<h2>In numbers: {', '.join(TASKS)}</h2>{table(head, cells)}")
    return document("freshrank: what each refresh was worth", parts)


def _told(line: dict[str, float]) -> str:
    return " / ".join(f"{line[task]:.4f}" if task in line else "-" for task in TASKS) if line else "not trained"


def _plot(rows: Sequence[dict[str, Any]], task: str) -> str:
    values = {line: [row["lines"].get(line, {}).get(task, math.nan) for row in rows] for line in LINES}
    known = [value for line in values.values() for value in line if not math.isnan(value)]
    x, y = Axis(0, max(len(rows) - 1, 1), LEFT, WIDTH - 10), Axis(min(known), max(known), FLOOR, 10)
    shapes = [f"<line x1='{LEFT}' y1='{FLOOR}' x2='{WIDTH}' y2='{FLOOR}' stroke='currentColor'/>"]
    shapes += [f"<text x='{LEFT - 4}' y='{y(tick) + 4:.1f}' text-anchor='end'>{tick:.3f}</text>" for tick in y.ticks()]
    for at in sorted({0, len(rows) - 1}):
        anchor = "start" if at == 0 else "end"
        shapes.append(f"<text x='{x(at):.1f}' y='{FLOOR + 18}' text-anchor='{anchor}'>{rows[at]['day']}</text>")
    for line, (_, ink) in LINES.items():
        points = [(x(n), y(value)) for n, value in enumerate(values[line]) if not math.isnan(value)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        shapes.append(f"<polyline points='{path}' fill='none' stroke='{ink}' stroke-width='2.5'/>")
        shapes += [f"<circle cx='{a:.1f}' cy='{b:.1f}' r='4' fill='{ink}'/>" for a, b in points]
    return chart(WIDTH, HEIGHT, f"NDCG@10 of {len(rows)} days, {TASKS[task]}", shapes)
