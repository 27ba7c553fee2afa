"""One form for every number we claim: a Markdown table for people, and the same rows as JSON in benchmarks/results."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One bar: what we measured, what it must reach, and what others measured, on this machine, now.

    Args:
        reached: None where there is no target.
        peers: name of an alternative -> its number, in the same unit.
    """

    bar: str
    ours: float
    unit: str
    target: float | None = None
    reached: bool | None = None
    peers: Mapping[str, float] = field(default_factory=dict)


def below(bar: str, ours: float, unit: str, target: float, peers: Mapping[str, float] | None = None) -> Row:
    """A bar where less is better."""
    return Row(bar, ours, unit, target, ours <= target, peers or {})


def at_least(bar: str, ours: float, unit: str, target: float, peers: Mapping[str, float] | None = None) -> Row:
    """A bar where more is better."""
    return Row(bar, ours, unit, target, ours >= target, peers or {})


def publish(
    name: str,
    rows: Sequence[Row],
    packages: Sequence[str] = (),
    folder: Path = RESULTS,
    evidence: Mapping[str, object] | None = None,
    *,
    merged: bool = False,
) -> bool:
    """Print the table, write `results/NAME.json`, and say whether every target was reached.

    Args:
        evidence: what the rows were counted from, written beside them.
        merged: rows of other bars that the file has stay there; each row then says when it was measured.
    """
    date, told_rows = datetime.now(UTC).isoformat(timespec="seconds"), [asdict(row) for row in rows]
    told = {
        "name": name,
        "date": date,
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{package: _version(package) for package in packages}},
        "rows": _merged(folder / f"{name}.json", told_rows, date) if merged else told_rows,
        **(evidence or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(as_markdown(rows))
    return all(row.reached is not False for row in rows)


def _merged(path: Path, rows: list[dict[str, Any]], date: str) -> list[dict[str, Any]]:
    """What the file at `path` has, rows of the same bar replaced and new ones behind."""
    before = json.loads(path.read_bytes()) if path.exists() else {"rows": []}
    found = {row["bar"]: {"date": before["date"], **row} for row in before["rows"]}
    return list((found | {row["bar"]: row | {"date": date} for row in rows}).values())


def as_markdown(rows: Sequence[Row]) -> str:
    lines = ["| bar | ours | target | reached | others, here and now |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        target = "" if row.target is None else f"{row.target:g} {row.unit}"
        reached = {None: "", True: "yes", False: "**no**"}[row.reached]
        peers = ", ".join(f"{name}: {value:.3g} {row.unit}" for name, value in row.peers.items())
        lines.append(f"| {row.bar} | {row.ours:.3g} {row.unit} | {target} | {reached} | {peers} |")
    return "\n".join(lines)


def hardware() -> str:
    """Cores that this process may use, memory, processor: enough to know whether two numbers may be compared."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {models[0] if models else platform.machine()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
