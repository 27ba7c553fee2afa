"""Champion and candidates on the same holdout slates, each day with the state of that morning; and the state's own backtest.

New weights are compared over the whole holdout. New state is compared on the partition's day: the champion's weights on
its released state against the same weights on that morning's state. A first champion is compared with GP-TopFreq, the
counting baseline, on its validation days. Writes evaluation.json, slates.parquet, one row a slate, and predictions.html,
Great Expectations on every ranking: where scores are not finite or a ranking lost things, no metric means anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expectations.products import judge_predictions
from expectations.tables import Predictions
from tasks.domain.errors import InputRejected
from tasks.progress import Progress
from tasks.ranker.arrays import Ints, iso_day
from tasks.ranker.build import Morning
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import Judged, Row, judge, mean_of, metrics_of, personal_then_popular, prepare, row_of
from tasks.ranker.profile import Profile
from tasks.ranker.rank import Ranking, rank_profile, rank_slate
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import OpenVinoScorer, TorchScorer
from tasks.ranker.state import NOBODY, ItemState, View

if TYPE_CHECKING:
    import pyarrow as pa

HEAVY_TRIPS = 40  # past trips of a household from which on it counts as a heavy user
LEAST_COVERAGE, LEAST_USERS, MOST_GROWTH, LEAST_TEXT = 0.80, 0.90, 1.50, 0.90


@dataclass(frozen=True, slots=True)
class Compared:
    """One slate under two systems."""

    day: str
    user: int
    heavy: bool
    candidate: Row
    champion: Row


def evaluate(
    dataset: Path, candidate: Path | None, champion: Path | None, champion_view: Path | None, out: Path
) -> dict[str, Any]:
    """Score whatever this run has made.

    Args:
        candidate: directory with model/, or None where only the state is new.
        champion: src directory of the release that serves, with its view; None for a first champion.

    Raises:
        InputRejected: there is nothing to compare, no slate to compare on, or predictions that are none.
    """
    data, seen = Dataset.open(dataset), Predictions()
    if champion is None or champion_view is None:
        if candidate is None:
            raise InputRejected("there is neither a champion nor a candidate; nothing can be evaluated")
        told = {"bootstrap": _first_champion(data, candidate, seen)}
    else:
        told = {"state": _state(data, dataset, champion, champion_view, seen)}
        if candidate is not None:
            told["weights"] = _weights(data, candidate, champion, seen)
    _require_sound(seen, out)
    rows = [(kind, one) for kind, (_, compared) in told.items() for one in compared]
    _write_slates(rows, out / "slates.parquet")
    evaluation = {kind: facts for kind, (facts, _) in told.items()}
    (out / "evaluation.json").write_text(json.dumps({"candidates": evaluation}, indent=1, sort_keys=True))
    return _summary(evaluation)


def _require_sound(seen: Predictions, out: Path) -> None:
    wrong, page = judge_predictions(seen)
    (out / "predictions.html").write_text(page)
    if wrong:
        raise InputRejected(
            f"the predictions cannot be compared: {'; '.join(wrong)}. Look at the training curves of the model that is "
            f"named, and at what compress did to it"
        )


def _seen(seen: Predictions, kind: str, system: str, one: Judged, ranking: Ranking) -> Ranking:
    seen.add(kind, system, iso_day(one.slate.day), one.slate.user, ranking.order, ranking.scores)
    return ranking


def _weights(
    data: Dataset, candidate: Path, champion: Path, seen: Predictions
) -> tuple[dict[str, Any], list[Compared]]:
    new, old = OpenVinoScorer(candidate / "model"), OpenVinoScorer(champion / "release" / "model")

    def both(one: Judged) -> tuple[Row, Row]:
        ours = _seen(seen, "weights", "candidate", one, rank_slate(new, one.ranked))
        theirs = _seen(seen, "weights", "champion", one, rank_slate(old, one.ranked))
        return row_of(ours, one), row_of(theirs, one)

    compared, extra = _compare(data, data.split.holdout_days, both, candidate)
    digest = data.digest_of(data.split.holdout_days)
    return _facts(data.split.holdout_days, digest, digest, compared) | extra, compared


def _first_champion(data: Dataset, candidate: Path, seen: Predictions) -> tuple[dict[str, Any], list[Compared]]:
    scorer, days = OpenVinoScorer(candidate / "model"), data.split.validation_days

    def both(one: Judged) -> tuple[Row, Row]:
        ours = _seen(seen, "bootstrap", "candidate", one, rank_slate(scorer, one.ranked))
        return row_of(ours, one), personal_then_popular(one)

    compared, extra = _compare(data, days, both, candidate)
    digest = data.digest_of(days)
    return _facts(days, digest, digest, compared) | extra, compared


def _compare(
    data: Dataset, days: tuple[str, ...], both: Callable[[Judged], tuple[Row, Row]], candidate: Path
) -> tuple[list[Compared], dict[str, Any]]:
    """Two systems on every slate of `days`; beside them the counting baseline and the candidate without its transformers."""
    silenced = TorchScorer.load(candidate / "model", zeroed=True)
    compared: list[Compared] = []
    peer, zeroed = [], []
    with Progress("evaluate", len(days), "days") as bar:
        for morning_and_slates in data.mornings(days):
            for one in prepare([morning_and_slates]):
                compared.append(_compared(one, *both(one)))
                peer.append(personal_then_popular(one))
                zeroed.append(judge(silenced, one))
            bar.advance()
    if not compared:
        raise InputRejected(f"{', '.join(days)} hold no slate of the selected users, so nothing can be compared")
    return compared, {"gp_topfreq": mean_of(peer), "transformer_zeroed": mean_of(zeroed)}


def _state(
    data: Dataset, dataset: Path, champion: Path, view: Path, seen: Predictions
) -> tuple[dict[str, Any], list[Compared]]:
    """The champion's weights on its released state against the same weights on this morning's, on the partition's day."""
    scorer = OpenVinoScorer(champion / "release" / "model")
    released, histories = ItemState.load(champion / "release" / "items"), View(view)
    day = data.split.partition
    compared = []
    for morning, slates in data.mornings((day,)):
        for one in prepare([(morning, slates)]):
            new = row_of(_seen(seen, "state", "candidate", one, rank_slate(scorer, one.ranked)), one)
            user = histories.get(data.builder.log.user_ids[one.slate.user]) or NOBODY
            profile = Profile(released, user, one.slate.day)
            candidates = candidates_of(profile)
            ranking = _seen(seen, "state", "champion", one, rank_profile(scorer, profile, candidates))
            compared.append(_compared(one, new, _on_released_state(candidates[ranking.order], released, one, morning)))
    if not compared:
        raise InputRejected(f"{day} holds no slate of the selected users, so the state cannot be tested on it")
    digest = data.digest_of((day,))
    facts = _facts((day,), digest, digest, compared)
    fresh = ItemState.load(dataset / "items")
    return facts | {"checks": state_checks(released, fresh, len(histories), len(View(dataset / "view")))}, compared


def _on_released_state(ranked: Ints, released: ItemState, one: Judged, morning: Morning) -> Row:
    """Metrics of what the champion would have answered on that day with the state that it was released with."""
    ids = [released.ids[row] for row in ranked.tolist()]
    wanted = {morning.items.ids[row] for row in one.slate.positives.tolist()}
    bought = {morning.items.ids[row] for row in one.ranked.profile.by_item.keys.tolist()}
    relevant = np.array([item in wanted for item in ids], bool)
    return metrics_of(relevant, np.array([item in bought for item in ids], bool), one.slate)


def state_checks(released: ItemState, fresh: ItemState, users_before: int, users_now: int) -> list[dict[str, Any]]:
    """Facts that hold of sound state, whatever the metric says. Each: name, value, limit, ok, sentence."""
    kept = len(set(released.ids[: released.size]) & set(fresh.ids[: fresh.size])) / max(1, released.size)
    growth = fresh.size / max(1, released.size)
    texts = float((fresh.text[: fresh.size] >= 0).mean()) if fresh.size else 0.0
    users = users_now / max(1, users_before)
    arrays = (fresh.static, fresh.price, fresh.price_level, fresh.sales7, fresh.sales28, fresh.text_vectors)
    finite = all(bool(np.isfinite(values).all()) for values in arrays)
    rows = (
        (
            "state_coverage",
            kept,
            LEAST_COVERAGE,
            kept >= LEAST_COVERAGE,
            f"{kept:.1%} of the champion's catalogue is still there",
        ),
        (
            "state_size",
            growth,
            MOST_GROWTH,
            1 / MOST_GROWTH <= growth <= MOST_GROWTH,
            f"the catalogue is {growth:.2f} times the champion's",
        ),
        (
            "state_users",
            users,
            LEAST_USERS,
            users >= LEAST_USERS,
            f"{users_now} users have a history, the champion's view has {users_before}",
        ),
        ("state_text", texts, LEAST_TEXT, texts >= LEAST_TEXT, f"{texts:.1%} of the catalogue has a text vector"),
        (
            "state_finite",
            float(finite),
            1.0,
            finite,
            "every counter, price and vector is finite" if finite else "a counter, price or vector is NaN or infinite",
        ),
    )
    return [
        {"name": name, "value": float(value), "limit": limit, "ok": bool(ok), "sentence": f"{told}, limit {limit:g}"}
        for name, value, limit, ok, told in rows
    ]


def _compared(one: Judged, candidate: Row, champion: Row) -> Compared:
    trips = one.ranked.profile.trips
    return Compared(iso_day(one.slate.day), one.slate.user, trips >= HEAVY_TRIPS, candidate, champion)


def _facts(days: tuple[str, ...], digest: str, champion_digest: str, compared: list[Compared]) -> dict[str, Any]:
    return {
        "holdout_digest": digest,
        "champion_holdout_digest": champion_digest,
        "first_day": days[0],
        "last_day": days[-1],
        "slates": len(compared),
        "candidate": mean_of(one.candidate for one in compared),
        "champion": mean_of(one.champion for one in compared),
        "checks": [],
    }


def _write_slates(rows: list[tuple[str, Compared]], path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(slate_table(rows), path)


def slate_table(rows: list[tuple[str, Compared]]) -> pa.Table:
    """kind, day, user, heavy and, for each metric, candidate.METRIC and champion.METRIC; null where a slate has none."""
    import pyarrow as pa

    names = sorted({name for _, one in rows for name in (*one.candidate, *one.champion)})
    columns: dict[str, Any] = {
        "kind": [kind for kind, _ in rows],
        "day": [one.day for _, one in rows],
        "user": pa.array([one.user for _, one in rows], pa.int64()),
        "heavy": [one.heavy for _, one in rows],
    }
    for name in names:
        columns[f"candidate.{name}"] = pa.array([one.candidate.get(name) for _, one in rows], pa.float64())
        columns[f"champion.{name}"] = pa.array([one.champion.get(name) for _, one in rows], pa.float64())
    return pa.table(columns)


def _summary(evaluation: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    lines = []
    for kind, facts in evaluation.items():
        for metric in ("ndcg_at_10[all]", "ndcg_at_10[new]", "ndcg_at_10[repeat]"):
            told[f"{kind}.candidate.{metric}"] = round(facts["candidate"].get(metric, 0.0), 5)
            told[f"{kind}.champion.{metric}"] = round(facts["champion"].get(metric, 0.0), 5)
        for extra in ("gp_topfreq", "transformer_zeroed"):
            if extra in facts:
                told[f"{kind}.{extra}"] = round(facts[extra]["ndcg_at_10[all]"], 5)
        rival = "GP-TopFreq" if kind == "bootstrap" else "champion"
        ours, theirs = (facts[side]["ndcg_at_10[all]"] for side in ("candidate", "champion"))
        lines.append(f"{kind}: NDCG@10 {ours:.4f}, {rival} {theirs:.4f}, {facts['slates']} slates")
    return {"sentence": "; ".join(lines)} | told
