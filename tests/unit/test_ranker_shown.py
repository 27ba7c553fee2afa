"""Lists that were shown, and their answers -> slates and training rows; a log of purchases alone stays what it was."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from tasks.ranker.arrays import iso_day
from tasks.ranker.build import StateBuilder
from tasks.ranker.log import Plans, read_log
from tasks.ranker.rows import Rows, Sampling, training_rows
from tasks.ranker.shown import read_shown
from tasks.ranker.slates import shown_on, slates_on
from tests.ranker_builders import DAY, texts_of

ITEMS = 12
DIGESTS = np.arange(ITEMS * 16, dtype=np.uint8).reshape(-1, 16)


def an_event(
    day, user, item, event_type="purchase", request=None, position=None, propensity=None, value=2.0, **columns
):
    return columns | {
        "day": day,
        "user_id": f"user-{user}",
        "item_id": f"item-{item:02d}",
        "event_type": event_type,
        "request_id": request,
        "position": position,
        "propensity": propensity,
        "value": value,
    }


def a_list(day, user, request, items, **columns):
    return [an_event(day, user, item, "impression", request, place, **columns) for place, item in enumerate(items)]


# everybody buys everything, so that all items can be ranked and all users are known
STOCK = [an_event(DAY - 30 - n, user, item) for n in range(2) for user in range(3) for item in range(ITEMS)]


@pytest.fixture
def read(tmp_path):
    """(log, lists, what was left out) of some events, laid out in partitions."""

    def reading(events, delay=0, goal=("purchase",)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        catalogue = folder / "catalogue.parquet"
        folder.mkdir()
        ids = [f"item-{item:02d}" for item in range(ITEMS)]
        paths = [f"FOOD > KIND {item // 3}" for item in range(ITEMS)]
        names = pl.DataFrame({"item_id": ids, "title": ids, "category_path": paths, "brand": ids})
        names.write_parquet(catalogue)
        accepted = []
        for day in sorted({event["day"] for event in (*STOCK, *events)}):
            rows = [event for event in (*STOCK, *events) if event["day"] == day]
            path = folder / f"dt={iso_day(day)}" / "accepted.parquet"
            path.parent.mkdir()
            noon = datetime(1970, 1, 1, 12, tzinfo=UTC) + timedelta(days=day)
            schema = {
                "request_id": pl.String,
                "position": pl.Int32,
                "propensity": pl.Float64,
                "value": pl.Float64,
                "surface": pl.String,
            }
            frame = pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None).drop("day")
            ids = pl.Series([f"{day}-{n:03d}" for n in range(len(rows))])
            frame.with_columns(event_id=ids, event_time=pl.lit(noon)).write_parquet(path)
            accepted.append(path)
        log = read_log(accepted, catalogue, goal)
        return log, *read_shown(accepted, log, delay)

    return reading


def a_builder(log, shown, users=(0, 1, 2)):
    return StateBuilder(log, Plans({}), np.array(users, np.int32), texts_of(log), shown=shown)


def slates_of_lists(builder, day=DAY):
    items, row_of = builder.items(day)
    return [
        (slate.user, [items.ids[row] for row in slate.rows], slate.position.tolist(), slate.grade.tolist())
        for slate in shown_on(builder, day, row_of, items.size)
    ]


def test_one_request_is_one_slate_of_what_was_shown(read):
    lists = [*a_list(DAY, 0, "q", [5, 3, 9]), *a_list(DAY, 1, "p", [3, 4])]
    answers = [an_event(DAY, 0, 3, "click", "q"), an_event(DAY, 1, 4, "purchase", "p")]
    log, shown, left_out = read([*lists, *answers])
    assert slates_of_lists(a_builder(log, shown)) == [
        (1, ["item-03", "item-04"], [0, 1], [0, 3]),
        (0, ["item-05", "item-03", "item-09"], [0, 1, 2], [0, 1, 0]),
    ]
    assert set(left_out.values()) == {0}


@pytest.mark.parametrize(
    ("answers", "grade"),
    [
        ([("click", None)], 1),
        ([("click", None), ("add_to_cart", None)], 2),
        ([("purchase", 3.0), ("click", None)], 3),
        ([("rating", 5.0)], 3),
        ([("rating", 3.0)], 1),
        ([("rating", 2.0)], 0),
        ([("rating", None)], 0),
    ],
)
def test_the_best_answer_is_the_grade(read, answers, grade):
    events = [an_event(DAY, 0, 3, kind, "q", value=value) for kind, value in answers]
    _, shown, _ = read([*a_list(DAY, 0, "q", [3, 4]), *events])
    assert shown.grade.tolist() == [grade, 0]


@pytest.mark.parametrize(("delay", "grade"), [(0, 0), (1, 0), (2, 3), (5, 3)])
def test_a_late_purchase_counts_for_the_earlier_request_within_the_delay(read, delay, grade):
    events = [*a_list(DAY, 0, "q", [3, 4]), an_event(DAY + 2, 0, 3, "purchase", "q")]
    log, shown, left_out = read(events, delay)
    assert (shown.day.tolist(), shown.grade.tolist()) == ([DAY, DAY], [grade, 0])
    assert left_out["answers_out_of_time"] == (grade == 0)
    assert (log.day == DAY + 2).sum() == 1, "it is a purchase of its day all the same"


def test_what_cannot_be_used_is_counted(read):
    events = [
        *a_list(DAY, 0, None, [1, 2]),
        *a_list(DAY, 0, "q", [3, 77]),
        *a_list(DAY, 8, "r", [3]),
        *a_list(DAY, 0, "s", [3, 4], surface="search"),
        an_event(DAY, 0, 3, "click", "s", surface="search"),
        an_event(DAY, 0, 9, "click", "q"),
        an_event(DAY, 0, 3, "click", "q"),
    ]
    _, shown, left_out = read(events)
    assert len(shown.item) == 1
    assert left_out == {
        "impressions_of_searches": 2,
        "impressions_without_request": 2,
        "impressions_of_unknown_users_or_items": 2,
        "answers_to_nothing_shown": 1,
        "answers_out_of_time": 0,
    }


def test_an_impression_that_was_sent_twice_is_one(read):
    twice = [*a_list(DAY, 0, "q", [3, 4]), an_event(DAY, 0, 3, "impression", "q", 7)]
    _, shown, _ = read([*twice, an_event(DAY, 0, 3, "click", "q")])
    assert (shown.item.tolist(), shown.position.tolist()) == ([3, 4], [0, 1])


def test_lists_without_an_answer_or_of_other_users_make_no_slate(read):
    events = [*a_list(DAY, 0, "q", [3, 4]), *a_list(DAY, 1, "p", [3, 4]), an_event(DAY, 1, 3, "click", "p")]
    log, shown, _ = read(events)
    assert slates_of_lists(a_builder(log, shown, users=[0, 2])) == []
    assert slates_of_lists(a_builder(log, None)) == []


def test_rows_of_a_list_are_all_that_was_shown_and_a_share_of_what_was_not(read):
    log, shown, _ = read([*a_list(DAY, 0, "q", [5, 3, 9], propensity=0.5), an_event(DAY, 0, 3, "click", "q")])
    builder = a_builder(log, shown)
    only = training_rows(builder, DAY, DIGESTS, Sampling(1, 1, 0, 1, slates="shown"))
    assert only.ptr.tolist() == [0, 3]
    assert (only.label.tolist(), only.grade.tolist()) == ([0, 1, 0], [0, 1, 0])
    assert (only.position.tolist(), only.propensity.tolist()) == ([0, 1, 2], [0.5] * 3)
    assert (only.weight == 1).all(), "shown and not clicked: each is a hard negative of its own"
    more = training_rows(builder, DAY, DIGESTS, Sampling(1, 1, 0, 1, slates="shown", keep_unseen=0.5))
    unseen = more.position < 0
    assert 0 < unseen.sum() < ITEMS - 3 and (more.weight[unseen] == 2).all() and not more.label[unseen].any()


def test_both_kinds_of_slates_may_be_trained_on(read):
    events = [*a_list(DAY, 0, "q", [5, 3]), an_event(DAY, 0, 3, "click", "q"), an_event(DAY, 1, 7)]
    log, shown, _ = read(events)
    rows = training_rows(a_builder(log, shown), DAY, DIGESTS, Sampling(1, 1, 0, 1, slates="both"))
    assert np.diff(rows.ptr).tolist() == [ITEMS, 2]
    assert rows.grade.max() == 3 and rows.grade[-1] == 1


def test_lists_in_the_log_change_nothing_about_what_was_bought(read, tmp_path):
    """The rows of a log of purchases, bit for bit, with and without impressions and clicks around them."""
    bought = [an_event(DAY, 0, 3), an_event(DAY, 0, 8), an_event(DAY, 1, 1), an_event(DAY - 5, 2, 7)]
    lists = [*a_list(DAY, 2, "q", [5, 3]), an_event(DAY, 2, 3, "click", "q"), *a_list(DAY - 9, 0, "p", [1])]
    sampling = Sampling(0.5, 0.5, 0.5, 3)
    plain, mixed = (
        training_rows(a_builder(log, shown), DAY, DIGESTS, sampling)
        for log, shown, _ in (read(bought), read([*bought, *lists]))
    )
    for field in fields(Rows):
        np.testing.assert_array_equal(getattr(plain, field.name), getattr(mixed, field.name))
    plain.save(tmp_path / "rows")
    assert set(load_file(tmp_path / "rows")) == {"ptr", "x", "text", "digests", "lengths", "tokens", "label", "weight"}


@pytest.mark.parametrize("slates", ["bought", "shown"])
def test_rows_on_disk_are_those_that_were_written(read, tmp_path, slates):
    events = [*a_list(DAY, 0, "q", [5, 3]), an_event(DAY, 0, 3, "click", "q"), an_event(DAY, 1, 7)]
    log, shown, _ = read(events)
    rows = training_rows(a_builder(log, shown), DAY, DIGESTS, Sampling(1, 1, 0, 1, slates=slates))
    rows.save(tmp_path / "rows")
    loaded = Rows.load(tmp_path / "rows")
    for field in fields(Rows):
        written, read_back = getattr(rows, field.name), getattr(loaded, field.name)
        np.testing.assert_array_equal(written, read_back)
        assert written.dtype == read_back.dtype


def test_the_best_unbought_candidates_may_be_kept_always(read):
    log, _, _ = read([an_event(DAY, 0, 3)])
    builder = a_builder(log, None)
    few = Sampling(1e-9, 1e-9, 0, 1)
    rows = training_rows(builder, DAY, DIGESTS, few)
    assert rows.label.tolist() == [1]
    hard = training_rows(builder, DAY, DIGESTS, Sampling(1e-9, 1e-9, 0, 1, hard_negatives=4))
    assert (len(hard.label), hard.label.sum()) == (5, 1) and (hard.weight == 1).all()


def test_a_log_without_purchases_has_another_goal(read):
    events = [
        an_event(DAY, 0, 3, "click"),
        an_event(DAY, 1, 4, "rating", value=5.0),
        an_event(DAY, 2, 4, "rating", value=1.0),
    ]
    log, _, _ = read(events, goal=("click", "rating"))
    assert sorted(zip(log.user.tolist(), log.item.tolist(), strict=True)) == [(0, 0), (1, 1)], "one star is no goal"
    assert (log.value == 0).all(), "a rating is no money"


def test_judged_slates_are_of_the_goal_whatever_was_shown(read):
    log, shown, _ = read([*a_list(DAY, 0, "q", [5, 3]), an_event(DAY, 0, 3, "click", "q"), an_event(DAY, 1, 7)])
    _, slates = slates_on(a_builder(log, shown), DAY)
    assert [(slate.user, slate.positives.tolist()) for slate in slates] == [(1, [7])]
