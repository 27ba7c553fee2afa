"""Champion and candidates on the same holdout slates, each day with the state of that morning; and the state's own backtest.

New weights are compared over the whole holdout. New state is compared on the partition's day: the champion's weights on
its released state against the same weights on that morning's state. A first champion is compared with GP-TopFreq, the
counting baseline, on its validation days. New weights also meet simpler models and the champion before. Writes
evaluation.json, slates.parquet, one row a slate, and predictions.html, Great Expectations on every ranking: where scores
are not finite or a ranking lost things, no metric means anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from expectations.products import judge_predictions
from expectations.tables import Predictions
from tasks.domain.errors import InputRejected
from tasks.domain.gate import Check
from tasks.domain.ranking_metrics import K
from tasks.evaluation.answers import Answers
from tasks.evaluation.behaviour import behaviour_checks
from tasks.evaluation.compared import Compared, require_each_once, slice_report, write_slates
from tasks.evaluation.counterfactual import counterfactual
from tasks.evaluation.facts import Groups, MorningFacts
from tasks.evaluation.labels import Shared, shared_labels
from tasks.evaluation.queries import query_checks
from tasks.evaluation.rivals import Rivals, counted_row
from tasks.evaluation.searches import searches
from tasks.evaluation.state_checks import state_checks
from tasks.progress import Progress
from tasks.ranker.arrays import Ints, iso_day
from tasks.ranker.build import Morning
from tasks.ranker.dataset import Dataset
from tasks.ranker.device import reference_scorer
from tasks.ranker.judge import (
    Judged,
    Row,
    full_row_of,
    mean_of,
    metrics_of,
    of_ten,
    personal_then_popular_order,
    prepare,
)
from tasks.ranker.profile import Profile
from tasks.ranker.rank import Ranking, rank_profile, rank_slate
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.runtime import Scorer
from tasks.ranker.state import NOBODY, ItemState, View
from tasks.ranker.text import QueryEncoder


@dataclass
class Side:
    """One system of a comparison: it ranks a slate, keeps what it answered, and gives the metrics."""

    name: str
    rank: Callable[[Judged, Answers], Row]
    answers: Answers = field(default_factory=Answers)


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of one candidate: the facts, and each slate under both systems."""

    facts: dict[str, Any]
    compared: list[Compared]
    sides: tuple[Side, Side]


def evaluate(
    dataset: Path,
    candidate: Path | None,
    champion: Path | None,
    champion_view: Path | None,
    out: Path,
    groups: Groups | None = None,
    previous: Path | str = "not given",
) -> dict[str, Any]:
    """Score whatever this run has made.

    Args:
        candidate: directory with model/, or None where only the state is new.
        champion: src directory of the release that serves, with its view; None for a first champion.
        groups: attributes of users that gave any, for the fairness slices.
        previous: src directory of the release that served before the champion, or why it is not compared.

    Raises:
        InputRejected: there is nothing to compare, no slate to compare on, or predictions that are none.
    """
    data, seen = Dataset.open(dataset), Predictions()
    if champion is None or champion_view is None:
        if candidate is None:
            raise InputRejected("there is neither a champion nor a candidate; nothing can be evaluated")
        told = {"bootstrap": _first_champion(data, candidate, seen, groups or {})}
    else:
        told = {"state": _state(data, dataset, champion, champion_view, seen, groups or {})}
        if candidate is not None:
            told["weights"] = _weights(data, candidate, champion, seen, groups or {}, previous)
    _require_sound(seen, out)
    for kind, one in told.items():
        require_each_once(kind, one.compared)
    write_slates({kind: one.compared for kind, one in told.items()}, out / "slates.parquet")
    evaluation = {
        kind: one.facts | {"report": {side.name: side.answers.report() for side in one.sides}}
        for kind, one in told.items()
    }
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


def _ranked_by(scorer: Any, kind: str, name: str, seen: Predictions) -> Side:
    """A model as one side of a comparison, on the state of each morning."""

    def rank(one: Judged, answers: Answers) -> Row:
        ranking = rank_slate(scorer, one.ranked)
        _see(seen, kind, name, one, ranking)
        ranked, items = one.ranked.candidates[ranking.order], one.ranked.profile.items
        relevant = np.isin(ranked, one.slate.positives)
        answers.add(one.slate.user, [items.ids[row] for row in ranked[:K].tolist()], ranking.scores, relevant)
        return full_row_of(ranking, one)

    return Side(name, rank)


def _counting() -> Side:
    """GP-TopFreq: an order of the whole catalogue, no probabilities."""

    def rank(one: Judged, answers: Answers) -> Row:
        order, past = personal_then_popular_order(one)
        answers.add(one.slate.user, [one.ranked.profile.items.ids[row] for row in order[:K].tolist()])
        return counted_row(one, order, past)

    return Side("champion", rank)


def _see(seen: Predictions, kind: str, system: str, one: Judged, ranking: Ranking) -> None:
    seen.add(kind, system, iso_day(one.slate.day), one.slate.user, ranking.order, ranking.scores)


def _weights(
    data: Dataset, candidate: Path, champion: Path, seen: Predictions, groups: Groups, previous: Path | str
) -> Told:
    new, old = reference_scorer(candidate / "model"), reference_scorer(champion / "release" / "model")
    sides = _ranked_by(new, "weights", "candidate", seen), _ranked_by(old, "weights", "champion", seen)
    models, items = (candidate / "model", champion / "release" / "model"), len(data.whole.log.items.ids)
    shared = shared_labels(data.directory, *models, items)
    asked = searches(data, "holdout", candidate, champion / "release")
    return _compare(data, data.split.holdout_days, sides, new, candidate, groups, previous, shared, asked)


def _first_champion(data: Dataset, candidate: Path, seen: Predictions, groups: Groups) -> Told:
    scorer = reference_scorer(candidate / "model")
    sides = _ranked_by(scorer, "bootstrap", "candidate", seen), _counting()
    asked = searches(data, "validation", candidate, None)
    return _compare(data, data.split.validation_days, sides, scorer, candidate, groups, asked=asked)


def _compare(
    data: Dataset,
    days: tuple[str, ...],
    sides: tuple[Side, Side],
    scorer: Scorer,
    candidate: Path,
    groups: Groups,
    previous: Path | str = "there is no champion yet",
    shared: Shared | None = None,
    asked: Sequence[Compared] = (),
) -> Told:
    """Two systems on every slate of `days` and on its searches (`asked`), and beside them the rivals on the slates."""
    rivals = Rivals(data, candidate, previous)
    compared: list[Compared] = []
    sample: list[Judged] = []
    with Progress("evaluate", len(days), "days") as bar:
        for morning, slates in data.mornings(days):
            facts = MorningFacts(morning, data.whole, groups)
            _stock(sides, morning)
            prepared = prepare([(morning, shared.of(morning, slates) if shared else slates)])
            sample = sample or prepared
            for one in prepared:
                ours, theirs = (side.rank(one, side.answers) for side in sides)
                compared.append(_compared(one, facts, ours, theirs, rivals.of(one)))
            bar.advance()
    if not compared:
        what = f"slate with {' or '.join(shared.labels)}, which both models learned," if shared else "slate"
        raise InputRejected(f"{', '.join(days)} hold no {what} of the selected users, so nothing can be compared")
    checks, queries = _golden_queries(data, candidate, morning)
    extra = {
        **rivals.facts(one.rivals for one in compared),
        "queries": queries,
        "counterfactual": counterfactual(data, days, scorer),
        "checks": [one.model_dump(mode="json") for one in (*behaviour_checks(scorer, sample), *checks)],
    }
    compared += asked
    facts_of_days = _facts(data, days, compared)
    if shared:
        digest = shared.digest(facts_of_days["holdout_digest"])
        extra |= {"labels": list(shared.labels), "holdout_digest": digest, "champion_holdout_digest": digest}
    return Told(facts_of_days | extra, compared, sides)


def _golden_queries(data: Dataset, candidate: Path, morning: Morning) -> tuple[list[Check], dict[str, Any] | None]:
    """Nothing where the candidate answers no search."""
    items, known = morning.items, data.whole.log.items
    if not (candidate / "text" / "encoder.xml").exists() or not (items.text[: items.size] >= 0).any():
        return [], None
    texts = dict(zip(known.ids, known.texts, strict=True))
    return query_checks(QueryEncoder(candidate / "text"), items, [texts[item] for item in items.ids[: items.size]])


def _stock(sides: tuple[Side, Side], morning: Morning) -> None:
    for side in sides:
        side.answers.stock(morning.items.ids[: morning.items.size])


def _state(data: Dataset, dataset: Path, champion: Path, view: Path, seen: Predictions, groups: Groups) -> Told:
    """The champion's weights on its released state against the same weights on this morning's, on the partition's day."""
    scorer = reference_scorer(champion / "release" / "model")
    released, histories = ItemState.load(champion / "release" / "items"), View(view)
    day = data.split.partition

    def on_released_state(one: Judged, answers: Answers) -> Row:
        user = histories.get(data.builder.log.user_ids[one.slate.user]) or NOBODY
        profile = Profile(released, user, one.slate.day)
        candidates = candidates_of(profile)
        ranking = rank_profile(scorer, profile, candidates)
        _see(seen, "state", "champion", one, ranking)
        ids = [released.ids[row] for row in candidates[ranking.order].tolist()]
        items = one.ranked.profile.items
        ranked = np.array([items.row_of.get(item, -1) for item in ids], np.int32)
        relevant = np.isin(ranked, one.slate.positives)
        answers.add(one.slate.user, ids[:K], ranking.scores, relevant)
        return _without_scores(ranked, relevant, one)

    sides = _ranked_by(scorer, "state", "candidate", seen), Side("champion", on_released_state)
    compared = []
    for morning, slates in data.mornings((day,)):
        facts = MorningFacts(morning, data.whole, groups)
        _stock(sides, morning)
        for one in prepare([(morning, slates)]):
            new, old = (side.rank(one, side.answers) for side in sides)
            compared.append(_compared(one, facts, new, old))
    if not compared:
        raise InputRejected(f"{day} holds no slate of the selected users, so the state cannot be tested on it")
    fresh = ItemState.load(dataset / "items")
    checks = state_checks(released, fresh, len(histories), len(View(dataset / "view")))
    return Told(_facts(data, (day,), compared) | {"checks": checks}, compared, sides)


def _without_scores(ranked: Ints, relevant: np.ndarray, one: Judged) -> Row:
    """Metrics of an order of other candidates: their scores cannot be set against those of the slate's own."""
    past = np.isin(ranked, one.ranked.profile.by_item.keys)
    return metrics_of(relevant, past, one.slate) | of_ten(ranked, one)


def _compared(
    one: Judged, facts: MorningFacts, candidate: Row, champion: Row, rivals: dict[str, Row] | None = None
) -> Compared:
    return Compared(iso_day(one.slate.day), one.slate.user, facts.of(one), candidate, champion, rivals or {})


def _facts(data: Dataset, days: tuple[str, ...], compared: list[Compared]) -> dict[str, Any]:
    digest = data.digest_of(days)
    return {
        "holdout_digest": digest,
        "champion_holdout_digest": digest,
        "first_day": days[0],
        "last_day": days[-1],
        "slates": len(compared),
        "candidate": mean_of(one.candidate for one in compared),
        "champion": mean_of(one.champion for one in compared),
        "slices": slice_report(compared),
        "checks": [],
    }


def _summary(evaluation: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    lines = []
    for kind, facts in evaluation.items():
        for metric in ("ndcg_at_10[all]", "ndcg_at_10[new]", "ndcg_at_10[repeat]"):
            told[f"{kind}.candidate.{metric}"] = round(facts["candidate"].get(metric, 0.0), 5)
            told[f"{kind}.champion.{metric}"] = round(facts["champion"].get(metric, 0.0), 5)
        for extra in ("gp_topfreq", "lightgbm", "transformer_zeroed"):
            if extra in facts:
                told[f"{kind}.{extra}"] = round(facts[extra]["ndcg_at_10[all]"], 5)
        rival = "GP-TopFreq" if kind == "bootstrap" else "champion"
        ours, theirs = (facts[side]["ndcg_at_10[all]"] for side in ("candidate", "champion"))
        lines.append(f"{kind}: NDCG@10 {ours:.4f}, {rival} {theirs:.4f}, {facts['slates']} slates")
    return {"sentence": "; ".join(lines)} | told
