"""Complete Journey's training rows are what they were before lists, grades and optional features were known."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest

from tasks.build_dataset import most_trips
from tasks.ranker.arrays import epoch_day
from tasks.ranker.build import StateBuilder, TextTable
from tasks.ranker.log import read_log, read_plans
from tasks.ranker.rows import Sampling, training_rows
from tasks.sources.completejourney import CompleteJourney

DAY = "2017-05-10"
ROWS, TOKENS = 8_930, 35_254


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of one day of the 120 busiest households, with a made-up vector for each text."""
    folder, source = tmp_path_factory.mktemp("journey"), CompleteJourney()
    pl.DataFrame(source.items()).write_parquet(folder / "items.parquet")
    accepted, plans = [], []
    for day in (day for day in source.days() if "2017-02-10" <= day <= DAY):
        for table, paths, name in ((source.events(day), accepted, "events"), (source.plan(day), plans, "plan")):
            path = folder / name / f"dt={day}" / "part.parquet"
            path.parent.mkdir(parents=True)
            pl.DataFrame(table).write_parquet(path)
            paths.append(path)
    log = read_log(accepted, folder / "items.parquet")
    users = most_trips(log, epoch_day(DAY), 120)
    number = np.arange(len(log.items.ids), dtype=np.int32)
    texts = TextTable(number, np.ones((len(number), 4), np.float16) / 2)
    digests = number.astype("<u4").view(np.uint8).reshape(-1, 4).repeat(4, axis=1)
    return training_rows(
        StateBuilder(log, read_plans(plans, log), users, texts), epoch_day(DAY), digests, Sampling(0.2, 0.1, 0.3, 7)
    )


def test_the_same_candidates_are_rows_with_the_same_labels_and_weights(rows):
    content = [rows.ptr, rows.label, rows.weight.round(4), rows.lengths, rows.text, rows.digests]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in content)).hexdigest()
    assert (len(rows.x), len(rows.tokens), digest[:16]) == (ROWS, TOKENS, "fd231f3b13e2b795")


def test_the_same_numbers_are_read_about_them(rows):
    """To five digits: the last bit of a logarithm is the processor's."""
    x, tokens = rows.x.astype(np.float64), rows.tokens.astype(np.float64)
    assert (x.mean(), x.std(), tokens.mean(), tokens.std()) == pytest.approx(
        (0.96929816, 1.70714012, 0.67953228, 0.74338826), rel=1e-5
    )
    assert (rows.grade == 3 * rows.label).all() and (rows.position == -1).all()
