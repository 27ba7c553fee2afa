"""What earlier searches made of an item: counted right, blind to the list itself, and the same when it was saved."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file
from search_builders import TITLES, films, judged, titles_asked

from tasks.ranker.search import past as module
from tasks.ranker.search.inputs import columns_of, features_of, make_inputs
from tasks.ranker.search.lists import Lists
from tasks.ranker.search.match import TextMatch
from tasks.ranker.search.past import PAST_COLUMNS, Past, past_of


@pytest.fixture(scope="module")
def match():
    return TextMatch(films())


def told(past: Past, match: TextMatch, query: str, row: int) -> dict[str, float]:
    row_of = past.features(match.weights(query), np.array([row], np.int32))
    return dict(zip(PAST_COLUMNS, row_of[0].tolist(), strict=True))


def test_answers_and_others_of_an_item_are_counted(match):
    lists = judged(["heat", "heat 1995", "up"], [0, 0, 4], films_a_list=7)
    past = past_of(lists, len(TITLES))
    found = told(past, match, "heat", 0)
    assert found["past_answers"] == pytest.approx(np.log1p(2)) and found["past_shown"] == pytest.approx(np.log1p(3))
    assert found["past_share"] == pytest.approx((2 + 5 * past.share) / (3 + 5)) and past.share == pytest.approx(1 / 7)
    assert found["past_words_answered"] == 1 and found["past_words_missed"] == 0


def test_a_word_counts_what_it_is_worth(match):
    lists = judged(["heat", "jaws"], [0, 5], films_a_list=7)
    past = past_of(lists, len(TITLES))
    weights = match.weights("heat zebra")
    found = told(past, match, "heat zebra", 0)
    assert found["past_words_answered"] == pytest.approx(weights["heat"] / (weights["heat"] + weights["zebra"]))
    doubt = past.share  # of a word that nobody asked with: what any item is worth
    shares = {"heat": (1 + doubt) / 2, "zebra": doubt}
    expected = sum(weights[word] * share for word, share in shares.items()) / sum(weights.values())
    assert found["past_words_share"] == pytest.approx(expected)


def test_lists_that_are_left_out_are_as_if_they_had_never_been(match):
    lists = titles_asked()
    rows = np.arange(-1, len(TITLES), dtype=np.int32)
    fewer = np.concatenate([np.arange(8), np.arange(16, len(lists))])
    of_fewer = past_of(lists.take(fewer), len(TITLES))
    of_all = past_of(lists, len(TITLES))
    weights = match.weights("watch heat")
    left_out = of_all.features(weights, rows, slice(8, 16))
    assert left_out == pytest.approx(of_fewer.features(weights, rows), abs=1e-5)
    assert np.abs(left_out - of_all.features(weights, rows)).max() > 0.1


def test_a_training_list_does_not_read_its_own_answers(match):
    """Turning its grades round changes what others read of its items, and nothing of what it reads itself."""
    lists = titles_asked(5)
    turned = Lists(lists.names, lists.queries, lists.ptr, lists.rows, lists.grade.copy())
    own = slice(int(lists.ptr[7]), int(lists.ptr[8]))
    turned.grade[own] = 1 - turned.grade[own]
    weights = [match.weights(query) for query in lists.queries]
    before, after = (past_of(of, len(TITLES)).of_lists(weights, of, own=True) for of in (lists, turned))
    counts = [PAST_COLUMNS.index(name) for name in ("past_answers", "past_words_answered", "past_words_answers")]
    assert np.array_equal(before[own][:, counts], after[own][:, counts])
    assert not np.array_equal(before[:, counts], after[:, counts])


def test_only_the_last_lists_are_kept_and_parts_still_fit(match, monkeypatch):
    lists = titles_asked(5)
    weights = [match.weights(query) for query in lists.queries]
    monkeypatch.setattr(module, "KEPT_LISTS", 10)
    past = past_of(lists, len(TITLES))
    assert past.size == 10 and past.word_lists.max() == 9
    found = past.of_lists(weights, lists, own=True)
    n = len(lists) - 1  # its part is the last four lists: six of the ten remain
    alone = past.features(weights[n], lists.rows[lists.ptr[n] :], slice(6, 10))
    assert np.array_equal(found[lists.ptr[n] :], alone)
    first = past.features(weights[0], lists.rows[: lists.ptr[1]])
    assert np.array_equal(found[: lists.ptr[1]], first)  # none of the kept lists is of its part


def test_the_pairs_are_not_gone_through_for_a_word_that_nobody_asked_with(match):
    """A query of 512 letters has many such words, and popular items have many pairs."""
    past, rows = past_of(titles_asked(), len(TITLES)), np.arange(len(TITLES), dtype=np.int32)
    assert past._asked("heat") is not None and past._asked("zebra") is None
    found = past.features({"zebra": 2.0, "zebu": 1.0}, rows)
    assert np.array_equal(found, past.features({"zebra": 1.0}, rows)) and np.isfinite(found).all()


def test_it_comes_back_from_its_file_and_nobodys_query_is_in_it(tmp_path, match):
    lists = titles_asked()
    past = past_of(lists, len(TITLES))
    past.save(tmp_path / "past.safetensors")
    again, rows = Past.load(tmp_path / "past.safetensors"), np.arange(-1, len(TITLES), dtype=np.int32)
    weights = match.weights("watch heat full movie")
    assert np.array_equal(again.features(weights, rows), past.features(weights, rows))
    assert b"full" not in (tmp_path / "past.safetensors").read_bytes()
    assert {name: of.dtype.kind for name, of in load_file(tmp_path / "past.safetensors").items()}["words"] == "i"


@pytest.mark.parametrize("query", ["heat", "", "  ", "🚂", "电影", "heat " * 200])
def test_any_query_and_an_empty_past_give_finite_numbers(match, query):
    rows = np.arange(-1, len(TITLES), dtype=np.int32)
    for lists in (judged([], []), titles_asked(1)):
        past = past_of(lists, len(TITLES))
        found = past.features(match.weights(query), rows)
        assert found.shape == (len(rows), len(PAST_COLUMNS)) and np.isfinite(found).all()
        assert (found[0, :2] == 0).all()  # an item that the catalogue does not know has no past


def test_training_and_serving_read_the_same_of_a_new_query(match):
    lists, new = titles_asked(), judged(["heat cast", "watch jaws"], [1, 5])
    past, asked = past_of(lists, len(TITLES)), np.eye(8, dtype=np.float32)[:2]
    items = np.vstack([np.eye(8, dtype=np.float32), np.zeros((1, 8), np.float32)])
    made = make_inputs(match, new, asked, items, items, past)
    assert made.x.shape[1] == len(columns_of(match, past)) == len(columns_of(match, None)) + len(PAST_COLUMNS)
    for n in range(len(new)):
        pairs = slice(new.ptr[n], new.ptr[n + 1])
        served = features_of(match, new.queries[n], new.rows[pairs], asked[n], items, items, past)
        assert np.array_equal(made.x[pairs], served)
