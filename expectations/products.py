"""What we make ourselves, judged before anyone uses it: the training set and the predictions of an evaluation.

Each function says in sentences what is wrong, nothing if all is sound, and gives the Data Docs page of its suite.
Imports Great Expectations (seconds) when called.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence

import polars as pl

from expectations.profile import ROW, Profile
from expectations.suites import PREDICTIONS, TRAINING_SET, Suite
from expectations.tables import Predictions, SlateRows, training_slates

log = logging.getLogger("freshrank.expectations")
NAMED = 3  # rows that a sentence names


def judge_training_set(
    days: Iterable[tuple[str, SlateRows]], inputs: Sequence[str], nullable: Collection[str] = ()
) -> tuple[list[str], str]:
    """Of all training days, each with its rows; `inputs` and `nullable` as in training_slates."""
    table = training_slates(days, inputs, nullable)
    name = pl.format("{}/{} ({} = {})", "day", "slate", "input_name", "input_largest")
    return _judge(TRAINING_SET, table, name, "training slates")


def judge_predictions(predictions: Predictions) -> tuple[list[str], str]:
    name = pl.format("{} of {} on {}, user {}", "system", "kind", "day", "user")
    return _judge(PREDICTIONS, predictions.table(), name, "rankings")


def _judge(suite: Suite, table: pl.DataFrame, name: pl.Expr, things: str) -> tuple[list[str], str]:
    from expectations.judge import Judge

    began = time.monotonic()
    judged, page = Judge().judge_profile(suite, Profile.of(suite, table))
    wrong = [f"there are no {things}"] if table.is_empty() else []
    for one in judged:
        if one.error:
            raise RuntimeError(f"{suite.name}.{one.expectation.name} could not be evaluated: {one.error}")
        if not one.success:
            rows = table.filter(pl.col(ROW).is_in(one.rows[:NAMED])).select(name).to_series()
            such = f"{one.count:,} of {len(table):,} {things}, such as {'; '.join(rows)}"
            wrong.append(f"{one.expectation.name} fails for {such}: {one.expectation.reason}")
    log.info("suite=%s rows=%d wrong=%d seconds=%.1f", suite.name, len(table), len(wrong), time.monotonic() - began)
    return wrong, page
