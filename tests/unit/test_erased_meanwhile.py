"""A user is erased while a step runs that read the old rows: nothing that names the user is left, whoever ends first."""

from __future__ import annotations

import json

import pytest

from tasks.adapters.erasures import DONE, ERASED, erased_users
from tasks.adapters.store import MemoryStore
from tasks.domain.erasure import erasure_id
from tasks.domain.errors import Unavailable
from tasks.erasure.taint import built_from
from tasks.erasure.view_without import leave_out_of_view, publish_view, view_digests
from tasks.run import Step, run
from tasks.settings import Settings
from tests.behaviour_builders import FIRST, HookedStore, die, holders
from tests.erasure_builders import ask
from tests.view_builders import ANNA, BERT, a_view

RECORD = f"{ERASED}{erasure_id(ANNA)}.json"


def erase(store) -> None:
    """What the command does with runs and views: its record first, then what there is, then that it ended."""
    ask(store, ANNA)
    for view in view_digests(store):
        leave_out_of_view(store, view, erased_users(store))
    for key in built_from(store, ANNA, FIRST).objects:
        store.delete(key)
    store.replace(f"{ERASED}{erasure_id(ANNA)}{DONE}", b"{}")


def naming(*users, meanwhile=lambda store: None) -> Step:
    """A step whose output names the users that it read before `meanwhile`."""

    def execute(call):
        meanwhile(call.store)
        (call.out / "names.json").write_text(json.dumps(users))
        return {}

    return Step("build_dataset", (), execute)


def test_a_step_that_read_the_user_before_the_erasure_is_taken_back_and_a_retry_goes_on(tmp_path):
    store, settings = MemoryStore(), Settings(home=tmp_path)
    with pytest.raises(Unavailable, match="somebody was erased while build_dataset ran"):
        run(naming(ANNA, BERT, meanwhile=erase), FIRST, {}, settings, store=store)
    assert holders(store, ANNA) == [RECORD] and store.list("runs/") == []
    assert not [path for path in settings.data.rglob("*") if path.is_file() and ANNA in path.read_text()]
    assert run(naming(BERT), FIRST, {}, settings, store=store)


def test_a_step_that_names_others_only_is_not_disturbed(tmp_path):
    store = MemoryStore()
    assert run(naming(BERT, meanwhile=erase), FIRST, {}, Settings(home=tmp_path), store=store)


def test_an_erasure_at_any_change_of_a_step_leaves_nothing_that_names_the_user(tmp_path):
    counting = HookedStore(0, die)
    run(naming(ANNA), FIRST, {}, Settings(home=tmp_path / "whole"), store=counting)
    for at in range(1, counting.changes + 1):
        store = HookedStore(at, erase)
        try:
            run(naming(ANNA), FIRST, {}, Settings(home=tmp_path / str(at)), store=store)
        except Unavailable:
            pass
        assert holders(store, ANNA) == [RECORD]


def test_an_erasure_at_any_change_of_publishing_a_view_leaves_it_without_the_user(tmp_path):
    digest, counting = a_view(tmp_path / "made"), HookedStore(0, die)
    publish_view(counting, digest, tmp_path / "made")
    for at in range(1, counting.changes + 1):
        store = HookedStore(at, erase)
        publish_view(store, digest, tmp_path / "made")
        assert holders(store, ANNA) == [RECORD]
