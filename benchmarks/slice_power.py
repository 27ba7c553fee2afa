"""How much harm in one slice the gate sees: one family of hypotheses for all metrics, and the families that it has now.

    make bench NAME=slice_power            # on the slates of the latest evaluation of this home, or --slates FILE

Real slates of a real evaluation. A trial turns the sign of each user's difference between candidate and champion (as good,
with the spread that two models have), takes three in four users, and lets a share of one slice's requests find nothing,
so that the slice loses a chosen multiple of what it may lose. Which slices see how much is a matter of their size.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._table import Row, publish
from tasks.domain.evidence import Comparison
from tasks.domain.gate import SIGNIFICANCE, TOTAL, QualityPolicy, allowance
from tasks.domain.gate_policy import LOWER_IS_BETTER
from tasks.domain.statistics import holm
from tasks.gate_evidence import gather
from tasks.policies import load_policy

LEVELS, TRIALS, NULL = (2.0, 3.0), 2, 40
DRAWN = 0.75
Rule = Callable[[list[Comparison], QualityPolicy], set[str]]


def together(rows: list[Comparison], quality: QualityPolicy) -> set[str]:
    """As it was: every metric on every slice in one family."""
    return _harmed({f"{row.name}[{row.slice}]": row for row in rows})


def leading(rows: list[Comparison], quality: QualityPolicy) -> set[str]:
    """As it is: the leading metric on every slice."""
    return _harmed({row.slice: row for row in rows if row.name == quality.metric})


def by_kind(rows: list[Comparison], quality: QualityPolicy) -> set[str]:
    """A third of the error for each of three families: declared slices, departments, groups of users."""
    families: dict[str, dict[str, Comparison]] = defaultdict(dict)
    for row in rows:
        if row.name == quality.metric:
            kind = row.slice.split("_")[0]
            families[kind if kind in ("department", "group") else "declared"][row.slice] = row
    return set().union(*(_harmed(family, SIGNIFICANCE / 3) for family in families.values()))


RULES: dict[str, Rule] = {"all metrics in one family": together, "leading metric": leading, "by kind": by_kind}


def _harmed(rows: dict[str, Comparison], level: float = SIGNIFICANCE) -> set[str]:
    adjusted = holm({name: row.p_harm_beyond for name, row in rows.items()})
    return {rows[name].slice for name, p in adjusted.items() if p < level}


def trial(
    slates: pa.Table, quality: QualityPolicy, part: str | None, loss: float, seed: int
) -> list[Comparison] | None:
    """The comparisons that are large enough to be tested; None where the slice cannot lose so much."""
    draws = np.random.default_rng(seed)
    users, at = np.unique(slates["user"].to_numpy(), return_inverse=True)
    kept = np.isin(at, draws.choice(len(users), int(DRAWN * len(users)), replace=False))
    slates, at = slates.filter(kept), at[kept]
    signs = draws.choice([-1.0, 1.0], len(users))[at]
    hit = np.zeros(len(slates), bool)
    if part is not None:
        inside = members(slates, part, quality)
        mean = np.mean(values(slates, f"champion.{quality.metric}[{TOTAL}]")[inside])
        if not inside.any() or loss >= mean:
            return None
        hit = inside & (draws.random(len(slates)) < loss / mean)
    for metric in quality.metrics:
        for task in (TOTAL, "new", "repeat"):
            name = f"candidate.{metric}[{task}]"
            if name in slates.column_names:
                champion = values(slates, f"champion.{metric}[{task}]")
                changed = champion + signs * (values(slates, name) - champion)
                if metric not in LOWER_IS_BETTER:
                    changed = np.where(hit, np.minimum(changed, 0.0), changed)
                at_column = slates.column_names.index(name)
                slates = slates.set_column(at_column, name, pa.array(changed, from_pandas=True))
    told = {
        "holdout_digest": "a",
        "champion_holdout_digest": "a",
        "first_day": "-",
        "slates": len(slates),
        "checks": [],
    }
    policy = load_policy("demo").gate
    found = gather("weights", told, slates, {}, None, policy, seed).comparisons
    return [
        row
        for row in found
        if row.slice != TOTAL
        and row.slates >= quality.slice_minimum_slates
        and (row.users or 0) >= quality.slice_minimum_users
    ]


def members(slates: pa.Table, part: str, quality: QualityPolicy) -> np.ndarray:
    if f"slice.{part}" in slates.column_names:
        return slates[f"slice.{part}"].to_numpy(zero_copy_only=False).astype(bool)
    return np.isfinite(values(slates, f"champion.{quality.metric}[{part}]"))


def values(slates: pa.Table, name: str) -> np.ndarray:
    return slates[name].cast(pa.float64()).fill_null(float("nan")).to_numpy()


def main(path: Path) -> bool:
    quality = load_policy("demo").gate.weights
    table = pq.read_table(path)
    slates = table.filter(np.array(table["kind"].to_pylist()) == "weights")
    clean = [rows for n in range(NULL) if (rows := trial(slates, quality, None, 0.0, n)) is not None]
    tested = sorted({row.slice for rows in clean for row in rows})
    print(f"{len(slates)} slates, {len(tested)} slices are tested: {', '.join(tested)}")
    rows = [Row("slices tested", len(tested), "slices")]
    rows.append(shares("no harm anywhere: a slice blocks", [(None, found) for found in clean], quality))
    for level in LEVELS:
        made = []
        for number, part in enumerate(tested):
            for n in range(TRIALS):
                seed = 10_000 * number + 100 * n + int(level)
                found = trial(slates, quality, part, level * allowance(quality, part), seed)
                made += [(part, found)] if found is not None else []
        rows.append(shares(f"one slice loses {level:g} x what it may: seen ({len(made)} trials)", made, quality))
    return publish("slice_power", rows, ("numpy",))


def shares(bar: str, made: Iterable[tuple[str | None, list[Comparison]]], quality: QualityPolicy) -> Row:
    """Per cent of trials in which the slice (or, of no slice, any) is found harmed, by each rule."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for part, rows in made:
        for name, rule in RULES.items():
            harmed = rule(rows, quality)
            hits[name].append(part in harmed if part else bool(harmed))
    found = {name: 100 * float(np.mean(of)) for name, of in hits.items()}
    return Row(bar, found.pop("leading metric"), "%", peers=found)


def latest() -> Path:
    home = Path(os.environ.get("FRESHRANK_HOME", ".freshrank"))
    found = sorted(home.glob("data/inputs/evaluate-*/slates.parquet"), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit(f"{home} holds no evaluation yet; `make run` first, or name a slates.parquet with --slates")
    return found[-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slates", type=Path, help="slates.parquet of an evaluate step; default: the latest here")
    sys.exit(0 if main(parser.parse_args().slates or latest()) else 1)
