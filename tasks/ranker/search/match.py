"""How well a query's words match an item's fields: BM25 by field, shared words and letters, names, numbers.

Made from inverted tables in numpy, for one query at a time: training and serving call the same `features`. What is
unknown counts as nothing and every number is finite.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009 (k1 1.2, b .75).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.search.documents import Documents, words

K1, B = 1.2, 0.75
LONGEST_NAME = 5  # words
ALL = "all"


class Postings:
    """term -> (items, weights); rows of `column` of a term are added up into one number an item."""

    def __init__(self, size: int, entries: Iterable[tuple[int, dict[str, float]]]) -> None:
        """entries: (item, {term: weight})."""
        self.size = size
        found: dict[str, tuple[list[int], list[float]]] = {}
        for item, terms in entries:
            for term, weight in terms.items():
                items, weights = found.setdefault(term, ([], []))
                items.append(item)
                weights.append(weight)
        self.table: dict[str, tuple[Ints, Floats]] = {
            term: (np.array(items, np.int32), np.array(weights, np.float32)) for term, (items, weights) in found.items()
        }

    def add(self, terms: dict[str, float]) -> Floats:
        """[items + 1] sum over terms of weight in the query x weight in the item; 0 for the unknown item."""
        total = np.zeros(self.size + 1, np.float32)
        for term, weight in terms.items():
            posting = self.table.get(term)
            if posting is not None:
                total[posting[0]] += np.float32(weight) * posting[1]
        return total


def fields_of(documents: Documents) -> tuple[str, ...]:
    return tuple(name for name in documents.fields.matched if name in documents.values)


def columns_of(documents: Documents) -> tuple[str, ...]:
    """Names of the features, in their order."""
    return (
        *(f"bm25_{field}" for field in (*fields_of(documents), ALL)),
        "coverage_title", "coverage_any", "coverage_of_title", "words_found", "same_title", "title_starts",
        "title_holds", "phrase_of_title", "names", "letters_title", "letters_of_title", "letters_written",
        "number_told", "number_other", "query_words", "query_letters", "title_words",
        *documents.fields.numbers,
    )  # fmt: skip


class TextMatch:
    """Features of (query, items of a list); built once for a catalogue."""

    def __init__(self, documents: Documents) -> None:
        size = len(documents)
        self.fields, self.columns = fields_of(documents), columns_of(documents)
        self.documents = documents
        bags = {field: [words(" ".join(of)) for of in documents.values[field]] for field in self.fields}
        bags[ALL] = [[word for field in self.fields for word in bags[field][row]] for row in range(size)]
        seen = Counter(word for bag in bags[ALL] for word in set(bag))
        self.idf = {word: float(np.log(1 + (size - n + 0.5) / (n + 0.5))) for word, n in seen.items()}
        self.unseen = float(np.log(1 + (size + 0.5) / 0.5))  # a word that no item has asks for something else
        self.bm25 = {field: Postings(size, _bm25(bag)) for field, bag in bags.items()}
        title = bags.get("title", [[] for _ in range(size)])
        present = [dict.fromkeys(bag, 1.0) for bag in title]
        self.in_title = Postings(size, enumerate(present))
        self.anywhere = Postings(size, ((row, dict.fromkeys(bag, 1.0)) for row, bag in enumerate(bags[ALL])))
        self.title_idf = np.array([*(sum(self.idf[word] for word in bag) for bag in present), 0], np.float32)
        self.title_words = np.array([*map(len, title), 0], np.float32)
        self.letters = {
            "title": _letters(title),
            # a name with a letter changed: the encoder's text holds the names that matter
            "written": _letters([words(text) for text in documents.written]),
        }
        self.phrase_of_title = Postings(
            size, ((row, {" ".join(bag): float(len(bag))}) for row, bag in enumerate(title))
        )
        self.names = Postings(size, ((row, _names(documents, self.fields, row)) for row in range(size)))
        self.titles = [*(f" {' '.join(bag)} " for bag in title), "  "]
        self.numbers = documents.numbers

    def by_words(self, query: str) -> Floats:
        """[items + 1] BM25 over all fields, for finding items rather than ordering them."""
        return self.bm25[ALL].add(self.weights(query))

    def weights(self, query: str) -> dict[str, float]:
        """What each of its distinct words is worth: the rarer among items, the more."""
        return {word: self.idf.get(word, self.unseen) for word in words(query)}

    def features(self, query: str, rows: Ints) -> Floats:
        """[len(rows), len(columns)] float32, finite; row -1 is an item that nothing is known of."""
        asked = words(query)
        bag, idf = Counter(asked), self.weights(query)
        known = max(sum(idf.values()), 1e-6)
        bm25 = {
            field: of.add({word: idf[word] for word in bag})[rows] for field, of in self.bm25.items()
        }  # a repeated word asks for the same thing
        found_in_title = self.in_title.add(idf)[rows]
        phrases = {
            " ".join(asked[at : at + n]): 1.0 for n in range(1, LONGEST_NAME + 1) for at in range(len(asked) - n + 1)
        }
        titled = {" ".join(asked[at:end]): 1.0 for at in range(len(asked)) for end in range(at + 1, len(asked) + 1)}
        whole = f" {' '.join(asked)} "
        titles = [self.titles[row] for row in rows.tolist()]
        letters = Counter(_trigrams(asked))
        shared = {name: of.add(dict.fromkeys(letters, 1.0))[rows] for name, (of, _) in self.letters.items()}
        size = {name: of[rows] for name, (_, of) in self.letters.items()}
        told = [float(word) for word in asked if word.isdigit() and len(word) == 4]
        numbers = self.numbers[rows]
        by_name = {
            **{f"bm25_{field}": score for field, score in bm25.items()},
            "coverage_title": found_in_title / known,
            "coverage_any": self.anywhere.add(idf)[rows] / known,
            "coverage_of_title": found_in_title / np.maximum(self.title_idf[rows], 1e-6),
            "words_found": self.anywhere.add(dict.fromkeys(bag, 1.0))[rows] / max(len(bag), 1),
            "same_title": np.array([title == whole for title in titles]),
            "title_starts": np.array([bool(asked) and title.startswith(whole.rstrip()) for title in titles]),
            "title_holds": np.array([bool(asked) and whole in title for title in titles]),
            "phrase_of_title": self.phrase_of_title.add(titled)[rows],
            "names": self.names.add(phrases)[rows],
            "letters_title": 2 * shared["title"] / np.maximum(size["title"] + len(letters), 1),
            "letters_of_title": shared["title"] / np.maximum(size["title"], 1),
            "letters_written": shared["written"] / max(len(letters), 1),
            "number_told": np.isin(numbers, told).any(1) if told else np.zeros(len(rows)),
            "number_other": ~np.isin(numbers, told).any(1) if told else np.zeros(len(rows)),
            "query_words": np.full(len(rows), np.log1p(len(asked))),
            "query_letters": np.full(len(rows), np.log1p(len(query))),
            "title_words": np.log1p(self.title_words[rows]),
        }
        columns = [np.asarray(by_name[name], np.float32) for name in self.columns[: len(by_name)]]
        # a logarithm, with its sign: numbers of shops span six powers of ten
        columns += list(np.nan_to_num(np.sign(numbers) * np.log1p(np.abs(numbers)), nan=0, posinf=0, neginf=0).T)
        return np.stack(columns, axis=1).astype(np.float32)


def _bm25(bags: Sequence[Sequence[str]]) -> Iterable[tuple[int, dict[str, float]]]:
    """The part of BM25 that depends on the item; the query brings the idf."""
    mean = max(sum(map(len, bags)) / max(len(bags), 1), 1e-6)
    for item, bag in enumerate(bags):
        norm = K1 * (1 - B + B * len(bag) / mean)
        yield item, {word: n * (K1 + 1) / (n + norm) for word, n in Counter(bag).items()}


def _trigrams(told: Sequence[str]) -> list[str]:
    return [padded[at : at + 3] for word in told for padded in [f"^{word}$"] for at in range(max(len(padded) - 2, 1))]


def _letters(bags: Sequence[Sequence[str]]) -> tuple[Postings, Floats]:
    """Trigrams of each item's words, and how many different ones it has."""
    told = [dict.fromkeys(_trigrams(bag), 1.0) for bag in bags]
    return Postings(len(bags), enumerate(told)), np.array([*map(len, told), 0], np.float32)


def _names(documents: Documents, fields: Sequence[str], row: int) -> dict[str, float]:
    """Whole values of list fields (an actor, a genre), each worth its number of words."""
    told = {}
    for field in fields:
        if field not in ("title", "text"):
            for value in documents.values[field][row]:
                name = words(value)
                if 0 < len(name) <= LONGEST_NAME:
                    told[" ".join(name)] = float(len(name))
    return told
