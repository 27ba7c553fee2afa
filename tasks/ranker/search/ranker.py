"""The trained search ranker as a release holds it: numpy, two query encoders in OpenVINO, and no torch.

Directory: config.json, documents.json, head.safetensors, vectors.safetensors, past.safetensors and trees.json by recipe, base/ and
tuned/ (encoder.xml, tokenizer.json),
or student/ in place of these two: one graph whose two outputs stand for both.
Training makes the same numbers by the same `features_of`; a test holds both against each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load_file

from tasks.domain.errors import InputRejected
from tasks.ranker.arrays import Floats, Ints, top
from tasks.ranker.search.documents import DOCUMENTS, load_documents
from tasks.ranker.search.inputs import columns_of, features_of
from tasks.ranker.search.match import TextMatch
from tasks.ranker.search.past import PAST, Past
from tasks.ranker.search.vectors import load_vectors, with_nothing
from tasks.ranker.text import QueryEncoder

CONFIG, HEAD, VECTORS, TREES = "config.json", "head.safetensors", "vectors.safetensors", "trees.json"
STUDENT = "student"
KEPT_QUERIES = 4_096
LIMIT = 8.0  # deviations from the mean that the head still tells apart


class Encoder(Protocol):
    def encode(self, text: str) -> Floats:
        """Unit vectors: [2, width] by the untrained encoder and by the tuned one."""


class Both:
    """Two encoders, each asked for its vector."""

    def __init__(self, base: QueryEncoder, tuned: QueryEncoder) -> None:
        self._encoders = base, tuned

    def encode(self, text: str) -> Floats:
        return np.stack([one.encode(text) for one in self._encoders])


class Head:
    """`tasks.ranker.search.head.ProductHead` in numpy, its item projection made once for the catalogue."""

    def __init__(self, weights: dict[str, Floats], item_vec: Floats) -> None:
        self._weights = weights
        self._root = np.float32(item_vec.shape[1] ** 0.5)
        self._items = item_vec @ weights["item.weight"].T

    def scores(self, x: Floats, query_vec: Floats, rows: Ints) -> Floats:
        """[rows]"""
        of = self._weights
        product = (of["query.weight"] @ query_vec) * self._items[rows] * self._root
        known = np.clip((x - of["mean"]) * of["scale"], -LIMIT, LIMIT)
        hidden = np.concatenate([known, product], axis=1, dtype=np.float32)
        for layer in ("layers.0", "layers.3"):
            hidden = np.maximum(hidden @ of[f"{layer}.weight"].T + of[f"{layer}.bias"], 0)
        scores: Floats = (hidden @ of["layers.6.weight"].T + of["layers.6.bias"])[:, 0]
        return scores


class SearchRanker:
    """score = sum of weight x member: the head on untrained vectors, the cosine of tuned ones, trees if there are any."""

    def __init__(self, directory: Path, encoder: Encoder) -> None:
        """
        Raises:
            InputRejected: it was trained on other features than this code makes.
        """
        config = json.loads((directory / CONFIG).read_bytes())
        self._encoder = encoder
        self._vectors = lru_cache(KEPT_QUERIES)(self._encode)
        self.documents = load_documents(directory / DOCUMENTS)
        self._match = TextMatch(self.documents)
        self._title, self._written, self._item = (
            with_nothing(load_vectors(directory / VECTORS, name)) for name in ("title", "written", "tuned")
        )
        self._past = Past.load(directory / PAST) if (directory / PAST).exists() else None
        if config["features"] != list(columns_of(self._match, self._past)):
            raise InputRejected(
                f"{directory.name} was trained on other search features than this code makes; serve it with the code of "
                f"its release, or train anew"
            )
        self._head = Head(load_file(directory / HEAD), self._written)
        self._weights = {name: np.float32(weight) for name, weight in config["weights"].items()}
        self._trees = _trees(directory / TREES) if "trees" in self._weights else None

    @classmethod
    def open(cls, directory: Path, threads: int = 1) -> SearchRanker:
        most = int(json.loads((directory / CONFIG).read_bytes())["query_tokens"])
        if (directory / STUDENT).exists():
            return cls(directory, QueryEncoder(directory / STUDENT, threads, most))
        return cls(directory, Both(*(QueryEncoder(directory / name, threads, most) for name in ("base", "tuned"))))

    def rows(self, items: Sequence[str]) -> Ints:
        """Row of each item among the documents, -1 for one that the release does not know."""
        return self.documents.rows(items)

    def scores(self, query: str, rows: Ints) -> Floats:
        """[rows] finite; an unknown item (-1) is scored as one without text. Depends on the query and this list alone."""
        scores: Floats = sum(self.parts(query, rows).values(), np.zeros(len(rows), np.float32))
        return scores

    def parts(self, query: str, rows: Ints) -> dict[str, Floats]:
        """What each member says, weighted; a score is their sum."""
        base, tuned = self._vectors(query)
        x = features_of(self._match, query, rows, base, self._title, self._written, self._past)
        of = self._weights
        parts = {
            "head": of["head"] * self._head.scores(x, base, rows),
            "cosine": of["cosine"] * (self._item[rows] @ tuned),
        }
        if self._trees is not None and len(rows):
            parts["trees"] = of["trees"] * self._trees.predict(x).astype(np.float32)
        return parts

    def nearest(self, query: str, count: int) -> Ints:
        """Rows worth ranking: the nearest by the tuned vectors, and the best by words, each half of them."""
        by_vector = top(self._item[:-1] @ self._vectors(query)[1], count)
        by_words = top(self._match.by_words(query)[:-1], count // 2)
        found = np.concatenate([by_vector[: count - len(by_words)], by_words])
        return np.sort(np.unique(found)).astype(np.int32)

    def _encode(self, query: str) -> tuple[Floats, Floats]:
        """By the untrained and by the tuned encoder; zeros for a query of blanks, as training has it."""
        if not query.strip():
            return self._item[-1], self._item[-1]
        base, tuned = self._encoder.encode(query)
        return base, tuned


def _trees(path: Path) -> Any:
    import lightgbm  # only who serves trees pays for it

    return lightgbm.Booster(params={"num_threads": 1}, model_str=json.loads(path.read_bytes())["lightgbm"])
