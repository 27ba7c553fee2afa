"""The training set and predictions are judged before anyone uses them; what is wrong is named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from expectations.products import judge_predictions, judge_training_set
from expectations.tables import Predictions, training_slates

INPUTS = ("price", "sales")
DAY = "2017-04-01"


@dataclass
class Rows:
    """Three slates of four, three and three rows; the second one's user has no history."""

    ptr: np.ndarray
    x: np.ndarray
    lengths: np.ndarray
    tokens: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def rows() -> Rows:
    lengths = np.array([2, 1, 0, 1, 0, 0, 0, 1, 3, 0], np.uint8)
    return Rows(
        ptr=np.array([0, 4, 7, 10], np.int32),
        x=np.linspace(-2, 3, 20).astype(np.float16).reshape(10, 2),
        lengths=lengths,
        tokens=np.full((int(lengths.sum()), 5), 0.5, np.float16),
        label=np.array([1, 0, 0, 1, 0, 1, 0, 0, 0, 1], np.uint8),
        weight=np.array([1, 10, 10, 1, 30, 1, 30, 30, 30, 1], np.float32),
    )


def test_one_row_of_the_table_is_one_slate():
    table = training_slates([(DAY, rows()), ("2017-04-02", rows())], INPUTS)
    told = ("day", "slate", "rows", "positives", "negatives", "weight_highest", "input_name")
    assert table.select("row", *told).rows()[1:5] == [
        (1, DAY, 1, 3, 1, 2, 30.0, "sales"),
        (2, DAY, 2, 3, 1, 2, 30.0, "sales"),
        (3, "2017-04-02", 0, 4, 2, 2, 10.0, "price"),
        (4, "2017-04-02", 1, 3, 1, 2, 30.0, "sales"),
    ]
    assert table["input_largest"].to_list()[:3] == [2.0, pytest.approx(1.42, abs=0.01), 3.0]


def test_a_sound_training_set_is_accepted_with_a_page():
    wrong, page = judge_training_set([(DAY, rows())], INPUTS)
    assert wrong == []
    assert "width=device-width" in page and not re.search(r"https?://|<script|<link|<img", page)


def bend(name: str, at: int | tuple[int, int], value: float) -> Rows:
    bent = rows()
    getattr(bent, name)[at] = value
    return bent


@pytest.mark.parametrize(
    ("bent", "sentence"),
    [
        (bend("x", (5, 0), np.inf), r"input_largest_in_range .* 1 of 3 training slates, such as .*/1 \(price = inf\)"),
        (bend("x", (9, 1), np.nan), r"input_largest_not_null .*/2 \(sales = NaN\): one NaN input makes every gradient"),
        (bend("tokens", (7, 4), -np.inf), r"input_largest_in_range .*/2 \(history = inf\)"),
        (bend("weight", 2, np.nan), r"weight_lowest_not_null fails for 1 of 3 .*/0"),
        (bend("weight", 8, 0), r"weight_lowest_in_range fails for 1 of 3 .*/2"),
        (bend("label", 4, 7), r"label_highest_in_range fails for 1 of 3 .*/1"),
        (bend("label", slice(4, 7), 1), r"negatives_in_range fails for 1 of 3 .*/1"),
        (bend("label", slice(0, 7), 0), r"positives_in_range fails for 2 of 3 .*/0 .*/1"),
    ],
)
def test_a_broken_training_set_is_named_by_slate_and_input(bent, sentence):
    wrong, page = judge_training_set([(DAY, bent)], INPUTS)
    assert len(wrong) == 1
    assert re.search(sentence, wrong[0]), wrong


def test_an_unknown_value_is_no_fault_where_it_is_filled_in_later_and_an_infinite_one_is():
    unknown = bend("x", (5, 0), np.nan)
    assert judge_training_set([(DAY, unknown)], INPUTS, nullable=["price"])[0] == []
    assert judge_training_set([(DAY, unknown)], INPUTS, nullable=["sales"])[0] != []
    assert judge_training_set([(DAY, bend("x", (5, 0), -np.inf))], INPUTS, nullable=["price"])[0] != []


def test_no_training_slate_is_no_training_set():
    assert judge_training_set([], INPUTS)[0] == ["there are no training slates"]


def ranked(scores: Sequence[float], order: Sequence[int] | None = None) -> Predictions:
    seen = Predictions()
    for user in range(4):
        seen.add(
            "weights", "champion", DAY, user, np.arange(5, dtype=np.int32), np.linspace(1, -5, 5, dtype=np.float32)
        )
    best_first = np.array(range(len(scores)) if order is None else order, np.int32)
    seen.add("weights", "candidate", DAY, 7, best_first, np.array(scores, np.float32))
    return seen


@pytest.mark.parametrize(
    ("seen", "broken"),
    [
        (ranked([3, 2, 1]), []),
        (ranked([3, np.nan, 1]), ["score_lowest_not_null", "score_highest_not_null"]),
        (ranked([np.inf, 2, 1]), ["score_highest_in_range"]),
        (ranked([1, 2, 3]), ["rises_in_range"]),
        (ranked([2, 2, 2]), ["scores_in_range"]),
        (ranked([3, 2, 1], [0, 1, 1]), ["unranked_in_range"]),
        (ranked([3, 2, 1], [0, 1, 5]), ["unranked_in_range"]),
        (ranked([3, 2, 1], [0, 1]), ["unranked_in_range"]),
        (Predictions(), ["there are no rankings"]),
    ],
    ids=lambda value: " ".join(value) or "sound" if isinstance(value, list) else "",
)
def test_predictions_that_are_none_are_named_by_system_and_slate(seen, broken):
    wrong, page = judge_predictions(seen)
    assert [sentence.partition(" fails")[0] for sentence in wrong] == broken
    assert all("candidate of weights on 2017-04-01, user 7" in one for one in wrong if "fails" in one)
    assert "<!DOCTYPE html>" in page


def test_a_slate_that_is_judged_twice_counts_twice_and_is_refused():
    seen = ranked([3, 2, 1])
    seen.add("weights", "champion", DAY, 3, np.arange(2, dtype=np.int32), np.array([1, 0], np.float32))
    wrong, _ = judge_predictions(seen)
    assert [sentence.partition(" fails")[0] for sentence in wrong] == ["slate_unique"]
