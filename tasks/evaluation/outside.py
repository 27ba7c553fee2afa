"""A release on data that it has never seen: events that meet the contract, or judged queries. Offline, changes nothing.

Events become slates as in the evaluate step: what a user bought on one day, to be found in the release's catalogue. Days
that the release's state has counted are history only. Judged queries are rows (query, item_id, grade): each query's items
are ranked by the service's own engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.domain.errors import InputRejected
from tasks.domain.ranking_metrics import K, ranked_metrics, value_ndcg
from tasks.domain.requests import MAX_CANDIDATES, convert_rank
from tasks.domain.slices import members
from tasks.evaluation.answers import Answers
from tasks.evaluation.facts import ItemFacts
from tasks.own_data.check import check
from tasks.ranker import rank
from tasks.ranker.arrays import iso_day
from tasks.ranker.device import reference_scorer
from tasks.ranker.judge import Judged, Row, full_row_of, mean_of, personal_then_popular
from tasks.ranker.profile import Profile
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.slates import Slate
from tasks.ranker.state import NOBODY, ItemState, UserHistory, View
from tasks.serving.engine import Engine
from tasks.serving.release import Release
from tasks.sources.tables import find_tables, read_batches

JUDGED = {"query", "item_id", "grade"}
LINES = (".jsonl", ".ndjson")


def evaluate_release(release: Release, view: Path | None, data: Path) -> dict[str, Any]:
    """Metrics, slices and report of `release` on `data`, with a counting baseline beside them.

    Args:
        view: the users' histories that belong to the release; without them histories come from `data` alone.
        data: a Parquet or JSON lines file, or a folder of event files.

    Raises:
        InputRejected: the data do not meet the contract, hold nothing to find, or hold a slate twice; or a metric is NaN.
    """
    frame = _judged_queries(data)
    told = _on_events(release, view, data) if frame is None else _on_queries(release, frame, data)
    wrong = sorted(name for name, value in told["metrics"].items() if not np.isfinite(value))
    if wrong:
        raise InputRejected(
            f"{', '.join(wrong)} of release {release.short} is NaN or infinite; its scores are none. Do not serve it"
        )
    return {"release": release.digest, "data": data.name} | told


def _judged_queries(data: Path) -> pl.DataFrame | None:
    """The rows, if `data` is one file with the columns of judged queries."""
    if not data.is_file():
        return None
    try:
        frame = pl.read_ndjson(data) if data.suffix in LINES else pl.read_parquet(data)
    except (pl.exceptions.PolarsError, OSError) as err:
        raise InputRejected(f"{data} cannot be read: {err}") from err
    return frame if set(frame.columns) >= JUDGED else None


def _on_queries(release: Release, frame: pl.DataFrame, data: Path) -> dict[str, Any]:
    _require_judgements(frame, data)
    engine, items = Engine.open(release, None), ItemState.load(release.directory / "items")
    rows, baseline, answers, without = [], [], Answers(), 0
    answers.stock(items.ids[: items.size])
    unknown = 0
    for (query,), part in frame.group_by("query", maintain_order=True):
        grades = dict(zip(part["item_id"].to_list(), part["grade"].cast(pl.Float64).to_list(), strict=True))
        unknown += int((items.rows(grades) < 0).sum())
        if not any(grade > 0 for grade in grades.values()):
            without += 1
            continue
        ranking = engine.rank(convert_rank({"surface": "search", "query": query, "candidates": list(grades)}))
        answers.add(0, ranking.items)
        rows.append(_graded(ranking.items, grades))
        sales = {
            item: float(items.sales28[row]) if row >= 0 else -1.0
            for item, row in zip(grades, items.rows(grades), strict=True)
        }
        baseline.append(_graded(sorted(grades, key=lambda item: -sales[item]), grades))
    if not rows:
        raise InputRejected(f"{data} is an empty holdout: none of its {without} queries has an item of grade above 0")
    return {
        "kind": "judged queries",
        "slates": len(rows),
        "left_out": {"queries_without_a_positive": without, "items_unknown_to_the_release": unknown},
        "metrics": mean_of(rows),
        "baseline": {"name": "what sells", "metrics": mean_of(baseline)},
        "slices": {},
        "report": answers.report(),
    }


def _require_judgements(frame: pl.DataFrame, data: Path) -> None:
    grade = frame["grade"]
    if frame.is_empty():
        raise InputRejected(f"{data} is an empty holdout: it has no row")
    if not grade.dtype.is_numeric():
        raise InputRejected(
            f"grade in {data} is {grade.dtype}; write a number, 0 for an item that does not answer the query"
        )
    amounts = grade.cast(pl.Float64)
    wrong = int((amounts.is_null() | ~amounts.fill_null(0.0).is_finite() | (amounts.fill_null(0.0) < 0)).sum())
    if wrong:
        raise InputRejected(f"grade in {data} is null, NaN, infinite or negative in {wrong} of {len(frame)} rows")
    empty = frame.filter(
        pl.any_horizontal(pl.col("query", "item_id").cast(pl.String).fill_null("").str.strip_chars() == "")
    )
    if len(empty):
        raise InputRejected(f"query or item_id is empty in {len(empty)} of {len(frame)} rows of {data}")
    twice = len(frame) - frame.select("query", "item_id").n_unique()
    if twice:
        raise InputRejected(
            f"{data} holds duplicates: {twice} rows name a query and item that stood before; keep one grade for each"
        )
    most = frame.group_by("query").len()["len"].max()
    if isinstance(most, int) and most > MAX_CANDIDATES:
        raise InputRejected(f"a query of {data} has {most} items; a slate has at most {MAX_CANDIDATES}")


def _graded(ranked: list[str], grades: dict[str, float]) -> Row:
    values = np.array([grades[item] for item in ranked])
    told = {f"{name}[all]": value for name, value in ranked_metrics(values > 0, int((values > 0).sum())).items()}
    graded = value_ndcg(values, values)
    return told if graded is None else told | {"graded_ndcg_at_10[all]": graded}


def _on_events(release: Release, view: Path | None, data: Path) -> dict[str, Any]:
    items = ItemState.load(release.directory / "items")
    events, left_out = _purchases(data, items)
    histories = View(view) if view is not None else None
    known, scorer, answers = ItemFacts(items), reference_scorer(release.directory / "model"), Answers()
    answers.stock(items.ids[: items.size])
    rows, baseline, facts, users = [], [], [], set()
    for number, user, day, slate_events, earlier in _slates(events, items):
        before = (histories.get(user) if histories else None) or NOBODY
        profile = Profile(items, _joined(before, earlier, items), day)
        positives = slate_events["row"].to_numpy().astype(np.int32)
        candidates = candidates_of(profile)
        bought = profile.by_item.keys
        slate = Slate(
            day, number, positives, ~np.isin(positives, bought), slate_events["paid"].to_numpy().astype(np.float32)
        )
        one = Judged(slate, rank.Slate(profile, candidates), np.isin(candidates, bought))
        ranking = rank.rank_slate(scorer, one.ranked)
        best = [items.ids[row] for row in candidates[ranking.order[:K]].tolist()]
        answers.add(number, best, ranking.scores, np.isin(candidates[ranking.order], positives))
        rows.append(full_row_of(ranking, one))
        baseline.append(personal_then_popular(one))
        facts.append(known.of(positives, profile.trips))
        users.add(user)
    if not rows:
        raise InputRejected(
            f"{data} is an empty holdout: no purchase of an item of the release's catalogue from {iso_day(items.day)} on, the "
            f"first day that release {release.short} has not counted ({_listed(left_out)})"
        )
    return {
        "kind": "events",
        "slates": len(rows),
        "users": len(users),
        "left_out": left_out,
        "metrics": mean_of(rows),
        "baseline": {"name": "GP-TopFreq", "metrics": mean_of(baseline)},
        "slices": _by_slice(rows, members(facts)),
        "report": answers.report(),
    }


def _purchases(data: Path, items: ItemState) -> tuple[pl.DataFrame, dict[str, int]]:
    """(user, day, row, quantity, paid, discounted) summed over lines, and what was left out and why."""
    table = "events" if data.is_file() else ""
    report = check(data, table, examples=1)
    first = [one.sentence for one in report.problems if one.table == "event"] + list(report.unreadable.values())
    if first:
        raise InputRejected(
            f"{data} does not meet the contract: {first[0]}; `freshrank data check {data}` names every row"
        )
    files = [file for file in find_tables(data, table)[0] if file.contract.name == "event"]
    frames = [pl.DataFrame(batch.table) for file in files for batch in read_batches(file)]
    if not frames:
        raise InputRejected(f"{data} is an empty holdout: it holds no events")
    events = pl.concat(frames, how="diagonal_relaxed")
    for name in ("quantity", "value", "discount"):
        if name not in events.columns:
            events = events.with_columns(pl.lit(None, pl.Float64).alias(name))
    bought = events.filter(pl.col("event_type") == "purchase")
    row = {item: n for n, item in enumerate(items.ids)}
    lines = bought.with_columns(
        day=pl.col("event_time").dt.epoch("d").cast(pl.Int32),
        row=pl.col("item_id").cast(pl.String).replace_strict(row, default=-1, return_dtype=pl.Int32),
    )
    known = lines.filter(pl.col("row") >= 0)
    left_out = {
        "events_other_than_purchases": len(events) - len(bought),
        "purchases_of_unknown_items": len(lines) - len(known),
    }
    grouped = (
        known.group_by("user_id", "day", "row")
        .agg(
            quantity=pl.col("quantity").fill_null(1.0).sum(),
            paid=pl.col("value").fill_null(0.0).sum(),
            discounted=(pl.col("discount").fill_null(0.0) > 0).any().cast(pl.Float32),
        )
        .sort("user_id", "day", "row")
    )
    seen = grouped.filter(pl.col("day") < items.day)
    return grouped, left_out | {"user_days_that_the_release_has_counted": seen.select("user_id", "day").n_unique()}


def _slates(events: pl.DataFrame, items: ItemState) -> Iterable[tuple[int, str, int, pl.DataFrame, pl.DataFrame]]:
    """(number of the user, user, day, what was bought of the catalogue, what the file says was bought before)."""
    for number, ((user,), mine) in enumerate(events.group_by("user_id", maintain_order=True)):
        for day in mine["day"].unique().sort().to_list():
            now = mine.filter((pl.col("day") == day) & (pl.col("row") < items.size))
            if day >= items.day and len(now):
                yield number, str(user), day, now, mine.filter(pl.col("day") < day)


def _joined(before: UserHistory, earlier: pl.DataFrame, items: ItemState) -> UserHistory:
    """The view's history and, after it, what the file adds: days that the view has counted are not counted again."""
    if len(before.rows):
        earlier = earlier.filter(pl.col("day") >= items.day)
    quantity = earlier["quantity"].to_numpy().astype(np.float32)
    price = earlier["paid"].to_numpy().astype(np.float32) / np.maximum(quantity, np.float32(1e-6))
    added = {
        "rows": earlier["row"].to_numpy().astype(np.int32),
        "days": earlier["day"].to_numpy().astype(np.int32),
        "quantity": quantity,
        "price": price,
        "discounted": earlier["discounted"].to_numpy().astype(np.float32),
    }
    joined = {name: np.concatenate([getattr(before, name), values]) for name, values in added.items()}
    return UserHistory(**joined, store=before.store, cf_rows=before.cf_rows, cf_scores=before.cf_scores)


def _by_slice(rows: list[Row], inside: dict[str, list[bool]]) -> dict[str, Any]:
    """NDCG@10 of each slice that has a slate."""
    return {
        name: {
            "slates": sum(yes),
            "ndcg_at_10": mean_of(row for row, here in zip(rows, yes, strict=True) if here)["ndcg_at_10[all]"],
        }
        for name, yes in inside.items()
        if any(yes)
    }


def _listed(left_out: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in left_out.items())
