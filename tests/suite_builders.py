"""For each suite a small sound table, and named ways to spoil a row of it."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from expectations.profile import ROW
from expectations.suites import EVENTS, ITEMS, PLANS, PREDICTIONS, TRAINING_SET, USERS, Suite, users_suite
from expectations.tables import PREDICTION_COLUMNS, SLATE_COLUMNS
from tests.behaviour_builders import a_day, events_frame, items_table, plan_table

USERS_WITH_AGE = users_suite(["age"])
SLATE = {"day": "2017-04-01", "rows": 40, "positives": 3, "negatives": 37, "label_lowest": 0.0, "label_highest": 1.0}
SLATE |= {"weight_lowest": 1.0, "weight_highest": 30.0, "input_largest": 8.0, "input_name": "price"}
RANKING = {"kind": "weights", "system": "candidate", "day": "2017-07-01", "candidates": 1200, "unranked": 0, "rises": 0}
RANKING |= {"score_lowest": -9.0, "score_highest": 1.0, "scores": 900}


def good(suite: Suite, rows: int = 10) -> pl.DataFrame:
    numbers = range(rows)
    ids = [f"item-{n}" for n in numbers]
    slates = pl.DataFrame([SLATE | {"slate": n} for n in numbers], schema=SLATE_COLUMNS)
    items = pl.DataFrame({"item_id": ids})
    users = pl.DataFrame({"user_id": [f"{n:064x}" for n in numbers], "age": [20.0 + n for n in numbers]})
    frames = {
        "events": lambda: events_frame(a_day(rows=rows, user_id="a" * 64, session_id="b" * 64)),
        "plan": lambda: pl.DataFrame(plan_table()).head(1).select(pl.exclude("item_id")).join(items, how="cross"),
        "items": lambda: pl.DataFrame(items_table(ids, price=1.0, brand="B", category_path="A > B")),
        "users": lambda: users,
        "training_set": lambda: slates,
        "predictions": lambda: pl.DataFrame([RANKING | {"user": n} for n in numbers], schema=PREDICTION_COLUMNS),
    }
    return frames[suite.name]().with_row_index(ROW)


def spoil(frame: pl.DataFrame, row: int, **columns) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.col(ROW) == row).then(pl.lit(value, frame[name].dtype)).otherwise(pl.col(name)).alias(name)
        for name, value in columns.items()
    )


NAN, INF = float("nan"), float("inf")
BAD = [
    (EVENTS, "event_id_not_null", {"event_id": None}),
    (EVENTS, "event_id_not_blank", {"event_id": " \t"}),
    (EVENTS, "event_time_not_null", {"event_time": None}),
    (EVENTS, "event_time_in_range", {"event_time": datetime(1999, 12, 31, tzinfo=UTC)}),
    (EVENTS, "user_id_not_null", {"user_id": None}),
    (EVENTS, "user_id_matches", {"user_id": "1811"}),
    (EVENTS, "session_id_matches", {"session_id": "33920308347"}),
    (EVENTS, "surface_not_null", {"surface": None}),
    (EVENTS, "surface_in_set", {"surface": "mail"}),
    (EVENTS, "query_matches", {"query": "x" * 513}),
    (EVENTS, "item_id_not_null", {"item_id": None}),
    (EVENTS, "item_id_not_blank", {"item_id": ""}),
    (EVENTS, "event_type_not_null", {"event_type": None}),
    (EVENTS, "event_type_in_set", {"event_type": "hover"}),
    (EVENTS, "position_in_range", {"position": -1}),
    (EVENTS, "value_in_range", {"value": -0.01}),
    (EVENTS, "propensity_in_range", {"propensity": 1.5}),
    (EVENTS, "quantity_in_range", {"quantity": -1.0}),
    (EVENTS, "discount_in_range", {"discount": -5.0}),
    (PLANS, "item_id_not_null", {"item_id": None}),
    (PLANS, "item_id_not_blank", {"item_id": "\n"}),
    (PLANS, "display_share_not_null", {"display_share": None}),
    (PLANS, "display_share_in_range", {"display_share": 1.01}),
    (PLANS, "mailer_share_not_null", {"mailer_share": NAN}),
    (PLANS, "mailer_share_in_range", {"mailer_share": -0.01}),
    (PLANS, "item_id_unique", {"item_id": "item-4"}),
    (ITEMS, "item_id_not_null", {"item_id": None}),
    (ITEMS, "item_id_not_blank", {"item_id": ""}),
    (ITEMS, "item_id_length", {"item_id": "i" * 129}),
    (ITEMS, "title_not_null", {"title": None}),
    (ITEMS, "title_not_blank", {"title": " "}),
    (ITEMS, "title_length", {"title": "t" * 501}),
    (ITEMS, "text_not_null", {"text": None}),
    (ITEMS, "text_not_blank", {"text": ""}),
    (ITEMS, "text_length", {"text": "t" * 20_001}),
    (ITEMS, "price_in_range", {"price": -1.0}),
    (ITEMS, "available_not_null", {"available": None}),
    (ITEMS, "updated_at_not_null", {"updated_at": None}),
    (ITEMS, "updated_at_in_range", {"updated_at": datetime(2101, 1, 1, tzinfo=UTC)}),
    (ITEMS, "item_id_unique", {"item_id": "item-4"}),
    (USERS, "user_id_not_null", {"user_id": None}),
    (USERS, "user_id_matches", {"user_id": "household-7"}),
    (USERS, "user_id_unique", {"user_id": f"{4:064x}"}),
    (USERS_WITH_AGE, "age_in_range", {"age": INF}),
    (TRAINING_SET, "rows_in_range", {"rows": 1}),
    (TRAINING_SET, "negatives_in_range", {"negatives": 0}),
    (TRAINING_SET, "label_lowest_in_range", {"label_lowest": -1.0}),
    (TRAINING_SET, "label_highest_in_range", {"label_highest": 2.0}),
    (TRAINING_SET, "weight_lowest_not_null", {"weight_lowest": NAN}),
    (TRAINING_SET, "weight_lowest_in_range", {"weight_lowest": 0.0}),
    (TRAINING_SET, "weight_highest_in_range", {"weight_highest": INF}),
    (TRAINING_SET, "input_largest_not_null", {"input_largest": NAN}),
    (TRAINING_SET, "input_largest_in_range", {"input_largest": INF}),
    (PREDICTIONS, "slate_unique", {"user": 4}),
    (PREDICTIONS, "candidates_in_range", {"candidates": 1}),
    (PREDICTIONS, "unranked_in_range", {"unranked": 2}),
    (PREDICTIONS, "rises_in_range", {"rises": 1}),
    (PREDICTIONS, "score_lowest_not_null", {"score_lowest": NAN}),
    (PREDICTIONS, "score_lowest_in_range", {"score_lowest": -INF}),
    (PREDICTIONS, "score_highest_not_null", {"score_highest": NAN}),
    (PREDICTIONS, "score_highest_in_range", {"score_highest": INF}),
    (PREDICTIONS, "scores_in_range", {"scores": 1}),
]
