"""What earlier searches made of an item: how often it was an answer, and to queries of which words.

A text says what an item is, not what people look for in it. Past lists are those of the training days. A training list
never reads the part of the past that it lies in, so that its features are as good, and no better, than a new query's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tasks.ranker.arrays import Floats, Ints, ranges
from tasks.ranker.search.documents import words
from tasks.ranker.search.lists import Lists, Longs

PAST = "past.safetensors"
PAST_COLUMNS = (
    "past_answers", "past_shown", "past_share", "past_words_answered", "past_words_missed", "past_words_answers",
    "past_words_share", "past_words_doubted",
)  # fmt: skip
PARTS = 10  # of the training lists, one after the other in time; a list reads the other nine
KEPT_LISTS = 20_000  # the last ones
DOUBT = 5.0  # pairs of the average share that are added to an item's own


@dataclass(frozen=True)
class Past:
    """Judged lists, found by the items in them. Words are hashes: no query can be read in it, common words can be guessed."""

    size: int  # how many lists
    ptr: Longs  # [items + 2] pairs of each item; the last, the unknown item, has none
    lists: Ints  # [pairs] the list of each
    answer: NDArray[np.bool_]  # [pairs]
    words: Longs  # [distinct words] hashes, ascending
    word_ptr: Longs  # [distinct words + 1]
    word_lists: Ints  # the lists that ask for a word

    @cached_property
    def share(self) -> float:
        """Of pairs that are answers."""
        return float(self.answer.mean()) if len(self.answer) else 0.0

    def features(self, weights: Mapping[str, float], rows: Ints, without: slice = slice(0)) -> Floats:
        """[rows, PAST_COLUMNS] float32, finite, each row by its own item alone.

        Args:
            weights: of the query's distinct words, see TextMatch.weights.
            without: lists that count as if they were not there.
        """
        row = np.where(rows < 0, len(self.ptr) - 2, rows)
        size = self.ptr[row + 1] - self.ptr[row]
        pairs, owner = ranges(self.ptr[row], size), np.repeat(np.arange(len(row)), size)
        lists = self.lists[pairs]
        if without.stop:
            kept = (lists < without.start) | (lists >= without.stop)
            pairs, owner, lists = pairs[kept], owner[kept], lists[kept]
        answer = self.answer[pairs]

        def counts(owner: Longs, answer: NDArray[np.bool_]) -> tuple[Longs, Longs]:
            """[rows] answers and others among some of the pairs."""
            yes, no = (np.bincount(owner[of], minlength=len(row)) for of in (answer, ~answer))
            return yes, no

        yes, no = counts(owner, answer)
        told = [np.log1p(yes), np.log1p(yes + no), self._share(yes, no, DOUBT)]
        by_word = np.zeros((5, len(row)))
        for word, weight in weights.items():
            # nobody asked with most words of a long query: the pairs are not gone through for them
            asked = self._asked(word)
            at = np.flatnonzero(asked[lists]) if asked is not None else np.zeros(0, np.int64)
            yes, no = counts(owner[at], answer[at])
            shares = (self._share(yes, no, 1.0), self._share(yes, no, DOUBT))
            by_word += weight * np.stack([yes > 0, no > 0, np.log1p(yes), *shares])
        told += list(by_word / max(sum(weights.values()), 1e-6))
        return np.stack(told, axis=1).astype(np.float32)

    def of_lists(self, weights: Sequence[Mapping[str, float]], lists: Lists, *, own: bool) -> Floats:
        """[pairs, PAST_COLUMNS]. own: these are the lists that the past was made of, the last of them kept."""
        size, gone = len(lists), len(lists) - self.size
        parts = [np.zeros((0, len(PAST_COLUMNS)), np.float32)]
        for n, (a, b) in enumerate(zip(lists.ptr[:-1], lists.ptr[1:], strict=True)):
            without = slice(0)
            if own:
                part = n * PARTS // size
                begin, end = (max(-(-of * size // PARTS) - gone, 0) for of in (part, part + 1))
                without = slice(begin, end)
            parts.append(self.features(weights[n], lists.rows[a:b], without))
        return np.concatenate(parts)

    def save(self, path: Path) -> None:
        names = ("ptr", "lists", "answer", "words", "word_ptr", "word_lists")
        save_file({name: getattr(self, name) for name in names} | {"size": np.array([self.size])}, path)

    @classmethod
    def load(cls, path: Path) -> Past:
        told = load_file(path)
        return cls(int(told.pop("size")[0]), **told)

    def _asked(self, word: str) -> NDArray[np.bool_] | None:
        """[lists] whether the query has this word; None where no query has."""
        key = _hash(word)
        at = int(np.searchsorted(self.words, key))
        if at == len(self.words) or self.words[at] != key:
            return None
        asked = np.zeros(self.size, bool)
        asked[self.word_lists[self.word_ptr[at] : self.word_ptr[at + 1]]] = True
        return asked

    def _share(self, yes: Longs, no: Longs, doubt: float) -> NDArray[np.float64]:
        told: NDArray[np.float64] = (yes + doubt * self.share) / (yes + no + doubt)
        return told


def past_of(lists: Lists, items: int) -> Past:
    """The past that these lists are, in the order of time. items: of the catalogue; an unknown one has no past."""
    lists = lists.take(np.arange(max(0, len(lists) - KEPT_LISTS), len(lists)))
    pairs = np.flatnonzero(lists.rows >= 0)
    pairs = pairs[np.argsort(lists.rows[pairs], kind="stable")]
    counts = np.bincount(lists.rows[pairs], minlength=items + 1)
    by_word: dict[int, list[int]] = {}
    for n, query in enumerate(lists.queries):
        for word in dict.fromkeys(words(query)):
            by_word.setdefault(_hash(word), []).append(n)
    hashes = sorted(by_word)
    return Past(
        size=len(lists),
        ptr=np.cumsum([0, *counts]).astype(np.int64),
        lists=lists.owner[pairs].astype(np.int32),
        answer=lists.grade[pairs] > 0,
        words=np.array(hashes, np.int64),
        word_ptr=np.cumsum([0, *(len(by_word[of]) for of in hashes)]).astype(np.int64),
        word_lists=np.array([n for of in hashes for n in by_word[of]], np.int32),
    )


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little", signed=True)
