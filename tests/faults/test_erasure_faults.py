"""An erasure that is killed, overtaken, or met by an ingest at any of its changes: days stay whole, the end is the same."""

from __future__ import annotations

import pytest

from tasks.adapters.erasures import ERASED, erased_users, leave_out
from tasks.adapters.partitions import landed_days, read_partition
from tasks.ingest import ingest
from tests.behaviour_builders import FIRST, KEY, KEY_ID, HookedStore, die, holders
from tests.erasure_builders import ANNA, BERT, SECOND, THIRD, a_source, a_store, ask, days_of


def test_killed_before_any_change_every_day_is_whole_and_the_next_run_ends_alike():
    objects, start = a_store()._objects, days_of(a_store())
    whole = HookedStore(0, die, objects)
    leave_out(whole, {ANNA})
    end = days_of(whole)
    assert whole.changes > 12
    for k in range(1, whole.changes + 1):
        store = HookedStore(k, die, objects)
        with pytest.raises(KeyboardInterrupt):
            leave_out(store, {ANNA})
        now = days_of(store)
        assert all(now[day][0] in (start[day][0], end[day][0]) for day in now)
        assert all(now[day][3:] in (start[day][3:], end[day][3:]) for day in (FIRST, SECOND))
        leave_out(store, {ANNA})
        assert store._objects == whole._objects


@pytest.mark.parametrize("other", [ANNA, BERT], ids=["the same user", "another user"])
def test_another_erasure_that_runs_to_its_end_before_any_change_ends_alike(other):
    def overtake(store):
        leave_out(store, erased_users(store) | {other})

    objects = a_store()._objects
    whole = HookedStore(0, overtake, objects)
    ask(whole, ANNA, other)
    leave_out(whole, {ANNA, other})
    for k in range(2, whole.changes):
        store = HookedStore(k, overtake, objects)
        ask(store, ANNA)
        leave_out(store, {ANNA})
        assert set(holders(store, ANNA)) <= set(store.list(ERASED))
        leave_out(store, {ANNA, other})
        assert days_of(store) == days_of(whole)


def test_an_erasure_during_ingest_reaches_the_days_that_land_meanwhile():
    def erase(store):
        ask(store, ANNA)
        leave_out(store, {ANNA})

    whole = HookedStore(0, erase)
    ingest(a_source(), whole, THIRD, KEY, KEY_ID)
    for k in range(1, whole.changes + 1):
        store = HookedStore(k, erase)
        ingest(a_source(), store, THIRD, KEY, KEY_ID)
        assert holders(store, ANNA) == store.list(ERASED)
        assert [read_partition(store, day).events.num_rows for day in landed_days(store)] == [144, 144, 144]
