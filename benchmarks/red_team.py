"""How much damage is seen, at which strength, by which rule; and how often a clean day is held.

    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python -m benchmarks.red_team                          # all of it: 20 minutes
    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python -m benchmarks.red_team bot_farm dropped_hour    # some kinds, no year

Every case goes through ingest and validate_data, against 36 accepted days before it. Objects stay in memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks._table import Row, at_least, below, publish
from tasks.adapters.store import MemoryStore
from tasks.domain.behaviour import next_day
from tasks.ingest import ingest
from tasks.progress import Progress
from tasks.red_team import KINDS, kind_named
from tasks.red_team.exposed import Exposed
from tasks.red_team.rehearsal import PAST_DAYS
from tasks.red_team.scene import Base, Kind, Landing
from tasks.red_team.trial import DOORS, SOUND, Judged, Trial, accept_days, caught_by, is_detected, without
from tasks.sources import Source
from tasks.sources.completejourney import CompleteJourney
from tasks.validate_data import load_policy, validate_data

BASES: tuple[Base, ...] = ("purchases", "exposure")
DAYS = ("2017-03-15", "2017-05-18", "2017-08-12", "2017-10-10")
SEEDS = (1, 2)
SHARES = (0.0, 0.5, 1.0)  # of the published strength
KEY, KEY_ID = bytes(range(32)), "benchmark"


@dataclass(frozen=True, slots=True)
class Case:
    kind: str
    share: float
    detected: bool
    caught_by: tuple[str, ...]
    without_rules: bool | None = None  # detected although the rules that the kind names are off


def source_of(base: Base) -> Source:
    return CompleteJourney() if base == "purchases" else Exposed(CompleteJourney())


def cases_of(day: str, base: Base, names: Sequence[str], seeds: Sequence[int]) -> list[Case]:
    """All cases of one day and base; the days before it are landed and accepted once."""
    policy, source, past = load_policy(), source_of(base), MemoryStore()
    landing, cases = Landing(day, KEY, KEY_ID), []
    with tempfile.TemporaryDirectory() as out:
        accept_days(source, next_day(day, -PAST_DAYS), next_day(day, -1), past, landing, policy, Path(out))
        trial = Trial(source, past, landing, policy)
        clean = trial.judge(SOUND, 0, 0, Path(out))
        if clean.outcome != "pass":
            raise RuntimeError(f"{day} is no clean day to damage: {clean.sentences}")
        for kind in map(kind_named, names):
            for share in SHARES:
                for seed in seeds if share else seeds[:1]:
                    cases.append(_case(trial, kind, share, seed, clean, Path(out)))
    return cases


def _case(trial: Trial, kind: Kind, share: float, seed: int, clean: Judged, out: Path) -> Case:
    strength = share * kind.published
    changed, judged = trial.changed(kind, strength, seed), trial.judge(kind, strength, seed, out)
    detected, still = is_detected(kind, clean, judged, changed), None
    if share == 1.0 and seed == SEEDS[0] and set(kind.rules) - DOORS:
        blind = Trial(trial.source, trial.past, trial.landing, without(trial.policy, kind.rules))
        still = is_detected(kind, clean, blind.judge(kind, strength, seed, out), changed)
    return Case(kind.name, share, detected, caught_by(clean, judged) if detected else (), still)


def clean_year(base: Base) -> dict[str, Any]:
    """Land and validate every day of the year at once; the summary of validate_data."""
    source, store = source_of(base), MemoryStore()
    ingest(source, store, source.last_day, KEY, KEY_ID)
    with tempfile.TemporaryDirectory() as out:
        return validate_data(source.days(), store, load_policy(), Path(out))


def matrix(cases: Sequence[Case]) -> list[Row]:
    """Print the table kind x strength; one row of the benchmark for each kind at its published strength."""
    by_kind: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_kind[case.kind].append(case)
    rows = []
    print(f"| kind | promised | {' | '.join(f'{share:g} x' for share in SHARES)} | caught by | these rules off |")
    print("| --- | --- | " + " | ".join("---:" for _ in SHARES) + " | --- | --- |")
    for name, mine in by_kind.items():
        kind = kind_named(name)
        rate = {share: _rate([c.detected for c in mine if c.share == share]) for share in SHARES}
        named = Counter(rule for case in mine if case.share == 1.0 for rule in case.caught_by)
        rules = ", ".join(rule for rule, _ in named.most_common())
        blind = [case.without_rules for case in mine if case.without_rules is not None]
        off = f"seen {sum(blind)} of {len(blind)}" if blind else "a door"
        cells = " | ".join(f"{rate[share]:.2f}" for share in SHARES)
        print(f"| {name} {kind.published:g} | {kind.outcome} | {cells} | {rules} | {off} |")
        rows.append(at_least(f"{name} at {kind.published:g}: detected by {rules}", rate[1.0], "of cases", 1.0))
        rows.append(below(f"{name} at strength 0: detected", rate[0.0], "of cases", 0.0))
        if blind:
            rows.append(below(f"{name} without {', '.join(kind.rules)}: detected", _rate(blind), "of cases", 0.0))
    return rows


def false_holds(base: Base, summary: dict[str, Any]) -> list[Row]:
    held = summary["reasons"]
    months = Counter(day[:7] for day in held)
    caught = summary["quarantined"] / max(summary["rows"], 1)
    print(f"\n{base}: {len(held)} of {len(summary['days'])} clean days not accepted, {caught:.4%} of rows quarantined")
    for day, reasons in held.items():
        print(f"  {day}: {'; '.join(reason for reason in reasons if reason.startswith(('hold', 'refuse')))}")
    return [
        below(f"{base}: clean days held or refused, a month", len(held) / 12, "days", 1.0),
        Row(f"{base}: clean days held or refused, worst month", max(months.values(), default=0), "days"),
        Row(f"{base}: clean rows quarantined", 100 * caught, "%"),
    ]


def _rate(found: Sequence[bool]) -> float:
    return sum(found) / max(len(found), 1)


def main(names: Sequence[str], days: Sequence[str], seeds: Sequence[int]) -> bool:
    kinds = [kind_named(name) for name in names] or list(KINDS)
    by_base = {base: [kind.name for kind in kinds if kind.base == base] for base in BASES}
    cases: list[Case] = []
    years: dict[Base, dict[str, Any]] = {}
    # not forked: Polars keeps threads that a fork would leave behind
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), get_context("spawn")) as pool:
        jobs: dict[Any, Base | None] = {
            pool.submit(cases_of, day, base, mine, seeds): None
            for day in days
            for base, mine in by_base.items()
            if mine
        }
        if not names:
            jobs |= {pool.submit(clean_year, base): base for base in by_base}
        with Progress("red team", len(jobs), "parts") as bar:
            for job in as_completed(jobs):
                if (base := jobs[job]) is None:
                    cases += job.result()
                else:
                    years[base] = job.result()
                bar.advance()
    order = [kind.name for kind in kinds]
    rows = matrix(sorted(cases, key=lambda case: order.index(case.kind)))
    for base, summary in sorted(years.items()):
        rows += false_holds(base, summary)
    if names:
        return True  # a part is for a person to look at, not a result
    rows.append(at_least("kinds of damage", len(kinds), "kinds", 20))
    rows.append(Row("damaged days of each kind at each strength", len(days) * len(seeds), "days"))
    return publish("red_team", rows, ("polars", "great_expectations"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="some kinds only, and no year")
    parser.add_argument("--days", type=int, default=len(DAYS), help=f"how many of {', '.join(DAYS)}")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    asked = parser.parse_args()
    sys.exit(0 if main(asked.kinds, DAYS[: asked.days], SEEDS[: asked.seeds]) else 1)
