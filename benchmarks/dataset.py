"""The dataset of a 90-day window of Complete Journey, all households: wall time and memory, from a cold cache.

    python -m benchmarks.dataset              # the last 90 days of 2017, which have the longest histories

The days are landed and accepted first, by the public steps; that is not in the numbers. What is built: the log, slates with
candidates, labels and features as training rows (80 days), the same of 3 validation and 7 holdout days to compare them
with, what is fitted, the judged training set, and the state and the histories of the next morning. Each run is a process
of its own; imports are told apart.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks._table import Row, below, publish

THROUGH = "2017-12-30"
SECONDS, MEMORY_GIB = 60, 4
WINDOW = {"train_days": 80, "validation_days": 3, "holdout_days": 7, "holdout_slates": 1_500}
SAMPLING = {"keep_bought": 0.1, "keep_other": 0.03, "barely_known": 0.1}  # those of the demo
EVERYBODY = 1_000_000


@dataclass(frozen=True, slots=True)
class Days:
    """Local copies of the accepted days, and a view that names every household: its champion has seen them all."""

    folder: Path

    def land(self) -> None:
        import polars as pl

        from tasks.adapters.accepted_days import fetch_accepted
        from tasks.adapters.partitions import landed_days
        from tasks.adapters.store import MemoryStore
        from tasks.ingest import ingest
        from tasks.sources import open_source
        from tasks.validate_data import load_policy, validate_data

        store = MemoryStore()
        ingest(open_source("completejourney"), store, THROUGH, bytes(32), "benchmark")
        report = self.folder / "report"
        report.mkdir()
        validate_data(landed_days(store), store, load_policy(), report)
        found = fetch_accepted(store, THROUGH, self.folder / "days")
        users = pl.scan_parquet(found.events).select("user_id").unique().sort("user_id").collect()["user_id"].to_list()
        (self.folder / "view").mkdir()
        (self.folder / "view" / "users.json").write_text(json.dumps({"users": users}))
        files = {"events": found.events, "plans": found.plans, "catalogue": [found.catalogue]}
        named = {name: [str(path) for path in paths] for name, paths in files.items()}
        (self.folder / "files.json").write_text(json.dumps(named))


class Memory(threading.Thread):
    """Highest sum of the proportional set sizes of a process and all its children, looked at twice a second."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.done = psutil.Process(process), 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.5):
            self.peak = max(self.peak, sum(map(pss, self._tree())))

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.Error:
            return []


def pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="freshrank-dataset-") as name:
        folder = Path(name)
        began = time.monotonic()
        Days(folder).land()
        print(f"landed and accepted in {time.monotonic() - began:.0f} s; not in the table")
        first, _ = measured(folder)  # encodes the item texts, and keeps them
        shutil.rmtree(folder / "cache" / "days")
        told, memory = measured(folder)
    summary: dict[str, Any] = told["summary"]
    rows = [
        below("90 days, all households (imports and text encoding excluded)", told["build_s"], "s", SECONDS),
        below("peak memory of all its processes (PSS)", memory / 2**30, "GiB", MEMORY_GIB),
        Row("the same with the item texts encoded", first["build_s"], "s"),
        Row("imports", told["import_s"], "s"),
        Row("CPU of the build", told["cpu_s"], "s"),
        *(Row(name, value, "") for name, value in facts(summary).items()),
    ]
    return 0 if publish("dataset", rows, ("numpy", "scipy", "polars", "great-expectations")) else 1


def facts(summary: dict[str, Any]) -> dict[str, float]:
    """What was built: sampling decides the rows, so it is told with them."""
    from tasks.ranker.features import FEATURES
    from tasks.ranker.retrieve import CANDIDATES

    kept = ", ".join(f"{name} {value:g}" for name, value in SAMPLING.items())
    return {
        "households": summary["users"],
        "events": summary["events"],
        "items that can be ranked": summary["catalogue"],
        "training slates": summary["train_slates"],
        "holdout slates": summary["holdout_slates"],
        "candidates a slate, retrieved and sampled from": CANDIDATES,
        f"training rows ({kept})": summary["train_rows"],
        "features a row, beside text and history": len(FEATURES),
    }


def measured(folder: Path) -> tuple[dict[str, Any], int]:
    """(what the process of one build tells, its peak memory)."""
    command = [sys.executable, "-m", "benchmarks.dataset", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        memory = Memory(process.pid)
        memory.start()
        said, _ = process.communicate()
        memory.done.set()
    if process.returncode:
        raise SystemExit(f"the build ended with {process.returncode}; its message is above")
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told, memory.peak


def build(folder: Path) -> None:
    """One build, in this process."""
    began = time.monotonic()
    import great_expectations

    import expectations.products
    from tasks.build_dataset import build_dataset
    from tasks.domain.recipe import Recipe, load_recipe

    imported = time.monotonic() - began
    assert great_expectations and expectations.products  # imported here, so that the build does not wait for it
    demo = load_recipe("demo")
    data = demo.data.model_copy(update={"users": EVERYBODY, **WINDOW, **SAMPLING})
    recipe: Recipe = demo.model_copy(update={"name": "benchmark", "data": data})
    files = {
        name: [Path(path) for path in paths] for name, paths in json.loads((folder / "files.json").read_text()).items()
    }
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    began = time.monotonic()
    summary = build_dataset(
        files["events"], files["plans"], files["catalogue"][0], THROUGH, recipe, folder / "cache", out, folder / "view"
    )
    took = time.monotonic() - began
    times = psutil.Process().cpu_times()
    cpu = times.user + times.system + times.children_user + times.children_system
    print(json.dumps({"import_s": imported, "build_s": took, "cpu_s": cpu, "summary": summary}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        build(Path(sys.argv[1]))
    else:
        sys.exit(main())
