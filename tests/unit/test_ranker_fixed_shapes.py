"""Graphs of fixed shapes, rows run by length and stages left out change what a request costs, and no score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ranker.features import FEATURES, columns
from tasks.ranker.profile import Profile
from tasks.ranker.rank import LOWEST, RESCORED, Slate, rank_slate, rank_together
from tasks.ranker.runtime import BASE_SHAPES, FULL_SHAPES, OpenVinoScorer, compiled, cut_by_length
from tasks.ranker.state import NOBODY, View
from tasks.ranker.tokens import MAX_TOKENS, TOKEN, tokenise
from tests.serving_builders import ITEMS, WIDTH, a_morning, a_release, write_model

MORNING = a_morning()
PEOPLE = [*list(MORNING.histories.values())[:4], NOBODY]
lengths = st.lists(st.integers(0, MAX_TOKENS), max_size=400)
slates = st.lists(st.integers(-1, ITEMS - 1), min_size=1, max_size=200)


class Plain:
    """The graphs as they were saved, asked once about all rows."""

    def __init__(self, directory: Path) -> None:
        self._base, self._full = (compiled(directory / f"{stage}.xml", 1) for stage in ("base", "full"))

    def base(self, x, item_vec):
        return self._base([x, item_vec])[0]

    def full(self, x, item_vec, tokens, mask):
        return self._full([x, item_vec, tokens, mask])[0]


def plainly(scorer, profile, candidates):
    """Every stage, one after the other, on everything that it may look at."""
    scores = np.full(len(candidates), LOWEST, np.float32)
    known = np.flatnonzero(candidates >= 0)
    rows, ties = candidates[known], np.full(len(candidates), LOWEST)
    if len(rows):
        x, vectors = columns(profile, rows), profile.items.vectors(rows)
        base = scorer.base(x, vectors)
        scores[known] = ties[known] = base
        if len(profile.user.rows):
            best = np.argsort(-base, kind="stable")[:RESCORED]
            full = scorer.full(x[best], vectors[best], *tokenise(profile, rows[best]))
            scores[known] = np.minimum(base, full.min())
            scores[known[best]], ties[known[best]] = full, np.inf
    return np.lexsort((np.arange(len(scores)), -ties, -scores)), scores


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model") / "model"
    write_model(directory)
    return directory


@pytest.fixture(scope="module")
def plain(model: Path) -> Plain:
    return Plain(model)


@pytest.fixture(scope="module")
def fixed(model: Path) -> OpenVinoScorer:
    return OpenVinoScorer(model)


@given(lengths, st.sampled_from([BASE_SHAPES, FULL_SHAPES, ((3, 2), (2, MAX_TOKENS))]))
def test_each_row_is_run_once_in_a_shape_that_holds_it(drawn, shapes):
    drawn = np.array(drawn, np.intp) if shapes != BASE_SHAPES else np.zeros(len(drawn), np.intp)
    calls = cut_by_length(drawn, shapes)
    run = [row for _, at in calls for row in at.tolist()]
    assert sorted(run) == list(range(len(drawn)))
    for (rows, length), at in calls:
        assert 0 < len(at) <= rows and drawn[at].max() <= length
    by_class = np.searchsorted([length for _, length in shapes], drawn)
    alone = sum(-(-int((by_class == n).sum()) // rows) for n, (rows, _) in enumerate(shapes))
    assert len(calls) <= alone, "what is left over costs no call more than it would by itself"


@settings(max_examples=25, deadline=None)
@given(lengths.filter(len), st.integers(0, 2**16))
def test_scores_are_those_of_the_graph_as_it_was_saved(fixed, plain, drawn, seed):
    rng, n = np.random.default_rng(seed), len(drawn)
    x, vectors = (rng.normal(size=(n, width)).astype(np.float32) for width in (len(FEATURES), WIDTH))
    mask = (np.arange(MAX_TOKENS) < np.array(drawn)[:, None]).astype(np.float32)
    tokens = rng.normal(size=(n, MAX_TOKENS, len(TOKEN))).astype(np.float32) * mask[:, :, None]
    np.testing.assert_allclose(fixed.base(x, vectors), plain.base(x, vectors), atol=2e-6)
    np.testing.assert_allclose(
        fixed.full(x, vectors, tokens, mask), plain.full(x, vectors, tokens, mask), rtol=1e-6, atol=5e-6
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(PEOPLE) - 1), slates), min_size=1, max_size=4))
def test_the_cascade_orders_as_every_stage_on_everything_does(fixed, plain, asked):
    profiles = [Profile(MORNING.items, PEOPLE[person], MORNING.items.day) for person, _ in asked]
    rows = [np.array(drawn, np.int32) for _, drawn in asked]
    alone = [rank_slate(fixed, Slate(profile, given)) for profile, given in zip(profiles, rows, strict=True)]
    company = rank_together(
        fixed, [Slate(*one) for one in zip(profiles, rows, strict=True)], [lambda: True] * len(rows)
    )
    for profile, drawn, one, other in zip(profiles, rows, alone, company, strict=True):
        order, scores = plainly(plain, profile, drawn)
        np.testing.assert_array_equal(one.order, other.order)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_allclose(one.scores, scores[one.order], rtol=1e-6, atol=5e-6)
        gaps = np.abs(np.diff(scores[order]))
        if not len(gaps) or gaps.min() > 1e-4:  # no ties, no near ties
            np.testing.assert_array_equal(one.order, order)


def test_every_shape_is_compiled_before_the_first_request(model: Path) -> None:
    scorer = OpenVinoScorer(model)
    scorer.prepare()
    assert {shape for _, shape in scorer._fixed} == {*BASE_SHAPES, *FULL_SHAPES}


def test_a_mapped_view_reads_as_the_file_does(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    _, directory = a_release(tmp_path)
    view, whole = View(directory), load_file(directory / "histories.safetensors")
    assert {name: array.tolist() for name, array in view._arrays.items()} == {n: a.tolist() for n, a in whole.items()}
    one, again = view.get(view.user_ids[3]), view.get(view.user_ids[3])
    assert one is not None and again is not None
    one.rows[:] = 0
    assert again.rows.any(), "a history is a copy: no request can change what the next one reads"


@given(st.lists(st.integers(0, ITEMS - 1), max_size=30), st.integers(-1, 3))
def test_sales_of_a_store_are_those_of_the_whole_catalogue(rows, store):
    items, given = MORNING.items, np.array(rows, np.int32)
    week, month, share = items.sold_at(store, given)
    for told, of_all in zip((week, month), items.store_sales(store), strict=True):
        np.testing.assert_array_equal(told, of_all[given])
        assert told.dtype == np.float32
    assert share == pytest.approx(items.store_sales(store)[1].sum() / items.sales28.sum())
