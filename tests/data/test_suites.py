"""Each suite accepts the good sample and rejects each named bad one, by the expectation that is about it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import polars as pl
import pytest

from expectations.judge import ROW, Judge
from expectations.suites import EVENTS, ITEMS, PLANS, SUITES, Suite
from tests.behaviour_builders import a_day, events_frame, items_table, plan_table


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    return Judge()


def good(suite: Suite) -> pl.DataFrame:
    frames = {
        "events": events_frame(a_day(rows=10, user_id="a" * 64, session_id="b" * 64)),
        "plan": pl.DataFrame(plan_table()).with_columns(partition=pl.lit(0)),
        "items": pl.DataFrame(items_table(price=1.0, brand="B", category_path="A > B")),
    }
    return frames[suite.name].with_row_index(ROW)


def spoil(frame: pl.DataFrame, row: int, **columns) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.col(ROW) == row).then(pl.lit(value, frame[name].dtype)).otherwise(pl.col(name)).alias(name)
        for name, value in columns.items()
    )


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_the_good_sample_is_accepted(judge, suite):
    judged, _ = judge.judge(suite, good(suite))
    assert [one.expectation.name for one in judged] == [one.name for one in suite.expectations]
    assert len(judged) >= 5
    assert [one.expectation.name for one in judged if not one.success or one.error or one.rows] == []


BAD = [
    (EVENTS, "event_id_not_null", {"event_id": None}),
    (EVENTS, "event_time_not_null", {"event_time": None}),
    (EVENTS, "user_id_not_null", {"user_id": None}),
    (EVENTS, "user_id_matches", {"user_id": "1811"}),
    (EVENTS, "session_id_matches", {"session_id": "33920308347"}),
    (EVENTS, "surface_not_null", {"surface": None}),
    (EVENTS, "surface_in_set", {"surface": "mail"}),
    (EVENTS, "query_matches", {"query": "x" * 513}),
    (EVENTS, "item_id_not_null", {"item_id": None}),
    (EVENTS, "event_type_not_null", {"event_type": None}),
    (EVENTS, "event_type_in_set", {"event_type": "hover"}),
    (EVENTS, "position_in_range", {"position": -1}),
    (EVENTS, "value_in_range", {"value": -0.01}),
    (EVENTS, "propensity_in_range", {"propensity": 1.5}),
    (EVENTS, "quantity_in_range", {"quantity": -1.0}),
    (EVENTS, "discount_in_range", {"discount": -5.0}),
    (PLANS, "item_id_not_null", {"item_id": None}),
    (PLANS, "display_share_not_null", {"display_share": None}),
    (PLANS, "display_share_in_range", {"display_share": 1.01}),
    (PLANS, "mailer_share_not_null", {"mailer_share": None}),
    (PLANS, "mailer_share_in_range", {"mailer_share": -0.01}),
    (PLANS, "item_id_unique", {"item_id": "item-4"}),
    (ITEMS, "item_id_not_null", {"item_id": None}),
    (ITEMS, "title_not_null", {"title": None}),
    (ITEMS, "text_not_null", {"text": None}),
    (ITEMS, "price_in_range", {"price": -1.0}),
    (ITEMS, "available_not_null", {"available": None}),
    (ITEMS, "updated_at_not_null", {"updated_at": None}),
    (ITEMS, "item_id_unique", {"item_id": "item-4"}),
    (ITEMS, "text_length", {"text": ""}),
    (ITEMS, "title_length", {"title": "t" * 501}),
]


@pytest.mark.parametrize(("suite", "name", "bad"), BAD, ids=[f"{suite.name}-{name}" for suite, name, _ in BAD])
def test_a_bad_row_is_rejected_by_the_expectation_about_it(judge, suite, name, bad):
    judged, _ = judge.judge(suite, spoil(good(suite), 3, **bad))
    broken = {one.expectation.name: one.rows for one in judged if not one.success}
    assert list(broken) == [name]
    assert 3 in broken[name]


def test_every_expectation_has_a_bad_sample_and_a_reason():
    named = {(suite.name, name) for suite, name, _ in BAD}
    known = {(suite.name, one.name) for suite in SUITES for one in suite.expectations}
    assert len(known) >= 30
    assert named == known
    assert all(one.reason for suite in SUITES for one in suite.expectations)


def test_great_expectations_alone_passes_an_empty_day_and_a_column_of_nan(judge):
    """Why the rules exist: if this ever fails, Great Expectations learned it, and a rule may go."""
    for frame in (good(EVENTS).clear(), good(EVENTS).with_columns(value=pl.lit(math.nan))):
        judged, _ = judge.judge(EVENTS, frame)
        assert all(one.success for one in judged)


def test_the_data_docs_page_gives_reasons_and_loads_nothing(judge):
    _, page = judge.judge(EVENTS, spoil(good(EVENTS), 3, event_type="hover"))
    assert "hover" in page
    assert "an unknown kind of event has no grade" in page
    assert not re.search(r"https?://|<script|<link|<img", page)
