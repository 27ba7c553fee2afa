"""Every system of a trial on every slate of the holdout, day by day: the one slow part, made once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.atomic import drafted
from tasks.gate_trials.damage import Day, Score, Through
from tasks.progress import Progress
from tasks.ranker.arrays import Floats, epoch_day, iso_day
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import Judged, prepare
from tasks.ranker.rank import rank_slate
from tasks.ranker.runtime import Scorer

STALE_DAYS = 28


def score_days(data: Dataset, systems: Mapping[str, Score], folder: Path, days: tuple[str, ...]) -> None:
    """One Parquet file a day; a day that is there already is not scored again."""
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    with Progress("score", len(days), "days") as bar:
        for name in days:
            out = folder / f"{name}.parquet"
            if not out.exists():
                (day,) = days_of(data, (name,))
                with drafted(out) as draft:
                    pl.DataFrame(score_day(day, systems), infer_schema_length=None).write_parquet(draft)
            bar.advance()


def days_of(data: Dataset, days: tuple[str, ...]) -> Iterator[Day]:
    for name in days:
        ((morning, slates),) = data.mornings((name,))
        judged = prepare([(morning, slates)])
        users = np.array([slate.user for slate in slates], np.int32)
        stale = data.builder.with_histories(*data.builder.items(epoch_day(name) - STALE_DAYS), users)
        level = np.unique(data.whole.log.items.level(1), return_inverse=True)[1]
        rows = morning.row_of
        department = np.zeros(morning.items.size, np.int32)
        known = (rows >= 0) & (rows < morning.items.size)
        department[rows[known]] = level[known]
        yield Day(judged, stale.items, stale.histories, department)


def score_day(day: Day, systems: Mapping[str, Score]) -> list[dict[str, Any]]:
    """One row a slate: day, user, trips, and SYSTEM.METRIC[TASK] of every system."""
    rows = []
    for one in day.judged:
        told: dict[str, Any] = {
            "day": iso_day(one.slate.day),
            "user": one.slate.user,
            "trips": one.ranked.profile.trips,
        }
        for name, score in systems.items():
            told |= {f"{name}.{metric}": value for metric, value in score(one, day).items()}
        rows.append(told)
    return rows


def nan_scores_are_refused(one: Judged, scorer: Scorer) -> str:
    """What evaluate says of a model that answers NaN for one item: the sentence of the refusal."""
    from expectations.products import judge_predictions
    from expectations.tables import Predictions

    def poisoned(scores: Floats) -> Floats:
        wrong = scores.copy()
        wrong[0] = np.nan
        return wrong

    seen, ranking = Predictions(), rank_slate(Through(scorer, scores=poisoned), one.ranked)
    seen.add("weights", "candidate", iso_day(one.slate.day), one.slate.user, ranking.order, ranking.scores)
    wrong, _ = judge_predictions(seen)
    return "; ".join(wrong)
