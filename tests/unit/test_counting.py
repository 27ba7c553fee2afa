"""Counting by codes, held against the simple way of saying the same."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from expectations.coded import Coded, among
from expectations.past import Past, Seen, median_of_rows, sorted_hashes
from expectations.reference import ITEM_COLUMNS

WORDS = st.lists(st.sampled_from(["a", "b", "", "ü", None]), max_size=40)
NUMBERS = st.lists(st.one_of(st.none(), st.integers(-8, 24)), max_size=40)


def categories(words):
    return pl.Series("word", words, pl.String).cast(pl.Categorical(pl.Categories.random()))


def grouped(frame, *by):
    return sorted(frame.drop_nulls().group_by(*by).len().iter_rows())


@given(words=WORDS)
def test_text_and_categories_are_counted_as_a_group_by_counts_them(words):
    frame = pl.DataFrame({"word": words}, {"word": pl.String})
    for column in (frame["word"], categories(words)):
        assert sorted(Coded.column(column).counts().items()) == grouped(frame, "word")


@given(numbers=NUMBERS)
def test_numbers_are_counted_under_their_names(numbers):
    frame = pl.DataFrame({"n": numbers}, {"n": pl.Int32})
    assert sorted(Coded.numbers(frame["n"]).counts().items()) == grouped(frame.cast(pl.String), "n")


@given(pairs=st.lists(st.tuples(st.sampled_from("abc") | st.none(), st.sampled_from("xyz") | st.none()), max_size=40))
def test_pairs_and_different_values_are_those_of_a_group_by(pairs):
    frame = pl.DataFrame(pairs, {"one": pl.String, "other": pl.String}, orient="row")
    one, other = Coded.column(frame["one"]), Coded.column(frame["other"])
    told = [(value, kind, rows) for value, kinds in one.by(other).items() for kind, rows in kinds.items()]
    assert told == grouped(frame, "one", "other")
    assert sorted(one.different(other).items()) == grouped(frame.unique().drop_nulls(), "one")


def test_categories_that_no_row_has_any_more_are_not_counted():
    some = categories(["a", "b", "c", "b"]).filter(pl.Series([True, False, True, False]))
    assert Coded.column(some).counts() == {"a": 1, "c": 1}


@given(words=WORDS)
def test_among_is_is_in_for_text_and_for_categories(words):
    wanted = pl.Series(["a", "ü", "never seen"])
    expected = [word in ("a", "ü") for word in words]
    assert among(pl.Series(words, dtype=pl.String), wanted).to_list() == expected
    assert among(categories(words), wanted).to_list() == expected


def seen(ids):
    return Seen(sorted_hashes(pl.Series(ids, dtype=pl.String)), pl.Series([], dtype=pl.UInt64), np.zeros(0, np.uint64))


@given(
    today=st.lists(st.integers(0, 60).map(str), max_size=30),
    before=st.lists(st.lists(st.integers(0, 60).map(str), max_size=30), max_size=4),
)
def test_ids_of_other_days_are_found_and_no_others(today, before):
    past = Past(28)
    for n, ids in enumerate(before):
        past.remember(f"2017-01-0{n + 1}", len(ids), None, pl.DataFrame(schema=ITEM_COLUMNS), seen(ids))
    again = past.accepted_before("2017-01-10", sorted_hashes(pl.Series(today, dtype=pl.String)))
    expected = {one for one in today if any(one in ids for ids in before)}
    assert set(again) == set(pl.Series(sorted(expected), dtype=pl.String).hash())
    alone = past.accepted_before("2017-01-01", sorted_hashes(pl.Series(today, dtype=pl.String)))
    elsewhere = {one for one in today if any(one in ids for ids in before[1:])}
    assert set(alone) == set(pl.Series(sorted(elsewhere), dtype=pl.String).hash()), (
        "days after it count, it itself does not"
    )


@given(rows=st.lists(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=3, max_size=3), max_size=12))
def test_the_median_of_each_row_is_numpys(rows):
    table = np.array(rows, float).reshape(-1, 3)
    expected = [float(np.median(known)) if len(known := row[~np.isnan(row)]) else float("nan") for row in table]
    np.testing.assert_allclose(median_of_rows(table), expected)
