"""Ten million events through validate_data, a hundred million out of core, and the same checks on pandas beside them.

    make bench NAME=validation            # a quarter of an hour, 4 GB of disk under the temporary folder

Days of a million rows are real days of Complete Journey under new ids (benchmarks/_big_days.py). Seven days are accepted
before the clock starts, so that every rule has a past to compare with; imports are printed and not counted. The peer is
benchmarks/_plain_gx.py: Great Expectations and the rules in pandas; it leaves out what its LEFT_OUT names. It is run the
plain way, all rows in one frame, and a day at a time against the days before, as ours is: for three days, since looking ids
up in those of the days before takes it a minute a day; its memory is held against ours after the same three days. Ours is the
median of three rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._big_days import FolderStore, land
from benchmarks._plain_gx import validate_plain
from benchmarks._table import Row, at_least, below, publish

ROOT = Path(__file__).parents[1]
PAST, TEN, HUNDRED, ROWS_A_DAY = 7, 10, 100, 1_000_000
ROUNDS, PEER_DAYS = 3, 3
RATE, MEMORY_GIB, IMPORT_S, TIMES = 1e6, 3.0, 15.0, 3.0


def ours(folder: Path, past: int, through: int) -> dict[str, Any]:
    """Accept the first `past` days in one process, judge those up to `through` in another, which is measured."""
    for name in ("accepted", "out"):
        subprocess.run(["rm", "-rf", str(folder / name)], check=True)
    if past:
        _judge(folder, past)
    return _judge(folder, through)


def _judge(folder: Path, through: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.validation", "--judge", str(folder), str(through)]
    environment = os.environ | {"POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def judge(folder: Path, through: int) -> dict[str, Any]:
    began = time.perf_counter()
    from expectations.judge import Judge
    from tasks.adapters.partitions import landed_days
    from tasks.validate_data import load_policy, validate_data

    Judge()
    imported = time.perf_counter() - began
    store = FolderStore(folder)
    summary = validate_data(landed_days(store)[:through], store, load_policy(), folder / "out")
    return {
        "rows": summary["rows"],
        "seconds": summary["seconds"],
        "import_seconds": round(imported, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "caught": summary["quarantined_by_rule"] | summary["marked_by_rule"],
        "not_accepted": summary["reasons"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", nargs=2, metavar=("FOLDER", "DAYS"), help="one measured process")
    parser.add_argument("--folder", type=Path, help="land the days here and keep them for the next time")
    parser.add_argument("--hundred", type=int, default=HUNDRED, help="days of the long run")
    asked = parser.parse_args()
    if asked.judge:
        print(json.dumps(judge(Path(asked.judge[0]), int(asked.judge[1]))))
        return 0
    with tempfile.TemporaryDirectory(prefix="freshrank-bench-") as temporary:
        rows = measure(asked.folder or Path(temporary), asked.hundred)
    return 0 if publish("validation", rows, ("polars", "great-expectations", "pandas")) else 1


def measure(folder: Path, hundred: int) -> list[Row]:
    days = land(folder, max(hundred, PAST + TEN), ROWS_A_DAY)
    events = [next((folder / "behaviour" / f"dt={day}").glob("events-*.parquet")) for day in days[: PAST + TEN]]
    catalogue = next((folder / "catalogue").glob("*.parquet"))
    rounds = sorted((ours(folder, PAST, PAST + TEN) for _ in range(ROUNDS)), key=lambda told: told["seconds"])
    ten = rounds[ROUNDS // 2]
    print("ours, 10 days:", [told["seconds"] for told in rounds], ten)
    few = ours(folder, PAST, PAST + PEER_DAYS)
    print(f"ours, {PEER_DAYS} days:", few)
    long = ours(folder, 0, hundred)
    print(f"ours, {hundred} days:", long)
    plain = validate_plain(events[: PAST + PEER_DAYS], catalogue, PAST)
    print("peer, a day at a time:", plain)
    whole = folder / "whole.parquet"
    pq.write_table(pa.concat_tables(pq.read_table(path) for path in events[PAST:]), whole)
    at_once = validate_plain([whole], catalogue)
    print("peer, ten days in one frame:", at_once)

    rate, peer, long_rate = (told["rows"] / told["seconds"] for told in (ten, plain, long))
    gib = {
        name: told["peak_mib"] / 1024
        for name, told in (("ours", ten), ("few", few), ("plain", plain), ("once", at_once), ("long", long))
    }
    once, daily = "GX on pandas, all rows in one frame", "GX on pandas, a day at a time"
    both = {once: at_once["rows"] / at_once["seconds"], daily: peer}
    return [
        at_least("10 M events, all rules and suites", rate, "rows/s", RATE, both),
        at_least("throughput against the faster peer", rate / max(both.values()), "times", TIMES),
        below("peak memory, 10 M events", gib["ours"], "GiB", MEMORY_GIB, {once: gib["once"]}),
        below("memory against the peer, all rows in one frame", gib["ours"] / gib["once"], "times", 1 / 3),
        below(f"memory against the peer, a day at a time, {PEER_DAYS} days", gib["few"] / gib["plain"], "times", 1 / 3),
        below("imports, not counted", ten["import_seconds"], "s", IMPORT_S, {"GX on pandas": plain["import_seconds"]}),
        below(f"time a row, {hundred} M events against 10 M", rate / long_rate, "times", 1.25),
        below(f"peak memory, {long['rows'] / 1e6:.0f} M events", gib["long"], "GiB", MEMORY_GIB),
        Row(f"{long['rows'] / 1e6:.0f} M events, out of core", long_rate, "rows/s"),
    ]


if __name__ == "__main__":
    sys.exit(main())
