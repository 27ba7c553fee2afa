"""What search reads: documents, judged lists from events, text match. Damaged input gives finite numbers and no error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_builders import FIELDS, TITLES, a_row, events, films, judged

from tasks.ranker.search.documents import read_documents, words
from tasks.ranker.search.judge import ndcg
from tasks.ranker.search.lists import lists_of
from tasks.ranker.search.match import TextMatch

ALL_ROWS = np.arange(-1, len(TITLES), dtype=np.int32)


@pytest.fixture(scope="module")
def match():
    return TextMatch(films())


def test_the_encoders_text_names_the_parts_in_the_recipes_order():
    row = a_row(
        "1", "Heat", year=1995, genres=["crime", "drama", "heist"], actors=["Al Pacino (voice)", "Robert De Niro"]
    )
    assert read_documents([row], FIELDS).written == ["Heat (1995) crime, drama. Al Pacino, Robert De Niro"]


@pytest.mark.parametrize(
    ("row", "written"),
    [
        pytest.param(a_row("1", None), "", id="no title"),
        pytest.param(a_row("1", "", year=1995), "(1995)", id="empty title"),
        pytest.param({"item_id": "1", "title": "Heat", "attributes": "{broken"}, "Heat", id="damaged attributes"),
        pytest.param({"item_id": "1", "title": "Heat", "attributes": "[1]"}, "Heat", id="attributes are no object"),
        pytest.param(a_row("1", "Heat", year=math.nan), "Heat", id="NaN year"),
        pytest.param(a_row("1", "Heat", year="soon"), "Heat", id="year in words"),
    ],
)
def test_what_an_item_lacks_leaves_no_trace(row, written):
    documents = read_documents([row], FIELDS)
    assert documents.written == [written]
    assert np.isfinite(TextMatch(documents).features("heat 1995", np.array([0, -1], np.int32))).all()


def test_words_have_no_case_no_accent_and_no_apostrophe():
    assert words("Zoë Saldaña's CÔTE-d'Azur, 电影 2") == ["zoe", "saldanas", "cote", "dazur", "电影", "2"]


def test_judged_pairs_of_a_request_are_one_list_and_an_unknown_item_stays_in_it():
    told = [
        ("r1", "heat", "film-0", "rating", 1.0),
        ("r1", "heat", "lost", "rating", 0.0),
        ("r1", "heat", "film-1", "rating", 0.0),
    ]
    lists = lists_of(events(told), films().ids)
    assert (lists.queries, lists.ptr.tolist(), lists.rows.tolist()) == (["heat"], [0, 3], [0, -1, 1])
    assert lists.grade.tolist() == [1, 0, 0]


def test_the_best_event_of_an_item_counts_and_events_without_a_query_do_not():
    told = [
        ("r", "up", "film-4", "impression", None),
        ("r", "up", "film-5", "impression", None),
        ("r", "up", "film-4", "click", None),
        ("r", "up", "film-4", "purchase", 2.0),
        ("q", "  ", "film-1", "click", None),
        ("q", None, "film-2", "click", None),
    ]
    lists = lists_of(events(told), films().ids)
    assert (lists.queries, lists.rows.tolist(), lists.grade.tolist()) == (["up"], [4, 5], [3, 0])


def test_without_a_request_the_session_and_the_query_are_the_list():
    told = [
        (None, "up", "film-4", "click", None),
        (None, "jaws", "film-5", "click", None),
        (None, "up", "film-1", "impression", None),
    ]
    assert lists_of(events(told), films().ids).queries == ["up", "jaws"]


def test_no_search_event_is_no_list():
    lists = lists_of(events([("r", "up", "film-4", "click", None)]).clear(), films().ids)
    assert len(lists) == 0 and lists.ptr.tolist() == [0] and len(lists.teach()) == 0


def test_lists_that_hold_one_kind_of_label_teach_nothing():
    lists = judged(["heat", "up", "jaws"], [0, 4, 5])
    lists.grade[:4], lists.grade[4:8] = 0, 1
    assert lists.teach().tolist() == [2]


def test_bm25_is_that_of_the_textbook(match):
    """idf x tf (k1 + 1) / (tf + k1 (1 - b + b len / mean len)), written out for one word of one title."""
    lengths = [len(words(title)) for title in TITLES]
    idf = math.log(1 + (len(TITLES) - 2 + 0.5) / (2 + 0.5))
    expected = idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * lengths[0] / np.mean(lengths)))
    found = match.features("heat", np.array([0], np.int32))[0, match.columns.index("bm25_title")]
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_film_that_is_named_matches_best(match):
    at = {name: match.columns.index(name) for name in ("same_title", "letters_title", "names", "number_told")}
    found = match.features("aliens anna actor3 1983", ALL_ROWS)
    assert found[:, at["names"]].argmax() == found[:, at["number_told"]].argmax() == 1 + TITLES.index("Aliens")
    assert match.features("allien", ALL_ROWS)[:, at["letters_title"]].argmax() == 1 + TITLES.index("Alien")
    assert match.features("The HEAT", ALL_ROWS)[:, at["same_title"]].tolist() == [row == 1 for row in ALL_ROWS]


@settings(max_examples=40, deadline=None)
@given(query=st.text(max_size=40))
def test_features_of_any_query_are_finite_and_an_unknown_item_matches_nothing(match, query):
    found = match.features(query, ALL_ROWS)
    assert found.shape == (len(ALL_ROWS), len(match.columns)) and np.isfinite(found).all()
    assert found[0, : match.columns.index("query_words")].max() == pytest.approx(0, abs=1.01)
    assert found[0, match.columns.index("bm25_all")] == 0


@pytest.mark.parametrize("price", [math.nan, math.inf, -math.inf, None, "cheap", -3.5])
def test_a_price_that_is_no_number_counts_as_unknown(price):
    documents = read_documents([a_row("1", price=None) | {"price": price}], FIELDS)
    assert np.isfinite(TextMatch(documents).features("heat", np.array([0], np.int32))).all()


def test_ndcg_by_hand_and_lists_without_a_positive_count_zero():
    lists = judged(["heat", "up"], [0, 4])  # the answers stand first and second
    assert ndcg(lists, np.array([1, 0, 0, 0, 1, 0.5, 0, 0])).tolist() == pytest.approx([1, 1 / math.log2(3)])
    lists.grade[:4] = 0
    assert ndcg(lists, np.zeros(8)).tolist() == pytest.approx([0, 1 / math.log2(3)])
