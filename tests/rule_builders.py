"""A day and the days before it, as rules see them."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from expectations.day import Day
from expectations.past import Past
from tasks.validate_data import load_policy
from tests.behaviour_builders import ITEMS, events_frame

DAY = "2017-02-01"
NOON = datetime(2017, 2, 1, 12, tzinfo=UTC)
CATALOGUE = pl.DataFrame({"item_id": [f"item-{n}" for n in range(ITEMS)], "category": ["A", "B"] * (ITEMS // 2)})


def a_past(days=None, rows_before=None):
    """`days` maps a day to its accepted rows, as dicts; `rows_before` adds days of which only the size is known."""
    past = Past(28)
    for day, rows in sorted((days or {}).items()):
        events = events_frame(list(rows)).with_row_index("row")
        judged = Day(day, events, CATALOGUE, past, events, ())
        past.remember(day, len(events), judged.counts, judged.items, judged.seen)
    past.rows.update(rows_before or {})
    return past


def the_day(rows, past=None, day=DAY):
    events = events_frame(list(rows)).with_row_index("row")
    return Day(day, events, CATALOGUE, past or a_past(), events, load_policy().model_inputs)
