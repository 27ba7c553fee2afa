"""What a system costs beside time: bytes on disk, and the peak memory of a process that does nothing but answer with it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.domain.gate import Resource
from tasks.machine import told_by

RUNS, REQUESTS, WITHIN_S = 2, 20, 120
ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Parts:
    """Directories that a system is loaded from."""

    model: Path
    items: Path
    view: Path


def compare(
    champion: Parts, systems: Mapping[str, Parts], users: Sequence[str], threads: int
) -> dict[str, list[Resource]]:
    """Size and peak memory of each system against the champion. Memory is measured in turns, `RUNS` times each.

    Raises:
        Unavailable: a measuring process failed; its last words are in the sentence.
    """
    every = [champion, *systems.values()]
    peaks: list[list[float]] = [[] for _ in every]
    for _ in range(RUNS):
        for system, seen in zip(every, peaks, strict=True):
            seen.append(peak_mib(system, users[:REQUESTS], threads))
    sizes = [[size_mib(system)] for system in every]
    return {
        name: [_resource("size", sizes[0], size), _resource("memory", peaks[0], peak)]
        for name, size, peak in zip(systems, sizes[1:], peaks[1:], strict=True)
    }


def size_mib(system: Parts) -> float:
    """Of the model and the items, which a release carries. The view grows with the users, not with the model."""
    files = (path for folder in (system.model, system.items) for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files) / MIB


def peak_mib(system: Parts, users: Sequence[str], threads: int) -> float:
    """In a process of its own: memory that another system left behind would count."""
    command = [
        sys.executable,
        "-m",
        "tasks.footprint",
        str(system.model),
        str(system.items),
        str(system.view),
        str(threads),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    asked = json.dumps(list(users))
    told = told_by(command, "a system", "benchmark", WITHIN_S, input=asked, cwd=ROOT, env=environment)
    return float(told) / 1024


def _resource(name: str, champion: Sequence[float], candidate: Sequence[float]) -> Resource:
    """The bounds are the extremes of what was measured."""
    return Resource(
        name=name,
        champion_mib=min(champion),
        candidate_mib=min(candidate),
        ratio=min(candidate) / min(champion),
        lower=min(candidate) / max(champion),
        upper=max(candidate) / min(champion),
        runs=len(candidate),
    )


def _peak_kib() -> int:
    """ru_maxrss would still count what this process was before it became another program."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main(model: str, items: str, view: str, threads: str) -> None:
    from tasks.ranker.device import reference_scorer
    from tasks.ranker.rank import recommend
    from tasks.ranker.state import ItemState, View

    scorer, state, histories = (
        reference_scorer(Path(model), int(threads)),
        ItemState.load(Path(items)),
        View(Path(view)),
    )
    for user in json.load(sys.stdin):
        recommend(scorer, state, histories.get(user))
    sys.stdout.write(str(_peak_kib()))


if __name__ == "__main__":
    main(*sys.argv[1:])
