"""What landing and validating Complete Journey costs, and how often a clean day is held.

    OMP_NUM_THREADS=1 python -m benchmarks.data 2017-07-01      # the span that `make run` bootstraps
    OMP_NUM_THREADS=1 python -m benchmarks.data 2018-01-01      # the whole year

Objects stay in memory: the store's own cost is not in these numbers.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tasks.adapters.partitions import landed_days
from tasks.adapters.store import MemoryStore
from tasks.ingest import ingest
from tasks.sources import open_source
from tasks.validate_data import load_policy, validate_data


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(through: str) -> None:
    store = MemoryStore()
    landed = ingest(open_source("completejourney"), store, through, bytes(32), "benchmark")
    rows, seconds = landed["rows"], landed["seconds"]
    print(f"land      {landed['landed']:>4} days {rows:>9,} rows {seconds:>7.2f} s  peak {peak_mib()} MiB")
    days = landed_days(store)
    with tempfile.TemporaryDirectory() as out:
        began = time.monotonic()
        import great_expectations  # noqa: F401

        imported = time.monotonic() - began
        span = validate_data(days[:-1], store, load_policy(), Path(out))
        day = validate_data(days, store, load_policy(), Path(out))
    print(f"import    Great Expectations           {imported:>7.2f} s")
    print(f"validate  {len(days) - 1:>4} days {span['rows']:>9,} rows {span['seconds']:>7.2f} s  peak {peak_mib()} MiB")
    print(f"validate     1 day  {day['rows']:>9,} rows {day['seconds']:>7.2f} s")
    rows = span["rows"] + day["rows"]
    caught = span["quarantined"] + day["quarantined"]
    by_rule = Counter(span["quarantined_by_rule"]) + Counter(day["quarantined_by_rule"])
    print(f"quarantined {caught} of {rows:,} rows: {dict(by_rule)}")
    print(f"not accepted: {span['reasons'] | day['reasons'] or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "2017-07-01")
