"""Golden queries: titles of the catalogue asked as they are, in another case or accent, misspelt, cut short and abused."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from tasks.domain.gate import Check
from tasks.domain.ranking_metrics import K, ranked_metrics
from tasks.ranker.arrays import Floats, top
from tasks.ranker.state import ItemState

QUERIES = 40
LEAST_OVERLAP = 0.9  # mean share of the first ten that another case or accent keeps
LEAST_FOUND = 0.8  # titles whose item is among the first ten
STUFFED = 20  # items whose title is stuffed with the query


class Encoder(Protocol):
    def encode(self, text: str) -> Floats: ...


def query_checks(encoder: Encoder, items: ItemState, texts: Sequence[str]) -> tuple[list[Check], dict[str, Any]]:
    """(checks, NDCG@10 of each way to ask).

    Args:
        texts: of each catalogue row, as the encoder read it: a title, and after `. ` what else is known.

    Raises:
        ValueError: no catalogue item has a text.
    """
    vectors = items.vectors(np.arange(items.size, dtype=np.int32))
    titles = [text.split(". ")[0].strip() for text in texts]
    asked = _spread([title if items.text[row] >= 0 else "" for row, title in enumerate(titles)])
    if not asked:
        raise ValueError("no catalogue item has a text, so no query can be checked")
    of_title: dict[str, list[int]] = {}
    for row, title in enumerate(titles):
        of_title.setdefault(title, []).append(row)
    plain = {title: top(vectors @ encoder.encode(title), K) for title in asked}
    ndcg = {"plain": _mean(_ndcg(plain[title], of_title[title]) for title in asked)}
    ways: dict[str, Callable[[str], str]] = {"typo": with_typo, "dropped_word": without_last_word}
    for name, way in ways.items():
        ndcg[name] = _mean(
            _ndcg(top(vectors @ encoder.encode(way(title)), K), of_title[title])
            for title in asked
            if way(title) != title
        )
    ndcg["stuffed_titles"] = _mean(
        _under_stuffing(encoder, vectors, titles, title, of_title[title]) for title in asked[:10]
    )
    found = _mean(float(np.isin(plain[title], of_title[title]).any()) for title in asked)
    overlap = {
        name: _mean(
            len(set(plain[title].tolist()) & set(top(vectors @ encoder.encode(way(title)), K).tolist()))
            / len(plain[title])
            for title in asked
        )
        for name, way in (("case", in_another_case), ("accent", with_accents))
    }
    kept = "of the first ten is kept, the mean over"
    checks = [
        _check(f"query_in_another_{name}", share, LEAST_OVERLAP, f"{share:.0%} {kept} {len(asked)} titles")
        for name, share in overlap.items()
    ]
    sentence = f"{found:.0%} of {len(asked)} titles find their item among the first ten"
    checks.append(_check("a_title_finds_its_item", found, LEAST_FOUND, sentence))
    return checks, {"queries": len(asked), "ndcg_at_10": ndcg}


def in_another_case(text: str) -> str:
    return text.swapcase()


def with_accents(text: str) -> str:
    """An accent on every vowel, as a keyboard of another language would write it."""
    return "".join(
        unicodedata.normalize("NFC", letter + "\u0301") if letter.lower() in "aeiou" else letter for letter in text
    )


def with_typo(text: str) -> str:
    """Two letters in the middle of the longest word change places."""
    words = text.split(" ")
    at = max(range(len(words)), key=lambda n: len(words[n]))
    word, middle = words[at], len(words[at]) // 2
    if len(word) < 4 or word[middle - 1] == word[middle]:
        return text
    words[at] = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return " ".join(words)


def without_last_word(text: str) -> str:
    head, _, _ = text.rpartition(" ")
    return head or text


def _under_stuffing(
    encoder: Encoder, vectors: Floats, titles: Sequence[str], query: str, wanted: Sequence[int]
) -> float:
    """NDCG@10 of a query when other items repeat it in their titles."""
    others = np.setdiff1d(np.arange(len(titles)), wanted)
    abused = (
        others[np.unique(np.linspace(0, len(others) - 1, min(STUFFED, len(others))).astype(int))]
        if len(others)
        else others
    )
    stuffed = vectors.copy()
    for row in abused.tolist():
        stuffed[row] = encoder.encode(f"{titles[row]} {query} {query} {query}")
    return _ndcg(top(stuffed @ encoder.encode(query), K), wanted)


def _ndcg(found: np.ndarray, wanted: Sequence[int]) -> float:
    return ranked_metrics(np.isin(found, wanted), len(wanted))["ndcg_at_10"]


def _spread(titles: Sequence[str]) -> list[str]:
    known = sorted({title for title in titles if title})
    return [known[n] for n in np.unique(np.linspace(0, len(known) - 1, QUERIES).astype(int))] if known else []


def _mean(values: Any) -> float:
    told = list(values)
    return float(np.mean(told)) if told else 0.0


def _check(name: str, value: float, limit: float, sentence: str) -> Check:
    return Check(
        name=name, value=value, limit=limit, ok=value >= limit, sentence=f"{sentence}; at least {limit:.0%} must"
    )
