"""Every bar that was measured, one line each: what it must reach, what it reached, and when. Details: docs/benchmarks.md.

make bench                      # all of them
python -m benchmarks --missed   # those that were not reached
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks._table import RESULTS


def overview(folder: Path = RESULTS, *, missed: bool = False) -> str:
    """A Markdown table of the rows with a target in `folder`/*.json, file by file."""
    lines = ["| NAME | bar | must reach | ours | reached | measured |", "| --- | --- | --- | --- | --- | --- |"]
    for path in sorted(folder.glob("*.json")):
        told = json.loads(path.read_bytes())
        for row in told["rows"]:
            if row["reached"] is None or (missed and row["reached"]):
                continue
            date = row.get("date", told["date"])[:10]
            reached = "yes" if row["reached"] else "**no**"
            target, ours = (f"{row[name]:.4g} {row['unit']}".rstrip() for name in ("target", "ours"))
            lines.append(f"| {told['name']} | {row['bar']} | {target} | {ours} | {reached} | {date} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missed", action="store_true", help="only the bars that were not reached")
    print(overview(missed=parser.parse_args().missed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
