"""Partitions -> log: what is merged, what is left out, and how users are numbered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import epoch_day
from tasks.ranker.log import item_text, read_log, read_plans

NOON = datetime(2017, 6, 1, 12, tzinfo=UTC)


def a_catalogue(folder):
    path = folder / "items.parquet"
    pl.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "title": ["Milk", "Oat milk", "Soap"],
            "category_path": ["FOOD > DAIRY > MILK", "FOOD > DAIRY > OAT", "DRUG"],
            "brand": ["National", "Private", None],
        }
    ).write_parquet(path)
    return path


def a_day(folder, day, *rows, **columns):
    """rows: (event_id, user, item) at noon of 2017-06-01 unless a fourth value moves it by hours."""
    path = folder / f"dt={day}" / "accepted-1.parquet"
    path.parent.mkdir(parents=True)
    frame = pl.DataFrame(
        {
            "event_id": [row[0] for row in rows],
            "event_time": [NOON + timedelta(hours=row[3] if len(row) > 3 else 0) for row in rows],
            "user_id": [row[1] for row in rows],
            "item_id": [row[2] for row in rows],
            "event_type": ["purchase"] * len(rows),
            "value": [2.0] * len(rows),
        },
        schema_overrides={"event_time": pl.Datetime("us", "UTC")},
    )
    frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()}).write_parquet(path)
    return path


def test_lines_of_one_day_user_and_item_are_one_event(tmp_path):
    day = a_day(tmp_path, "2017-06-01", ("1", "u", "a"), ("2", "u", "a"), ("3", "u", "b"), quantity=[1.0, 2.0, 1.0])
    log = read_log([day], a_catalogue(tmp_path))
    assert len(log.day) == 2
    assert log.quantity.tolist() == [3.0, 1.0] and log.value.tolist() == [4.0, 2.0]
    assert log.items.ids == ["a", "b"], "an item nobody bought is not in the log"


def test_only_purchases_of_known_items_count(tmp_path):
    rows = [("1", "u", "a"), ("2", "u", "b"), ("3", "u", "unheard-of")]
    day = a_day(tmp_path, "2017-06-01", *rows, event_type=["purchase", "click", "purchase"])
    log = read_log([day], a_catalogue(tmp_path))
    assert [log.items.ids[item] for item in log.item] == ["a"]


def test_users_are_numbered_by_their_first_event_whatever_they_are_called(tmp_path):
    rows = [("1", "z", "a", 0), ("2", "m", "a", 1), ("3", "b", "a", 1)]
    catalogue = a_catalogue(tmp_path)
    one = read_log([a_day(tmp_path / "one", "2017-06-01", *rows)], catalogue)
    assert one.user_ids == ["z", "m", "b"]
    renamed = [(event, {"z": "a", "m": "k", "b": "y"}[user], *rest) for event, user, *rest in rows]
    other = read_log([a_day(tmp_path / "other", "2017-06-01", *renamed)], catalogue)
    np.testing.assert_array_equal(one.user, other.user)


def test_a_later_partition_renumbers_nobody(tmp_path):
    catalogue = a_catalogue(tmp_path)
    days = [
        a_day(tmp_path, "2017-06-01", ("1", "z", "a"), ("2", "m", "b")),
        a_day(tmp_path, "2017-06-02", ("3", "a", "a", 24), ("4", "z", "b", 24)),
    ]
    assert read_log(days, catalogue).user_ids[:2] == read_log(days[:1], catalogue).user_ids


def test_what_arrives_late_belongs_to_the_day_it_arrived(tmp_path):
    late = a_day(tmp_path, "2017-06-03", ("9", "u", "a", -24))
    assert read_log([late], a_catalogue(tmp_path)).day.tolist() == [epoch_day("2017-06-03")]


def test_columns_that_a_source_lacks_have_neutral_values(tmp_path):
    log = read_log([a_day(tmp_path, "2017-06-01", ("1", "u", "a"))], a_catalogue(tmp_path))
    assert (log.quantity.tolist(), log.discount.tolist(), log.store.tolist()) == ([1.0], [0.0], [-1])


def test_types_and_categories_are_levels_of_the_path(tmp_path):
    day = a_day(tmp_path, "2017-06-01", ("1", "u", "a"), ("2", "u", "b"), ("3", "u", "c"))
    items = read_log([day], a_catalogue(tmp_path)).items
    assert len(set(items.type.tolist())) == 3
    assert items.category[0] == items.category[1] != items.category[2]
    assert items.texts == ["Milk. FOOD > DAIRY > MILK. National", "Oat milk. FOOD > DAIRY > OAT. Private", "Soap. DRUG"]


def test_an_item_without_anything_has_an_empty_text():
    assert item_text(None, [], None) == ""


def test_a_plan_is_for_the_day_after_its_partition(tmp_path):
    log = read_log([a_day(tmp_path, "2017-06-01", ("1", "u", "b"))], a_catalogue(tmp_path))
    plan = tmp_path / "dt=2017-06-01" / "plan.parquet"
    pl.DataFrame({"item_id": ["b", "c"], "display_share": [0.5, 1.0], "mailer_share": [0.1, 1.0]}).write_parquet(plan)
    item, display, _ = read_plans([plan], log).on(epoch_day("2017-06-02"))
    assert (item.tolist(), display.tolist()) == ([0], [0.5]), "c was never sold"


@pytest.mark.parametrize("days", [0, 1])
def test_nothing_to_read_is_refused_with_a_sentence(tmp_path, days):
    paths = [a_day(tmp_path, "2017-06-01", ("1", "u", "unheard-of"))][:days]
    with pytest.raises(InputRejected, match="no accepted partition|hold no purchase"):
        read_log(paths, a_catalogue(tmp_path))
