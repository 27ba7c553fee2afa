"""CJ1 as the benchmark reproduces it against the protocol's own script, on a small made-up log."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks._cj1_protocol import TASKS, Counts, Log, counts, day_number, interval, iso, slate_metrics

NORMATIVE = Path(__file__).resolve().parents[3] / "shared" / "protocols" / "cj1.py"
START, DAYS, PRODUCTS, HOUSEHOLDS = 95, 3, 160, 25


class Shop:
    """A source with raw ids, as far as the protocol reads one."""

    def __init__(self, lines: pl.DataFrame) -> None:
        self.lines = lines

    def days(self) -> list[str]:
        return [iso(day) for day in range(START + DAYS)]

    def events(self, day: str):
        return self.lines.filter(pl.col("day") == day_number(day)).select("user_id", "item_id").to_arrow()


@pytest.fixture(scope="module")
def lines() -> pl.DataFrame:
    draw = np.random.default_rng(4)
    n = 12_000
    household, product = draw.integers(1, HOUSEHOLDS + 1, n) * 7, draw.integers(0, PRODUCTS, n) ** 2 % 10_007 + 1
    day = draw.integers(0, START + DAYS, n)
    return pl.DataFrame(
        {"user_id": household.astype(str), "item_id": product.astype(str), "day": day},
        schema_overrides={"day": pl.Int64},
    )


@pytest.fixture(scope="module")
def log(lines) -> Log:
    return Log.read(Shop(lines), iso(START + DAYS - 1))


@pytest.fixture(scope="module")
def normative(lines, tmp_path_factory):
    if not NORMATIVE.exists():
        pytest.skip(f"{NORMATIVE} is not here: nothing to compare with")
    spec = importlib.util.spec_from_file_location("cj1", NORMATIVE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("cj1")
    products = lines["item_id"].cast(pl.Int64).unique()
    pl.DataFrame({"product_id": products, "department": ["GROCERY"] * len(products)}).write_parquet(
        folder / "products.parquet"
    )
    first = datetime(2017, 1, 1, 12, tzinfo=UTC).replace(tzinfo=None)
    lines.select(
        pl.col("user_id").cast(pl.Int64).alias("household_id"),
        pl.col("item_id").cast(pl.Int64).alias("product_id"),
        transaction_timestamp=pl.col("day").map_elements(
            lambda day: first + timedelta(days=day), return_dtype=pl.Datetime("us")
        ),
    ).write_parquet(folder / "transactions.parquet")
    return module, module.CJ1(str(folder), start=START, n_days=DAYS)


def test_slates_lists_and_digest_are_those_of_the_protocol(log, normative):
    _, theirs = normative
    for day in range(START, START + DAYS):
        np.testing.assert_array_equal(log.catalogue(day), theirs.catalogue(day))
        households, positives = theirs.slates[day]
        ours = log.slates(day)
        assert [slate.household for slate in ours] == households.tolist()
        for slate, (bought, new) in zip(ours, positives, strict=True):
            np.testing.assert_array_equal(slate.positives, bought)
            np.testing.assert_array_equal(slate.new, new)
            np.testing.assert_array_equal(log.past(slate.household, day), theirs.past(slate.household, day))
        _, products, labels = theirs.lists(day)
        for (_, listed, bought), product, label in zip(log.lists(day), products, labels, strict=True):
            np.testing.assert_array_equal(listed, product)
            np.testing.assert_array_equal(bought, label)


def test_metrics_and_ties_are_those_of_the_protocol(log, normative):
    module, theirs = normative
    result, draw, rows = module.Result(theirs), np.random.default_rng(1), []
    for day in range(START, START + DAYS):
        slates = log.slates(day)
        scores = draw.integers(0, 20, (len(slates), len(log.catalogue(day)))).astype(float)  # many ties
        result.add(day, scores)
        rows += [
            slate_metrics(order, log.past(slate.household, day), slate)
            for slate, order in zip(slates, log.ranked(day, scores), strict=True)
        ]
    found = result.arrays()
    for task in TASKS:
        mine = np.array([row[f"ndcg_at_10[{task}]"] for row in rows])
        np.testing.assert_allclose(mine[~np.isnan(mine)], found[task][:, 2])
        for column, metric in ((3, "recall_at_10"), (4, "hit_rate_at_10"), (5, "mrr")):
            values = np.array([row[f"{metric}[{task}]"] for row in rows])
            np.testing.assert_allclose(values[~np.isnan(values)], found[task][:, column])
    household = np.array([slate.household for day in range(START, START + DAYS) for slate in log.slates(day)])
    everything = np.array([row["ndcg_at_10[all]"] for row in rows])
    assert interval(household, everything) == pytest.approx(tuple(module.boot(household, everything)))


def test_counts_name_the_window(log):
    told = counts(log, range(START, START + DAYS))
    assert isinstance(told, Counts) and 0 < told.new < told.positives <= told.events
    assert told.digest != counts(log, range(START, START + DAYS - 1)).digest


def test_an_empty_task_is_not_a_number(log):
    slate = next(slate for day in range(START, START + DAYS) for slate in log.slates(day) if not slate.new.any())
    row = slate_metrics(log.catalogue(slate.day), log.past(slate.household, slate.day), slate)
    assert np.isnan(row["ndcg_at_10[new]"]) and row["ndcg_at_10[repeat]"] >= 0
