"""The peer: the same checks as a careful team writes them with Great Expectations on pandas, a day at a time.

Great Expectations runs the event suite on a pandas frame of the day; the rules about rows and the counts that the rules
about days need are plain vectorised pandas. What it leaves out is listed in LEFT_OUT: it does less than we do, not more.
COMPLETE names the rows, without which nothing can be quarantined; BASIC takes 2.5 s instead of 4 a million rows, and
names none.

    python -m benchmarks._plain_gx CATALOGUE.parquet PAST DAY.parquet ...     # PAST: so many of the first days are the past
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (
    "missing",
    "watermark",
    "label_rate",
    "logging_change",
    "strangers",
    "visits",
    "copied days",
    "item and plan tables",
    "quarantine table",
)
REFERENCE_DAYS = 28


def validate_plain(parquet_paths: Sequence[Path], catalogue: Path, past: int = 0, threads: int = 2) -> dict[str, Any]:
    """Judge days in a process of their own; the first `past` paths are only remembered.

    Returns:
        counts (check -> rows that break it), days (check -> days that break it), rows, seconds (without imports),
        import_seconds, peak_mib.
    """
    command = [sys.executable, "-m", "benchmarks._plain_gx", str(catalogue), str(past), *map(str, parquet_paths)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "ARROW_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


class GreatExpectations:
    """The event suite in an in-memory context, run on one pandas frame after another."""

    def __init__(self) -> None:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        import great_expectations as gx
        import great_expectations.expectations as gxe
        from great_expectations.data_context.types.base import ProgressBarsConfig

        from expectations.suites import EVENTS

        context: Any = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
        suite = gx.ExpectationSuite(name=EVENTS.name)
        for one in EVENTS.expectations:
            suite.add_expectation(getattr(gxe, one.kind)(**one.arguments, meta={"name": one.name}))
        asset = context.data_sources.add_pandas("plain").add_dataframe_asset("events")
        batch = asset.add_batch_definition_whole_dataframe("day")
        definition = gx.ValidationDefinition(name="events", data=batch, suite=context.suites.add(suite))
        self._definition = context.validation_definitions.add(definition)

    def counts(self, frame: Any) -> dict[str, int]:
        """Expectation -> rows that break it."""
        wanted = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
        result = self._definition.run(batch_parameters={"dataframe": frame}, result_format=wanted)
        return {
            one.expectation_config.meta["name"]: int(one.result.get("unexpected_count") or 0) for one in result.results
        }


@dataclass
class Past:
    """What earlier days leave behind: event ids, priced lines and counts of the last 28 days."""

    ids: list[Any] = field(default_factory=list)
    prices: list[Any] = field(default_factory=list)
    counts: list[dict[str, dict[str, int]]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def remember(self, events: Any, counts: dict[str, dict[str, int]]) -> None:
        self.ids = [*self.ids, events["event_id"]][-REFERENCE_DAYS:]
        self.prices = [*self.prices, events[["item_id", "price"]].dropna()][-REFERENCE_DAYS:]
        self.counts = [*self.counts, counts][-REFERENCE_DAYS:]
        self.rows = [*self.rows, len(events)][-REFERENCE_DAYS:]


def row_rules(events: Any, day: str, known_items: Any, past: Past, rules: Mapping[str, Any]) -> dict[str, int]:
    """Rule -> rows. Written as one writes it in pandas: masks, groupby, merge."""
    import numpy as np
    import pandas as pd

    def settings(name: str) -> Mapping[str, float]:
        return rules[name].settings

    found: dict[str, int] = {}
    time_, midnight = events["event_time"], pd.Timestamp(day, tz="UTC")
    numbers = ["value", "propensity", "quantity", "discount"]
    found["duplicate"] = int((events["event_id"].duplicated() & events["event_id"].notna()).sum())
    if past.ids:
        found["replayed"] = int(events["event_id"].isin(pd.concat(past.ids)).sum())
    act = ["user_id", "item_id", "event_type"]
    ordered = events.sort_values([*act, "event_time"])
    before = ordered.groupby(act, observed=True)[["event_time", "value", "request_id"]].shift()
    gap = (ordered["event_time"] - before["event_time"]).dt.total_seconds()
    alike = [
        (ordered[name] == before[name]) | (ordered[name].isna() & before[name].isna()) for name in before.columns[1:]
    ]
    found["retry"] = int(((gap > 0) & (gap <= settings("retry")["seconds"]) & alike[0] & alike[1]).sum())
    found["same_moment"] = int(events.duplicated([*act, "event_time"]).sum())
    found["unknown_item"] = int((events["item_id"].notna() & ~events["item_id"].isin(known_items)).sum())
    found["not_finite"] = int(np.isinf(events[numbers]).any(axis=1).sum())
    found["wrong_day"] = int((time_ >= midnight + pd.Timedelta(days=1)).sum())
    found["late"] = int((time_ < midnight).sum())
    found["stale"] = int((time_ < midnight - pd.Timedelta(days=settings("stale")["days"])).sum())
    if past.prices:
        usual = pd.concat(past.prices).groupby("item_id")["price"].agg(["median", "size"]).rename_axis("item_id")
        lines = events[["item_id", "store_id", "price"]].dropna(subset=["price"]).merge(usual, on="item_id")
        ratio = np.log(lines["price"] / lines["median"])
        enough = lines["size"] >= settings("price_outlier")["at_least_lines"]
        found["price_outlier"] = int((enough & (ratio.abs() > math.log(settings("price_outlier")["factor"]))).sum())
        stores = ratio[enough].groupby(lines["store_id"][enough]).agg(["median", "size"])
        moved = stores["median"].abs() > math.log(settings("store_prices")["factor"])
        items = lines[enough].groupby("store_id")["item_id"].nunique()
        moved &= items.reindex(stores.index) >= settings("store_prices")["store_items"]
        found["store_prices"] = int(stores["size"][moved].sum())
    of_user = events["user_id"].value_counts()
    flood = max(settings("user_flood")["share"] * len(events), settings("user_flood")["at_least_rows"])
    found["user_flood"] = int(of_user[of_user > flood].sum())
    acts = events[["user_id", "event_time"]].drop_duplicates().sort_values(["user_id", "event_time"])
    fast = acts.groupby("user_id")["event_time"].diff().dt.total_seconds() < settings("superhuman")["gap_s"]
    fast_of = fast.groupby(acts["user_id"]).sum()
    scripts = fast_of[fast_of >= settings("superhuman")["times"]].index
    found["superhuman"] = int(of_user.reindex(scripts).sum())
    found["over_cap"] = int((of_user - settings("over_cap")["rows"]).clip(lower=0).sum())
    shown = events[events["event_type"] == "impression"]
    if len(shown):
        first = shown.groupby(["request_id", "item_id"])["event_time"].min().rename("shown_at").reset_index()
        clicks = events[events["event_type"].isin(["click", "add_to_cart"])]
        joined = clicks.merge(first, on=["request_id", "item_id"], how="left")
        early = (joined["shown_at"] - joined["event_time"]).dt.total_seconds()
        found["click_before_impression"] = int((early > settings("click_before_impression")["seconds"]).sum())
        found["orphan_click"] = int(joined["shown_at"].isna().sum())
    return found


def counted(events: Any, category_of: Any) -> dict[str, dict[str, int]]:
    """Rows by bucket of everything that drift, hours and concentration look at."""
    import numpy as np

    share = (events["discount"] / (events["value"] + events["discount"]) * 10) // 1
    columns = {
        "hour": events["event_time"].dt.hour,
        "event_type": events["event_type"],
        "surface": events["surface"],
        "store": events["store_id"],
        "price": (np.log2(events["price"]) * 2) // 1,
        "quantity": events["quantity"].clip(0, 10) // 1,
        "discount": share,
        "category": events["item_id"].map(category_of),
        "item": events["item_id"],
        "user": events["user_id"],
    }
    tables = {name: column.value_counts() for name, column in columns.items()}
    visits = events.groupby(columns["hour"])["session_id"].nunique()
    tables["visits"] = visits
    return {name: {str(bucket): int(rows) for bucket, rows in table.items()} for name, table in tables.items()}


def day_rules(counts: Mapping[str, Any], rows: int, past: Past, rules: Mapping[str, Any]) -> list[str]:
    """Names of the rules about days that break, against what the past days had."""
    import numpy as np

    from expectations.reference import distance, summed

    broken = ["too_few"] if rows < rules["too_few"].settings["rows"] else []
    if len(past.counts) < 7:
        return broken
    usual = float(np.median(past.rows))
    if (
        not usual * (1 - rules["row_count"].settings["below"])
        <= rows
        <= usual * (1 + rules["row_count"].settings["above"])
    ):
        broken.append("row_count")
    hours = np.array([[one["visits"].get(str(hour), 0) for hour in range(24)] for one in [*past.counts, counts]], float)
    expected = np.median(hours[:-1] / hours[:-1].sum(1, keepdims=True), axis=0) * hours[-1].sum()
    limits = rules["hours"].settings
    odd = (hours[-1] < limits["below"] * expected) | (hours[-1] > limits["above"] * expected)
    if (odd & (expected >= limits["at_least_visits"])).any():
        broken.append("hours")
    for name in ("item", "user"):
        tops = [max(one[name].values()) / sum(one[name].values()) for one in [*past.counts, counts]]
        if tops[-1] > np.median(tops[:-1]) + rules["concentration"].settings["share"]:
            broken.append("concentration")
    for name in ("event_type", "surface", "store", "price", "quantity", "discount", "category"):
        drift = distance(counts[name], summed(one[name] for one in past.counts))
        if drift.js > rules["drift"].settings["js"] or drift.psi > rules["drift"].settings["psi"]:
            broken.append(f"drift {name}")
    return broken


def judge(catalogue: Path, past_days: int, paths: Sequence[Path]) -> dict[str, Any]:
    """All of it, in this process."""
    began = time.perf_counter()
    import pandas as pd

    from tasks.validate_data import load_policy

    expectations = GreatExpectations()
    imported = time.perf_counter() - began
    policy, past, rows = load_policy(), Past(), 0
    counts: Counter[str] = Counter()
    days: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    items = pd.read_parquet(catalogue, columns=["item_id", "category_path"])
    category_of = items.dropna().set_index("item_id")["category_path"].str.split(" > ").str[0]
    category_of = category_of[~category_of.index.duplicated()]
    began = time.perf_counter()
    for number, path in enumerate(paths):
        step = time.perf_counter()
        events = pd.read_parquet(path)
        events["row"] = range(len(events))
        paid = (events["value"] > 0) & (events["quantity"] > 0) & (events["event_type"] == "purchase")
        events["price"] = (events["value"] / events["quantity"]).where(paid)
        day = str(events["event_time"].dt.date.mode()[0])
        spent["read"] += time.perf_counter() - step
        if number >= past_days:
            rows += len(events)
            step = time.perf_counter()
            counts.update(expectations.counts(events))
            spent["Great Expectations"] += time.perf_counter() - step
            step = time.perf_counter()
            counts.update(row_rules(events, day, items["item_id"], past, policy.rows))
            spent["row rules"] += time.perf_counter() - step
        step = time.perf_counter()
        today = counted(events, category_of)
        if number >= past_days:
            days.update(day_rules(today, len(events), past, policy.days))
        past.remember(events, today)
        spent["day rules"] += time.perf_counter() - step
        if number + 1 == past_days:
            began, spent = time.perf_counter(), Counter()
    return {
        "rows": rows,
        "seconds": round(time.perf_counter() - began, 2),
        "import_seconds": round(imported, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "spent": {name: round(seconds, 2) for name, seconds in spent.items()},
        "counts": {name: count for name, count in sorted(counts.items()) if count},
        "days": dict(sorted(days.items())),
        "left_out": LEFT_OUT,
    }


def main(catalogue: str, past: str, *paths: str) -> None:
    print(json.dumps(judge(Path(catalogue), int(past), [Path(path) for path in paths])))


if __name__ == "__main__":
    main(*sys.argv[1:])
