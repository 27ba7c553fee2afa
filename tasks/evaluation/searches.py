"""Judged lists of searches under two releases, as the service ranks them: slates of slice surface_search.

A list is its own user here: the labels of MSRD have none, and the bootstrap must not take lists of one person for one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tasks.domain.ranking_metrics import METRICS, ranked_metrics
from tasks.domain.slices import SlateFacts
from tasks.evaluation.compared import Compared
from tasks.ranker.arrays import Floats
from tasks.ranker.dataset import Dataset
from tasks.ranker.judge import Row
from tasks.ranker.search.dataset import DIRECTORY, load_lists
from tasks.ranker.search.documents import DOCUMENTS, load_documents
from tasks.ranker.search.ranker import SearchRanker
from tasks.ranker.state import ItemState
from tasks.ranker.text import QueryEncoder

Score = Callable[[str, list[str]], Floats]  # of the items of one list
NAN = float("nan")  # judges of search have no habits and buy nothing: in no slice about those
NOTHING = SlateFacts(trips=NAN, surface="search", newest_item_days=NAN, sales_place=NAN, department="")


def searches(data: Dataset, part: str, candidate: Path, champion: Path | None) -> list[Compared]:
    """Both systems on each list of `part` that has a positive; none where the dataset holds no search.

    Args:
        candidate: directory with search/ or text/, as compress leaves it.
        champion: release/ of the release that serves; None for a first champion, which is held against the untrained encoder.
    """
    lists = load_lists(data.directory, part)
    judged = lists.teach()
    if not len(judged):
        return []
    documents = load_documents(data.directory / DIRECTORY / DOCUMENTS)
    items = ItemState.load(data.directory / "items")
    untrained = _untrained(candidate / "text", items)
    new, old = _scores(candidate, items) or untrained, (champion and _scores(champion, items)) or untrained
    day = data.split.holdout_days[-1] if part == "holdout" else data.split.validation_days[-1]
    told = []
    for number, one in enumerate(judged.tolist()):
        pairs = slice(lists.ptr[one], lists.ptr[one + 1])
        # an item that the catalogue of the dataset does not know is a name that nobody knows
        ids = [documents.ids[row] if row >= 0 else "" for row in lists.rows[pairs].tolist()]
        relevant = lists.grade[pairs] > 0
        ours, theirs = (_row(score(lists.queries[one], ids), relevant) for score in (new, old))
        told.append(Compared(day, -1 - number, NOTHING, ours, theirs))
    return told


def _row(scores: Floats, relevant: np.ndarray) -> Row:
    order = np.argsort(-scores, kind="stable")
    values = ranked_metrics(relevant[order], int(relevant.sum()))
    return {f"{metric}[all]": values[metric] for metric in METRICS}


def _scores(release: Path, items: ItemState) -> Score | None:
    """As the service scores given candidates, see tasks.serving.search. None where there is no trained ranker."""
    if not (release / "search").is_dir():
        return None
    ranker = SearchRanker.open(release / "search")

    def score(query: str, ids: list[str]) -> Floats:
        documents = ranker.rows(ids)
        known = (documents >= 0) | (items.rows(ids) >= 0)
        scores = np.full(len(ids), -np.inf, np.float32)
        scores[known] = ranker.scores(query, documents[known])
        return scores

    return score


def _untrained(text: Path, items: ItemState) -> Score:
    """Cosine of query and item text: what a release without a search ranker answers to a stranger."""
    encoder = QueryEncoder(text)

    def score(query: str, ids: list[str]) -> Floats:
        rows = items.rows(ids)
        scores: Floats = np.where(rows >= 0, items.vectors(np.maximum(rows, 0)) @ encoder.encode(query), -np.inf)
        return scores

    return score
