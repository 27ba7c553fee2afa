"""Does a weight refresh that starts from the champion's weights cost a quarter and lose nothing, five updates in a row?

    make bench NAME=warm_start          # the first run: about a quarter of an hour of one core

Weekly updates of the demo's 500 households (benchmarks/_updates.py). Each way is a chain of its own: a warm update goes on from the
warm update before it. Fresh training reads 28 days three times; a warm one reads an eighth of that: the new week and a lot of
the rest. CPU is that of the whole step, reading, judging on validation and drawing included. Paired differences with one-sided 95 %
bounds, households resampled (tasks/domain/statistics.py).
"""

from __future__ import annotations

import json
import sys

import numpy as np

from benchmarks._table import Row, at_least, below, publish
from benchmarks._updates import METRICS, SEED, UPDATES, WARM, judged, trained
from tasks.domain.statistics import PairedDifference, paired_differences

WAYS = {way: f"{share:g} of the slates that a fresh training reads" for way, share in WARM.items()}
CPU_SHARE = 0.25


def main() -> int:
    rows: list[Row] = []
    for way, told in WAYS.items():
        rows += _rows(way, told)
    return 0 if publish("warm_start", rows, ("torch",)) else 1


def _rows(way: str, told: str) -> list[Row]:
    updates = range(1, UPDATES + 1)
    warm, fresh = ([_cpu(one, update) for update in updates] for one in (way, "fresh"))
    slates = [judged(update) for update in updates]
    each = [_against_fresh(way, part)[0] for part in slates]
    pooled = _against_fresh(way, [slate for part in slates for slate in part])
    seen = sum(one.upper < 0 for one in each)
    count = sum(map(len, slates))
    means = {
        f"{name}, update {n}": value
        for n, one in enumerate(each, 1)
        for name, value in (("fresh", one.champion), (way, one.candidate))
    }
    return [
        below(f"{told}: CPU / fresh training's, {UPDATES} updates", sum(warm) / sum(fresh), "", CPU_SHARE),
        below(f"{told}: updates with a loss of NDCG@10 that can be seen, of {UPDATES}", seen, "updates", 0),
        at_least(
            f"{told}: pooled over {count:,} slates, NDCG@10 all, upper bound of the difference", pooled[0].upper, "", 0
        ),
        *(
            Row(f"{told}: pooled {name}, {word}", value, "")
            for name, one in zip(METRICS, pooled, strict=True)
            for word, value in (("difference", one.difference), ("lower bound", one.lower), ("upper bound", one.upper))
        ),
        Row(f"{told}: NDCG@10 of the last update", each[-1].candidate, "", peers=means),
    ]


def _cpu(way: str, update: int) -> float:
    return float(json.loads((trained(way, update) / "told.json").read_text())["cpu_s"])


def _against_fresh(way: str, slates: list[dict[str, object]]) -> list[PairedDifference]:
    user = np.array([slate["user"] for slate in slates], np.int64)
    fresh, ours = (
        np.array([[slate[name].get(metric, np.nan) for metric in METRICS] for slate in slates])  # type: ignore[attr-defined]
        for name in ("fresh", way)
    )
    return paired_differences(user, fresh, ours, seed=SEED, allowed_loss=[0.0] * len(METRICS))


if __name__ == "__main__":
    sys.exit(main())
