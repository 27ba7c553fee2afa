"""One definition of the rules about rows for two engines, row for row what the fast ones of this process catch."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pytest

from expectations.day import Day
from expectations.past import Past
from expectations.portable_rules import POLARS, ROW, TIME, caught
from expectations.row_rules import ROW_RULES
from expectations.suites import EVENTS
from expectations.verdicts import caught_here
from tasks.adapters.spark import SparkRules, why_no_spark
from tasks.adapters.store import MemoryStore
from tasks.adapters.tables import parquet_bytes, read_frame
from tasks.domain.behaviour import PartitionFile, next_day
from tasks.domain.contract import EVENT
from tasks.domain.data_policy import DataPolicy
from tasks.domain.errors import InputRejected, Unavailable
from tasks.ingest import ingest
from tasks.run import Call
from tasks.settings import Settings
from tasks.steps import STEPS
from tasks.validate_data import load_policy
from tests.behaviour_builders import FIRST, KEY, KEY_ID, TinySource, an_event, events_table

DAY, NOON = "2017-02-01", datetime(2017, 2, 1, 12, tzinfo=UTC)
POLICY = load_policy()
CATALOGUE = pl.DataFrame({"item_id": ["item-0", "item-1", "item-2"], "category": ["A", "B", "A"]})
NAMES = [*(one.name for one in EVENTS.expectations), *(rule.name for rule in ROW_RULES if not rule.by_the_past)]
# few values, so that rows meet: twice, seconds apart, without an answer, and without a value at all
CELLS: dict[str, list[Any]] = {
    "event_id": [None, None, None, None, None, "", " ", "\u2003", "\x1c", "e\n", *(f"e-{n}" for n in range(400))],
    "event_time": [
        None,
        datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC),
        NOON + timedelta(hours=12),
        NOON - timedelta(hours=12, microseconds=1),
        NOON - timedelta(days=9),
        *(NOON + timedelta(milliseconds=350 * n) for n in range(60)),
    ],
    "user_id": [None, "", "u\n", *("ab" * 31 + f"{n:02x}" for n in range(6))],
    "session_id": [None, "ab" * 32, "basket"],
    "surface": ["search", "recommendation", None, "mail"],
    "query": [None, "q", "\U0001f600" * 512, "q" * 513],
    "item_id": [None, " ", "ghost", "item-0", "item-1", "item-2"],
    "event_type": ["impression", "click", "purchase", "add_to_cart", "rating", "hover", None],
    "position": [None, 0, 7, -1],
    "value": [None, 0.0, -0.0, 3.0, -0.01, math.nan, math.inf],
    "propensity": [None, 0.5, 1.0001, math.nan],
    "request_id": [None, "r-1", "r-2", "r-3", ""],
    "quantity": [None, 1.0, -1.0, math.inf],
    "discount": [None, 0.0, -1.0],
}


ROWS = 900 + 40 + 1003


def a_day_of_everything() -> bytes:
    """900 rows of every cell beside every other, a script that clicks five times a second, and a user beyond the cap."""
    draw = random.Random(7)
    rows = [an_event(n, DAY, **{name: draw.choice(cells) for name, cells in CELLS.items()}) for n in range(900)]
    times = [NOON + timedelta(milliseconds=200 * n) for n in range(40)]
    script = [an_event(1000 + n, DAY, user_id="cd" * 32, event_type="click", event_time=t) for n, t in enumerate(times)]
    slow = [
        an_event(2000 + n, DAY, user_id="ef" * 32, session_id=None, event_time=NOON + timedelta(seconds=n))
        for n in range(1003)
    ]
    rows += [*script, *slow]
    draw.shuffle(rows)
    return parquet_bytes(events_table(rows))


BODY = a_day_of_everything()


def the_day(body: bytes) -> Day:
    """As validate_data reads it."""
    store, sha256 = MemoryStore(), hashlib.sha256(body).hexdigest()
    store.put_new("day.parquet", body)
    file = PartitionFile(name="day.parquet", rows=ROWS, bytes=len(body), sha256=sha256)
    events = read_frame(store, "day.parquet", file, EVENT).with_row_index(ROW)
    return Day(DAY, events, CATALOGUE, Past(28), events, POLICY.model_inputs)


@pytest.fixture(scope="module")
def wanted() -> dict[str, list[int]]:
    hits = caught_here(the_day(BODY), POLICY)
    assert set(hits) == set(NAMES)
    return {name: mask.arg_true().to_list() for name, mask in hits.items()}


def test_every_rule_has_rows_to_catch(wanted: dict[str, list[int]]) -> None:
    assert {name for name, rows in wanted.items() if not rows} == set()
    assert all(len(rows) < ROWS for rows in wanted.values())


def test_polars_runs_the_portable_rules_and_catches_the_same_rows(wanted: dict[str, list[int]], tmp_path: Path) -> None:
    (tmp_path / "day.parquet").write_bytes(BODY)
    events = pl.scan_parquet(tmp_path / "day.parquet", row_index_name=ROW)
    events = events.with_columns(pl.col("event_time").dt.epoch("us").alias(TIME)).drop("event_time")
    told = caught(nw.from_native(events), nw.from_native(CATALOGUE.lazy()), DAY, POLICY, POLARS).to_native().collect()
    for name in NAMES:
        assert sorted(told.filter(pl.col(name))[ROW]) == wanted[name], name


@pytest.mark.skipif(bool(why_no_spark()), reason=f"Spark cannot start: {why_no_spark()}")
def test_spark_catches_the_same_rows_and_leaves_no_file(wanted: dict[str, list[int]], tmp_path: Path) -> None:
    day = the_day(BODY)
    hits = SparkRules("local[1]", tmp_path, lambda asked: {DAY: BODY}[asked])(day, POLICY)
    assert list(hits) == NAMES
    for name, mask in hits.items():
        assert (len(mask), mask.dtype, mask.null_count()) == (len(day.events), pl.Boolean, 0)
        assert mask.arg_true().to_list() == wanted[name], name
    assert list(tmp_path.rglob("*.parquet")) == []
    off = POLICY.model_copy(
        update={"rows": {**POLICY.rows, "late": POLICY.rows["late"].model_copy(update={"action": "off"})}}
    )
    assert not SparkRules("local[1]", tmp_path, lambda asked: BODY)(day, off)["late"].any()


def test_without_spark_the_setting_is_refused_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.adapters.spark.why_no_spark", lambda: "there is no Java: install Java 17 or newer")
    with pytest.raises(
        InputRejected, match="tables is spark, but there is no Java: install Java 17.*FRESHRANK_TABLES=polars"
    ):
        SparkRules("local[1]", tmp_path, lambda day: b"")


def test_a_day_that_was_landed_anew_meanwhile_is_not_judged_by_the_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure leaves rows out: numbers of the rows that are left would name others of the day that is judged."""
    monkeypatch.setattr("tasks.adapters.spark.spark_session", lambda master, scratch: None)
    fewer = parquet_bytes(events_table([an_event(n, DAY) for n in range(5)]))
    with pytest.raises(Unavailable, match=f"landed anew, 5 rows where {ROWS} are judged"):
        SparkRules("local[1]", tmp_path, lambda day: fewer)(the_day(BODY), POLICY)


def test_the_step_publishes_the_same_day_whoever_found_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tables=spark as the step wires it; the engine here is Polars on the file that Spark would read."""
    source, stores, days = (
        TinySource(),
        {"polars": MemoryStore(), "spark": MemoryStore()},
        [next_day(FIRST, n) for n in range(8)],
    )
    bad = {3: {"item_id": "ghost"}, 5: {"value": math.inf}, 9: {"event_id": f"{days[-1]}-00008"}}
    source.replaced[days[-1]] = events_table([an_event(n, days[-1], **bad.get(n, {})) for n in range(150)])
    asked = []

    class Engine:
        def __init__(self, master: str, scratch: Path, file_of: Callable[[str], bytes]) -> None:
            self.master, self.file_of = master, file_of

        def __call__(self, day: Day, policy: DataPolicy) -> dict[str, pl.Series]:
            asked.append((self.master, day.day))
            events = pl.read_parquet(self.file_of(day.day), row_index_name=ROW).lazy()
            events = events.with_columns(pl.col("event_time").dt.epoch("us").alias(TIME)).drop("event_time")
            told = (
                caught(nw.from_native(events), nw.from_native(day.catalogue.lazy()), day.day, policy, POLARS)
                .to_native()
                .collect()
            )
            return {name: day.events[ROW].is_in(told.filter(pl.col(name))[ROW].implode()) for name in NAMES}

    monkeypatch.setattr("tasks.adapters.spark.SparkRules", Engine)
    monkeypatch.setattr("tasks.validate_data._data_docs", lambda tables: {})  # after the verdict, and half a minute
    for tables, store in stores.items():
        ingest(source, store, days[-1], KEY, KEY_ID)
        settings = Settings(home=tmp_path, tables=tables, spark_master="spark://there:7077")
        (out := tmp_path / tables).mkdir()
        call = Call(settings, store, days[-1], inputs={}, manifests={}, out=out, work=tmp_path, options={})
        assert STEPS["validate_data"].execute(call)["quarantined"] == 3
    assert asked == [("spark://there:7077", day) for day in days]
    polars, spark = ({key: store.get(key) for key in store.list("accepted/")} for store in stores.values())
    assert len(polars) > 8 and polars == spark, "to the last byte"
