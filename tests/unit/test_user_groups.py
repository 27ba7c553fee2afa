"""Fairness slices know the users' attributes by pseudonym, and a champion knows what served before it."""

from __future__ import annotations

import pyarrow as pa

from tasks.adapters.store import MemoryStore
from tasks.adapters.user_groups import user_groups, users_digest
from tasks.domain.behaviour import pseudonym
from tasks.domain.champion import read_champion
from tasks.resolve_champion import resolve_champion
from tests.behaviour_builders import FIRST, KEY
from tests.erasure_builders import ANNA, SECOND, a_source, a_store


def test_texts_and_yes_or_no_are_groups_numbers_and_nulls_are_not():
    source = a_source()
    source.user_table = pa.table(
        {
            "user_id": ["user-7", "user-8"],
            "age": ["45-54", None],
            "member": [True, False],
            "kids": [2, 0],
        }
    )
    store = a_store(source)
    assert user_groups(store, SECOND) == {
        ANNA: {"age": "45-54", "member": "True"},
        pseudonym("user-8", KEY): {"member": "False"},
    }
    assert users_digest(store, SECOND) is not None
    assert user_groups(store, "2000-01-01") == {}, "no day was accepted by then"


def test_a_source_without_a_user_table_has_no_groups():
    source = a_source()
    source.user_table = None
    assert user_groups(a_store(source), FIRST) == {} == user_groups(MemoryStore(), FIRST)


def test_the_release_before_the_champion_is_pinned_with_it(tmp_path):
    meta = {"view": "v", "train_end": "2017-06-01", "state_through": "2017-06-01", "weights_digest": "w2"}
    status = {"champion": {"digest": "b"}, "previous": {"digest": "a"}}
    resolve_champion(status, meta, tmp_path, meta | {"weights_digest": "w1"})
    found = read_champion(tmp_path)
    assert (found.release, found.previous, found.previous_weights_digest) == ("b", "a", "w1")
    resolve_champion({"champion": {"digest": "b"}}, meta, tmp_path)
    assert read_champion(tmp_path).previous is None
