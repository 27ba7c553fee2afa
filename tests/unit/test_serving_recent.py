"""A purchase just made counts in the next request, once, under the view that it was told to, and under no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.domain.errors import Unavailable
from tasks.ranker.state import ItemState, UserHistory, history_from_events
from tasks.ranker.state import View as Snapshot
from tasks.serving.metrics import Metrics
from tasks.serving.online_store import MemoryOnlineStore
from tasks.serving.recent import Purchase, Recorder, packed, purchases_of, unpacked, with_purchases
from tasks.serving.user_view import UserView
from tests.serving_builders import DAY, a_morning, a_release

VIEW, OTHER, ANNA = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture(scope="module")
def items() -> ItemState:
    return a_morning().items


def bought(*names: str, value: float | None = 2.0) -> dict[str, Purchase]:
    return {f"e-{name}": Purchase(name, "2017-07-01T09:00:00+00:00", value) for name in names}


def items_of(items: ItemState, user: UserHistory | None) -> list[str]:
    return [items.ids[row] for row in user.rows.tolist()] if user is not None else []


def test_the_next_request_counts_it_and_an_event_counts_once(items: ItemState) -> None:
    users = UserView(VIEW, None, None, items=items)
    assert users.find(ANNA) == (None, "unknown")
    for _ in range(2):
        users.heard(ANNA, bought("item-003"))
    user, source = users.find(ANNA)
    assert (items_of(items, user), source) == (["item-003"], "recent")
    assert user is not None and user.quantity.tolist() == [1.0]
    assert users.find(ANNA)[0] is user, "nothing new: the same object, so what was counted of it is kept"
    users.heard(ANNA, bought("item-003", "item-009"))
    assert items_of(items, users.find(ANNA)[0]) == ["item-003", "item-009"]


def test_it_is_found_by_other_replicas_of_this_view_and_not_under_another(items: ItemState) -> None:
    online, metrics = MemoryOnlineStore(), Metrics("d", "r1")
    recorder = Recorder(VIEW, online, metrics)
    recorder.put(ANNA, bought("item-005"))
    recorder.close()
    assert items_of(items, UserView(VIEW, None, online, items=items).find(ANNA)[0]) == ["item-005"]
    assert UserView(OTHER, None, online, items=items).find(ANNA) == (None, "unknown")
    assert 'freshrank_recent_purchases_total{outcome="written"} 1.0' in metrics.text().decode()
    online.forget([VIEW], [ANNA])
    assert UserView(VIEW, None, online, items=items).find(ANNA) == (None, "unknown")


def test_a_store_that_fails_loses_nothing_here(items: ItemState) -> None:
    class Down(MemoryOnlineStore):
        def add_recent(self, *arguments: object) -> None:
            raise Unavailable("down")

    recorder = Recorder(VIEW, Down(), metrics := Metrics("d", "r1"))
    recorder.put(ANNA, bought("item-005"))
    recorder.close()
    assert 'freshrank_recent_purchases_total{outcome="failed"} 1.0' in metrics.text().decode()


def test_rows_of_feedback_are_purchases_of_known_people_only() -> None:
    row = {"event_id": "e", "event_time": "2017-07-01T09:00:00+00:00", "item_id": "item-001", "value": 1.0}
    rows = [
        {**row, "event_type": "purchase", "user_id": ANNA},
        {**row, "event_type": "click", "user_id": ANNA, "event_id": "f"},
        {**row, "event_type": "purchase", "user_id": None, "event_id": "g"},
    ]
    assert purchases_of(rows) == {ANNA: {"e": Purchase("item-001", row["event_time"], 1.0)}}


def test_what_is_no_purchase_counts_for_nothing() -> None:
    told = bought("item-001")
    assert unpacked({**packed(told), "x": b"\xff", "y": b"[1]"}) == told


lines = st.lists(
    st.tuples(st.integers(0, 59), st.integers(1, 40), st.floats(0.5, 9, width=32)), min_size=1, max_size=12
)


@given(before=lines, since=lines)
def test_added_purchases_make_the_history_that_all_of_them_make(
    items: ItemState, before: list[tuple[int, int, float]], since: list[tuple[int, int, float]]
) -> None:
    def events(told: list[tuple[int, int, float]]) -> list[dict[str, object]]:
        return [
            {"item_id": f"item-{item:03d}", "event_time": f"2017-0{5 + day // 31}-{1 + day % 30:02d}T12:00:00+00:00",
             "value": value}
            for item, day, value in told
        ]  # fmt: skip

    purchases = {str(n): Purchase(e["item_id"], e["event_time"], e["value"]) for n, e in enumerate(events(since))}
    added = with_purchases(items, history_from_events(items, events(before)), purchases)
    whole = history_from_events(items, events(before + since))
    assert added is not None
    for name in ("rows", "days", "quantity", "price", "discounted"):
        np.testing.assert_allclose(getattr(added, name), getattr(whole, name), rtol=1e-5, err_msg=name)
        assert getattr(added, name).dtype == getattr(whole, name).dtype
    assert (added.days < DAY).all(), "what is not known this morning counts as yesterday's"


def test_a_history_keeps_what_purchases_do_not_say(items: ItemState, tmp_path: Path) -> None:
    view = Snapshot(a_release(tmp_path)[1])
    user = view.get(view.user_ids[0])
    assert user is not None
    added = with_purchases(items, user, bought("item-004"))
    assert added is not None and added.cf_rows is user.cf_rows and added.store is user.store
    assert with_purchases(items, user, bought("no-such-item")) is user
    assert with_purchases(items, None, bought("no-such-item")) is None
