"""10,000 random orders of 50 events against the controller's own code, and how many planted defects they notice.

    make bench NAME=controller_states          (--part N runs one of 20 pieces; --so-far prints the table of those done)

Events are wishes, presses, verdicts, bad releases, crashes, outages and the death of the controller before, after or in the middle
of a durable write. Invariants are checked at every write. A defect is a change of one function, in this process only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks._table import Row, at_least, below, publish
from tasks.domain.errors import FreshrankError
from tests.controller_defects import DEFECTS
from tests.controller_machine import ControllerMachine, explore
from tests.controller_twin import Broken, Twin

EXAMPLES, STEPS, PARTS = 10_000, 50, 20
TRIES = 200  # orders of events in which a defect must be noticed
PIECES = Path(__file__).parent / "results" / "pieces"


def clean(part: int) -> dict[str, Any]:
    ControllerMachine.events[0] = 0
    Twin.deaths.clear()
    found = ""
    try:
        explore(EXAMPLES // PARTS, STEPS, number=part)
    except (Broken, FreshrankError) as err:
        found = f"{type(err).__name__}: {err}"
    return {"found": found, "events": ControllerMachine.events[0], "deaths": dict(Twin.deaths)}


def noticed(part: int) -> dict[str, str]:
    told = {}
    for defect in DEFECTS[part::PARTS]:
        began, told[defect.name] = time.monotonic(), ""
        try:
            with defect.planted(), contextlib.redirect_stdout(io.StringIO()):
                explore(TRIES, STEPS, number=part)
        except (Broken, FreshrankError) as err:
            told[defect.name] = f"{err} ({time.monotonic() - began:.1f} s)"
    return told


def path_of(part: int) -> Path:
    return PIECES / f"controller_states-{part}.json"


def piece(part: int) -> dict[str, Any]:
    """Run it once; what came out of each half is kept as soon as it is there."""
    path = path_of(part)
    told: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for half, run in (("clean", clean), ("defects", noticed)):
        if half not in told:
            logging.disable(logging.CRITICAL)
            told[half] = run(part)
            path.write_text(json.dumps(told, indent=1))
    return told


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", type=int)
    parser.add_argument("--so-far", action="store_true", help="run nothing more")
    asked = parser.parse_args()
    if asked.part is not None:
        piece(asked.part)
        return 0
    there = [part for part in range(PARTS) if path_of(part).exists()]
    pieces = [json.loads(path_of(part).read_text()) for part in there] if asked.so_far else [*map(piece, range(PARTS))]
    whole = sum(not told["clean"]["found"] for told in pieces)  # a violation ends its piece
    orders = whole * EXAMPLES // PARTS
    violations = [told["clean"]["found"] for told in pieces if told["clean"]["found"]]
    deaths: Counter[str] = Counter()
    for told in pieces:
        deaths.update(told["clean"]["deaths"])
    defects = {name: why for told in pieces for name, why in told.get("defects", {}).items()}
    for said in violations:
        print(f"violation: {said}")
    for name, why in sorted(defects.items()):
        print(f"{name}: {why or 'NOT NOTICED'}")
    killed = sum(bool(why) for why in defects.values())
    rows = [
        below(f"violations in {orders:,} orders of up to {STEPS} events", len(violations), "", 0),
        at_least("orders tried", orders, "", EXAMPLES),
        Row("events", sum(told["clean"]["events"] for told in pieces), ""),
        at_least(
            f"planted defects noticed, of {len(defects)} tried and {len(DEFECTS)} known", killed, "", len(defects)
        ),
        at_least("planted defects tried", len(defects), "", 20),
        *(Row(f"deaths of the controller at a write: {where}", count, "") for where, count in sorted(deaths.items())),
    ]
    return 0 if publish("controller_states", rows, ("hypothesis",)) else 1


if __name__ == "__main__":
    sys.exit(main())
