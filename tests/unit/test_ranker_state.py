"""States and histories on disk and in bytes: what is read is what was written."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.domain.errors import InputRejected
from tasks.ranker.features import featurise
from tasks.ranker.retrieve import similar_to
from tasks.ranker.state import (
    HISTORY_FIELDS,
    NOBODY,
    VIEW_VERSION,
    ItemState,
    UserHistory,
    View,
    pack_user,
    save_view,
    unpack_user,
)
from tests.ranker_builders import DAY, a_builder, a_log, stocked

LINES = [(DAY - 20, 0, 0), (DAY - 4, 0, 1), (DAY - 4, 1, 5), (DAY - 3, 1, 0), (DAY - 2, 2, 7)]


@pytest.fixture(scope="module")
def morning():
    return a_builder(a_log(stocked(LINES))).morning(DAY)


def named(morning):
    return {f"{user:064x}": history for user, history in morning.histories.items()}


def same(one: UserHistory, other: UserHistory) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in HISTORY_FIELDS)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_a_packed_history_unpacks_to_itself(events, similar, seed):
    rng = np.random.default_rng(seed)
    user = UserHistory(
        rows=rng.integers(0, 99, events).astype(np.int32),
        days=np.sort(rng.integers(0, 99, events)).astype(np.int32),
        quantity=rng.random(events, np.float32),
        price=rng.random(events, np.float32),
        discounted=rng.integers(0, 2, events).astype(np.float32),
        store=np.array([rng.integers(-1, 9)], np.int32),
        cf_rows=np.sort(rng.integers(0, 99, similar)).astype(np.int32),
        cf_scores=rng.random((similar, 1), np.float32),
    )
    assert same(unpack_user(pack_user(user)), user)


def test_a_saved_state_gives_the_same_features(morning, tmp_path):
    morning.items.save(tmp_path)
    loaded = ItemState.load(tmp_path)
    for field in fields(ItemState):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(morning.items, field.name))
    assert loaded.digest == morning.items.digest
    rows = np.arange(loaded.size, dtype=np.int32)
    before, after = (featurise(items, morning.histories[0], rows) for items in (morning.items, loaded))
    np.testing.assert_array_equal(before.x, after.x)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_view_answers_each_user_alone(morning, tmp_path):
    save_view(tmp_path, morning.items, named(morning))
    view = View(tmp_path)
    assert view.items_digest == morning.items.digest
    assert len(view) == len(morning.histories)
    for user, history in named(morning).items():
        assert same(view.get(user), history)
    assert view.get("nobody") is None


def test_a_view_without_users_can_be_written_and_read(morning, tmp_path):
    save_view(tmp_path, morning.items, {})
    assert len(View(tmp_path)) == 0


def test_a_view_of_another_version_is_refused(morning, tmp_path):
    save_view(tmp_path, morning.items, named(morning))
    users = tmp_path / "users.json"
    users.write_text(users.read_text().replace(f'"version":{VIEW_VERSION}', '"version":99'))
    with pytest.raises(InputRejected, match="version 99"):
        View(tmp_path)


def test_another_catalogue_is_another_numbering(morning):
    other = a_builder(a_log(stocked([*LINES, (DAY - 1, 2, 3)], items=11))).morning(DAY)
    assert other.items.digest != morning.items.digest


def test_nobody_is_empty():
    assert len(NOBODY.rows) == len(NOBODY.cf_rows) == 0 and NOBODY.store.tolist() == [-1]


def test_an_item_is_as_similar_to_a_query_as_its_text_and_one_without_text_not_at_all(morning):
    items = morning.items
    text = items.text.copy()
    text[[1, 3]] = -1, text[0]  # one without a text, two that share one
    items, query = replace(items, text=text), items.text_vectors[4].astype(np.float32)
    every = np.arange(items.size, dtype=np.int32)
    assert np.allclose(items.similarity(query), items.vectors(every) @ query, atol=1e-6)
    assert items.similarity(query)[1] == 0 and items.similarity(query)[3] == items.similarity(query)[0]
    assert similar_to(items, query, 3)[0] == 4 and len(similar_to(items, query, 99)) == items.size
