"""A view without an erased user: the same name, everybody else as before, and whole for whoever opens it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks.adapters.releases import delete_before, fetch, publish
from tasks.adapters.store import MemoryStore
from tasks.domain.errors import InputRejected
from tasks.erasure.view_without import (
    holds,
    leave_out_of_directory,
    leave_out_of_view,
    view_digests,
    view_without,
)
from tasks.ranker.state import HISTORY_FIELDS, View
from tasks.serving.release import verify_view
from tests.behaviour_builders import HookedStore, die, holders
from tests.view_builders import ANNA, BERT, a_view


def a_store(tmp_path: Path) -> tuple[MemoryStore, str]:
    store, digest = MemoryStore(), a_view(tmp_path / "made")
    publish(store, "views", digest, tmp_path / "made")
    return store, digest


def users_of(view: Path) -> set[str]:
    return set(View(view).user_ids)


def same(one: View, other: View, user: str) -> bool:
    a, b = one.get(user), other.get(user)
    return a is not None and b is not None and all((getattr(a, f) == getattr(b, f)).all() for f in HISTORY_FIELDS)


def test_everybody_else_is_as_before_and_the_release_still_finds_its_view(tmp_path):
    digest = a_view(tmp_path / "before")
    view_without(tmp_path / "before", {ANNA}, tmp_path / "after")
    before, after = View(tmp_path / "before"), View(tmp_path / "after")
    assert after.get(ANNA) is None and before.get(ANNA) is not None
    assert after.user_ids == [user for user in before.user_ids if user != ANNA]
    assert all(same(before, after, user) for user in after.user_ids)
    assert after.items_digest == before.items_digest
    assert verify_view(tmp_path / "after", digest).users == 3
    assert (tmp_path / "after" / "schema.json").read_text() == "{}"


def test_a_view_of_nobody_else_becomes_an_empty_view(tmp_path):
    digest = a_view(tmp_path / "before")
    view_without(tmp_path / "before", users_of(tmp_path / "before"), tmp_path / "after")
    assert len(View(tmp_path / "after")) == 0 and verify_view(tmp_path / "after", digest)


def test_the_published_view_is_fetched_without_the_user_and_its_first_bytes_are_gone(tmp_path):
    store, digest = a_store(tmp_path)
    assert view_digests(store) == [digest] and holds(store, digest, {ANNA})
    assert leave_out_of_view(store, digest, {ANNA})
    assert holders(store, ANNA) == [] and not holds(store, digest, {ANNA})
    fetched = fetch(store, "views", digest, tmp_path / "fetched")
    assert verify_view(fetched, digest) and ANNA not in users_of(fetched) and BERT in users_of(fetched)
    before = dict(store._objects)
    assert leave_out_of_view(store, digest, {ANNA}) == [] and store._objects == before
    publish(store, "views", digest, tmp_path / "made")  # package runs once more: the user stays out
    assert store._objects == before


def test_killed_at_any_change_the_view_can_be_fetched_and_the_next_run_ends_alike(tmp_path):
    made, digest = a_store(tmp_path)
    whole = HookedStore(0, die, made._objects)
    leave_out_of_view(whole, digest, {ANNA})
    for k in range(1, whole.changes + 1):
        store = HookedStore(k, die, made._objects)
        with pytest.raises(KeyboardInterrupt):
            leave_out_of_view(store, digest, {ANNA})
        verify_view(fetch(store, "views", digest, tmp_path / f"fetched-{k}"), digest)
        leave_out_of_view(store, digest, {ANNA})
        assert store._objects == whole._objects


@pytest.mark.parametrize("other", [{ANNA}, {ANNA, BERT}], ids=["the same user", "another user too"])
def test_another_erasure_at_any_change_ends_alike(tmp_path, other):
    made, digest = a_store(tmp_path)
    counting = HookedStore(0, die, made._objects)
    leave_out_of_view(counting, digest, {ANNA})
    for k in range(1, counting.changes + 1):
        store = HookedStore(k, lambda store: leave_out_of_view(store, digest, other), made._objects)
        leave_out_of_view(store, digest, {ANNA})
        leave_out_of_view(store, digest, other)
        assert not any(holders(store, user) for user in other)
        fetched = fetch(store, "views", digest, tmp_path / f"fetched-{k}")
        assert verify_view(fetched, digest) and not users_of(fetched) & other


def test_the_directory_of_a_replica_is_swapped_whole_and_what_it_mapped_stays_readable(tmp_path):
    digest = a_view(tmp_path / "views" / "one")
    mapped = View(tmp_path / "views" / "one")
    assert leave_out_of_directory(tmp_path / "views" / "one", {ANNA})
    assert not leave_out_of_directory(tmp_path / "views" / "one", {ANNA})
    assert mapped.get(BERT) is not None
    assert verify_view(tmp_path / "views" / "one", digest) and View(tmp_path / "views" / "one").get(ANNA) is None
    assert [path.name for path in (tmp_path / "views").iterdir()] == ["one"]


def test_a_view_of_another_revision_that_is_damaged_is_named(tmp_path):
    store, digest = a_store(tmp_path)
    leave_out_of_view(store, digest, {ANNA})
    store.replace(f"views/{digest}-000002.json", json.dumps({"digest": digest}).encode())
    with pytest.raises(InputRejected, match=rf"views/{digest}-000002\.json is not a release manifest"):
        fetch(store, "views", digest, tmp_path / "fetched")


def test_deleting_what_is_named_no_more_leaves_a_view_of_one_revision_alone(tmp_path):
    store, digest = a_store(tmp_path)
    assert delete_before(store, digest) == []
    shutil.rmtree(tmp_path / "made")
    assert fetch(store, "views", digest, tmp_path / "fetched").exists()
