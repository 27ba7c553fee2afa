"""The tables of a dataset by Apache Spark: the log, the lists, the labels and the dataset itself, equal to the last byte."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest

from tasks.adapters.accepted_days import Accepted
from tasks.adapters.spark import why_no_spark
from tasks.adapters.spark_tables import SparkTables
from tasks.adapters.store import MemoryStore
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.recipe import Exposure, load_recipe
from tasks.evaluation.labels import FILE, save_label_kinds
from tasks.ranker.arrays import epoch_day, iso_day
from tasks.ranker.log import EventLog, read_log
from tasks.ranker.shown import Shown, read_shown
from tasks.ranker.tables import POLARS, Tables
from tasks.run import Call
from tasks.settings import Settings
from tasks.steps import STEPS
from tests.shop import open_shop, with_lists

needs_spark = pytest.mark.skipif(bool(why_no_spark()), reason=f"Spark cannot start: {why_no_spark()}")
BOTH: tuple[Literal["polars"], Literal["spark"]] = ("polars", "spark")
GOAL = ("purchase", "rating", "add_to_cart")
FIRST = epoch_day("2017-06-01")
CELLS: dict[str, list[Any]] = {
    "user_id": ["u-é", "u-\U0001f600", "u-1", "U-1", "u-2", ""],
    "item_id": ["item-0", "item-1", "item-2", "ITEM-0", "ghost"],
    "event_type": ["impression"] * 6 + ["click", "purchase", "add_to_cart", "rating"],
    "request_id": [None, *(f"r-{n}" for n in range(60))],
    "surface": ["recommendation", "recommendation", "search", None],
    "position": [None, 0, 1, 7],
    "propensity": [None, 0.5, 1 / 3, math.nan],
    "value": [None, -0.0, -1.0, 0.1, 0.7, 1.5, 2.5, 3.5, 4.5, 5.0, math.nan, math.inf],
    "quantity": [None, 0.0, -0.0, 3.0, -2.0, math.nan],
    "discount": [None, 0.3, -0.1, math.inf],
    "store_id": [None, "s1", "S1", "s2"],
}


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six days of every cell beside every other; answers come days later, and one day knows neither lists nor stores."""
    folder, draw = tmp_path_factory.mktemp("every cell"), random.Random(7)
    items = [name for name in CELLS["item_id"] if name != "ghost"]
    told = {
        "item_id": items,
        "title": items,
        "category_path": ["A > B", "A > B > é", "C", "C"],
        "brand": [None, *"xyz"],
    }
    pl.DataFrame(told).write_parquet(folder / "items.parquet")
    schema = dict.fromkeys(("propensity", "value", "quantity", "discount"), pl.Float64) | {"position": pl.Int32}
    paths = []
    for day in range(6):
        rows = [{name: draw.choice(cells) for name, cells in CELLS.items()} for _ in range(400)]
        noon = datetime(2017, 6, 1 + day, 12, tzinfo=UTC)
        frame = pl.DataFrame(rows, schema_overrides=schema).with_columns(
            event_id=pl.Series([f"e-{day}-{n}" for n in draw.sample(range(400), 400)]),
            event_time=pl.Series([noon + timedelta(microseconds=draw.randrange(99)) for _ in rows]),
        )
        if day == 3:
            frame = frame.drop("request_id", "surface", "position", "propensity", "store_id")
        paths.append(folder / f"dt={iso_day(FIRST + day)}" / "accepted-1.parquet")
        paths[-1].parent.mkdir()
        frame.write_parquet(paths[-1])
    return paths


def all_of(accepted: list[Path], tables: Tables, out: Path) -> tuple[EventLog, Shown, dict[str, int], bytes]:
    log = read_log(accepted, accepted[0].parent.parent / "items.parquet", GOAL, tables)
    users = np.array([0, 2, 3], np.int32)
    save_label_kinds(accepted[2:5], log, users, GOAL, out, tables)
    return log, *read_shown(accepted, log, 1, tables), (out / FILE).read_bytes()


def leaves(told: tuple[Any, ...]) -> Iterator[Any]:
    for one in told:
        if isinstance(one, tuple):
            yield from leaves(one)
        else:
            yield (one.dtype, one.tobytes()) if isinstance(one, np.ndarray) else one


@needs_spark
def test_spark_reads_the_same_log_lists_and_labels(accepted: list[Path], tmp_path: Path) -> None:
    log, shown, left_out, kinds = all_of(accepted, POLARS, tmp_path)
    tables = SparkTables("local[1]", tmp_path / "scratch")
    their_log, their_shown, their_left_out, their_kinds = all_of(accepted, tables, tmp_path)
    assert len(log.user_ids) == 6 and len(log.day) > 100 and len(log.store_ids) == 3
    assert set(shown.grade) == {0, 1, 2, 3} and {-1, 0, 7} <= set(shown.position) and min(left_out.values()) > 0
    assert list(leaves(astuple(their_log))) == list(leaves(astuple(log)))
    assert list(leaves(astuple(their_shown))) == list(leaves(astuple(shown)))
    assert (their_left_out, their_kinds) == (left_out, kinds)
    del tables
    assert list((tmp_path / "scratch").rglob("*.parquet")) == [], "what came back is gone"


@needs_spark
def test_what_spark_cannot_read_is_said(accepted: list[Path], tmp_path: Path) -> None:
    tables = SparkTables("local[1]", tmp_path)
    with pytest.raises(InputRejected, match="lies in no directory dt="):
        tables.events([tmp_path / "accepted-1.parquet"], {"event_id": pl.String})
    gone = tmp_path / "dt=2017-06-01" / "accepted-1.parquet"
    with pytest.raises(Unavailable, match="^Spark could not read the events: PATH_NOT_FOUND; what it printed"):
        tables.events([gone], {"event_id": pl.String})
    gone.parent.mkdir()
    pl.DataFrame({"position": ["first"]}).write_parquet(gone)
    with pytest.raises(Unavailable, match="^Spark could not make a table: FAILED_READ_FILE.*MISMATCH; what it printed"):
        tables.collected(tables.events([gone], {"position": pl.Int32}))


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The real step on the made-up shop with lists -> every file of its dataset."""
    home = tmp_path_factory.mktemp("step")
    shop = open_shop(home / "shop")
    recipe = load_recipe("tiny").model_copy(update={"exposure": Exposure(slates="both", keep_unseen=0.05)})
    events = [with_lists(path, home / "lists") for path in shop.accepted]

    def build(tables: Literal["polars", "spark"], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
        days = Accepted([path.parent.name[3:] for path in events], events, shop.plans, shop.catalogue, {})
        monkeypatch.setattr("tasks.adapters.accepted_days.fetch_accepted", lambda store, through, target: days)
        monkeypatch.setattr("tasks.domain.recipe.load_recipe", lambda name: recipe)
        settings = Settings(home=home / tables, tables=tables, spark_master="local[1]")
        (out := home / tables / "out").mkdir(parents=True)
        work = home / tables / "work"
        call = Call(settings, MemoryStore(), days.days[-1], inputs={}, manifests={}, out=out, work=work, options={})
        STEPS["build_dataset"].execute(call)
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    return build


@needs_spark
def test_the_step_makes_the_same_dataset_by_spark(step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = step("polars", monkeypatch), step("spark", monkeypatch)
    assert len(ours) > 20 and ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_the_setting_reaches_the_tables_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def build(**told: Any) -> dict[str, Any]:
        given.append(told.get("tables"))
        return {}

    monkeypatch.setattr("tasks.adapters.spark_tables.SparkTables", lambda *asked: asked)
    monkeypatch.setattr(
        "tasks.adapters.accepted_days.fetch_accepted", lambda *asked, **told: Accepted([], [], [], Path(), {})
    )
    monkeypatch.setattr("tasks.build_dataset.build_dataset", build)
    monkeypatch.setattr("tasks.training_set.allowed", lambda summary, rules: [])
    for tables in BOTH:
        settings = Settings(home=tmp_path, recipe="tiny", tables=tables, spark_master="spark://there:7077")
        call = Call(
            settings, MemoryStore(), "2017-06-16", inputs={}, manifests={}, out=tmp_path, work=tmp_path, options={}
        )
        STEPS["build_dataset"].execute(call)
    assert given == [None, ("spark://there:7077", tmp_path)]
