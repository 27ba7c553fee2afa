"""The heavy reading of build_dataset (log, shown lists, labels) by Polars and by Spark: memory of the step, time, same arrays.

    make bench NAME=spark_tables          # needs pyspark and Java; minutes

Each engine reads the same made-up days in a process of its own: ten impressions a list, and for every six of them an answer.
What Spark's own process (Java) holds is not the step's memory and is not counted; one thread each.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks._table import Row, below, publish

ROOT = Path(__file__).parents[1]
GOAL = ("purchase", "rating")
DAYS, LISTS, PLACES, USERS, ITEMS = 40, 2500, 10, 20_000, 5_000
RATIO = 0.6


def write_day(folder: Path, day: int) -> None:
    """Lists of PLACES different items for random users; some are clicked on, bought or given stars."""
    draw = np.random.default_rng(day)
    rows = LISTS * PLACES
    started, stride = draw.integers(ITEMS, size=(LISTS, 1)), np.arange(PLACES) * (ITEMS // PLACES)
    shown = pl.DataFrame(
        {
            "user_id": np.repeat(draw.integers(USERS, size=LISTS), PLACES),
            "item_id": ((started + stride) % ITEMS).ravel(),
            "request_id": np.repeat(np.arange(LISTS), PLACES) + day * LISTS,
            "position": np.tile(np.arange(PLACES, dtype=np.int32), LISTS),
            "propensity": draw.random(rows),
        }
    ).with_columns(pl.col("user_id").cast(pl.String).str.zfill(64), pl.format("item-{}", "item_id"))
    shown = shown.with_columns(pl.format("request-{}", "request_id"), event_type=pl.lit("impression"))
    answers = shown.sample(rows // 6, seed=day).drop("position", "propensity")
    kinds = draw.choice(["click", "add_to_cart", "purchase", "rating"], len(answers))
    answers = answers.with_columns(event_type=pl.Series(kinds), value=pl.Series(draw.integers(2, 11, len(answers)) / 2))
    events = pl.concat([shown, answers], how="diagonal")
    time = pl.lit(day * 86_400_000_000).cast(pl.Datetime("us", "UTC"))
    ids = pl.format("event-{}-{}", pl.lit(day), pl.Series(draw.permutation(len(events))))
    path = folder / f"dt={np.datetime64(day, 'D')}" / "accepted.parquet"
    path.parent.mkdir(parents=True)
    events.with_columns(event_id=ids, event_time=time, surface=pl.lit("recommendation")).write_parquet(path)


def read(engine: str, folder: Path) -> dict[str, Any]:
    """What one measured process says."""
    from tasks.adapters.spark_tables import SparkTables
    from tasks.evaluation.labels import FILE, save_label_kinds
    from tasks.ranker.log import read_log
    from tasks.ranker.shown import read_shown
    from tasks.ranker.tables import POLARS

    accepted, began = sorted(folder.glob("dt=*/*.parquet")), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        tables = SparkTables("local[1]", Path(scratch)) if engine == "spark" else POLARS
        log = read_log(accepted, folder / "items.parquet", GOAL, tables)
        shown, left_out = read_shown(accepted, log, 1, tables)
        save_label_kinds(accepted[-7:], log, np.arange(2000, dtype=np.int32), GOAL, Path(scratch), tables)
        kinds = (Path(scratch) / FILE).read_bytes()
    seconds = time.perf_counter() - began
    status = Path(
        "/proc/self/status"
    ).read_text()  # ru_maxrss would count what this process was before it became this program
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    digest = hashlib.sha256(kinds + repr(left_out).encode())
    for one in (*astuple(log.items), *astuple(log)[1:], *astuple(shown)):
        digest.update(one.tobytes() if isinstance(one, np.ndarray) else repr(one).encode())
    return {"peak_mib": peak, "seconds": seconds, "digest": digest.hexdigest()}


def measured(engine: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.spark_tables", engine, str(folder)]
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(engine, told)
    return told


def main() -> int:
    if len(sys.argv) == 3:
        print(json.dumps(read(sys.argv[1], Path(sys.argv[2]))))
        return 0
    with tempfile.TemporaryDirectory(prefix="freshrank-bench-") as temporary:
        folder = Path(temporary)
        ids = [f"item-{n}" for n in range(ITEMS)]
        items = {"item_id": ids, "title": ids, "category_path": [f"A > {n % 50}" for n in range(ITEMS)], "brand": ids}
        pl.DataFrame(items).write_parquet(folder / "items.parquet")
        for day in range(20_000, 20_000 + DAYS):
            write_day(folder, day)
        events = pl.scan_parquet(folder / "dt=*/*.parquet").select(pl.len()).collect().item()
        polars, spark = (measured(engine, folder) for engine in ("polars", "spark"))
    size = f"{events / 1e6:.1f} M events"
    rows = [
        below("arrays that differ", float(polars["digest"] != spark["digest"]), "of 1", 0),
        below(f"peak memory of the step by Spark, {size}", spark["peak_mib"], "MiB", RATIO * polars["peak_mib"],
              {"Polars": polars["peak_mib"]}),
        Row(f"time by Spark, one thread, {size}", spark["seconds"], "s", peers={"Polars": polars["seconds"]}),
    ]  # fmt: skip
    return 0 if publish("spark_tables", rows, ("polars", "narwhals", "pyspark")) else 1


if __name__ == "__main__":
    sys.exit(main())
