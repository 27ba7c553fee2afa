"""Two models of different labels are compared on those that both know: never on fewer checks, never on foreign labels."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tasks.domain.errors import InputRejected
from tasks.evaluation.labels import FILE, Shared, save_label_kinds, shared_labels
from tasks.ranker.arrays import iso_day
from tasks.ranker.slates import slates_on
from tests.ranker_builders import DAY, a_builder, a_log, stocked

BOTH = ("click", "purchase")
LINES = [(DAY, 0, 2), (DAY, 0, 5), (DAY, 1, 7), (DAY, 2, 1)]
EVENTS = [(0, 2, "click"), (0, 5, "click"), (0, 5, "purchase"), (1, 7, "purchase"), (2, 1, "click"), (3, 9, "purchase")]


def a_partition(folder, log, events=EVENTS, value=1.0):
    path = folder / f"dt={iso_day(DAY)}" / "accepted.parquet"
    path.parent.mkdir(parents=True)
    noon = datetime(1970, 1, 1, 12, tzinfo=UTC) + timedelta(days=DAY)
    columns = {
        "event_time": [noon] * len(events),
        "user_id": [log.user_ids[user] for user, _, _ in events],
        "item_id": [log.items.ids[item] for _, item, _ in events],
        "event_type": [kind for _, _, kind in events],
        "value": [value] * len(events),
    }
    pl.DataFrame(columns).write_parquet(path)
    return path


def a_model(folder, *goal):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"labels": {"goal": goal}} if goal else {}))
    return folder


def written(tmp_path, goal=BOTH, **more):
    log = a_log(stocked(LINES))
    save_label_kinds([a_partition(tmp_path, log, **more)], log, np.arange(3, dtype=np.int32), goal, tmp_path)
    return log


def found(tmp_path, log, theirs, ours):
    old, new = a_model(tmp_path / "old", *theirs), a_model(tmp_path / "new", *ours)
    return shared_labels(tmp_path, new, old, len(log.items.ids))


def of_day(shared: Shared, log):
    morning, slates = slates_on(a_builder(log), DAY)
    ids = morning.items.ids
    return {one.user: [ids[row] for row in one.positives.tolist()] for one in shared.of(morning, slates)}, slates


def test_a_champion_of_purchases_is_compared_on_purchases(tmp_path):
    log = written(tmp_path)
    shared = found(tmp_path, log, ("purchase",), BOTH)
    assert shared is not None and shared.labels == ("purchase",)
    kept, slates = of_day(shared, log)
    assert kept == {0: ["item-05"], 1: ["item-07"]}, "a click is not counted, and a slate of clicks is none"
    assert len(slates) == 3
    assert shared.digest("a") != "a" and shared.digest("a") == shared.digest("a") != shared.digest("b")
    (one,) = (one for one in shared.of(*slates_on(a_builder(log), DAY)) if one.user == 0)
    assert len(one.positives) == len(one.new) == len(one.paid) == 1


def test_of_a_champion_of_clicks_only_the_clicks_count(tmp_path):
    log = written(tmp_path)
    kept, _ = of_day(found(tmp_path, log, ("click", "rating"), BOTH), log)
    assert kept == {0: ["item-02", "item-05"], 2: ["item-01"]}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(BOTH, BOTH), (BOTH, ("click",)), (("rating",), BOTH), ((), BOTH), (("click", "purchase"), ("purchase", "click"))],
    ids=["the same", "all are known", "none is known", "not told", "another order"],
)
def test_nothing_is_left_out_where_all_labels_are_comparable_or_none(tmp_path, theirs, ours):
    assert found(tmp_path, written(tmp_path), theirs, ours) is None


def test_a_bad_rating_is_no_success(tmp_path):
    log = written(tmp_path, ("rating", "click"), events=[(0, 5, "rating"), (0, 2, "click")], value=1.0)
    shared = found(tmp_path, log, ("rating",), ("rating", "click"))
    assert shared is not None and of_day(shared, log)[0] == {}


def test_one_kind_of_success_needs_no_file_and_a_missing_one_is_refused_by_name(tmp_path):
    log = written(tmp_path, ("purchase",))
    assert not (tmp_path / FILE).exists()
    with pytest.raises(
        InputRejected, match="the champion learned purchase and the candidate click, purchase, and the data"
    ):
        found(tmp_path, log, ("purchase",), BOTH)
