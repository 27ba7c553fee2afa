"""Exploration: what is shown is a near tie away from what the model said, and its logged chances are those of the draw."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.adapters.store import MemoryStore
from tasks.domain.exploration import MOST_EXPLORED, NEAR, drawn, near_ties
from tasks.domain.merchandising import Cap, Diversity, Merchandising, Pinned, Revision
from tasks.domain.requests import Feedback as FeedbackSent
from tasks.domain.requests import FeedbackEvent, convert_rank
from tasks.ranker.rank import LOWEST
from tasks.serving.asked import Ranking
from tasks.serving.events import Shown, impression_rows
from tasks.serving.explore import explored
from tasks.serving.replica import Replica, ReplicaOptions
from tasks.serving.upload import by_day, parquet_of, read_segment, sealed_segments
from tasks.sources.feedback import Feedback
from tests.serving_builders import ITEMS, a_release, write_secrets

UNKNOWN = float(LOWEST)
TIES = np.array([1, 1, 0, 1, 1, 1, 0], bool)
PAGE = Path(__file__).parents[2] / "docs" / "exploration.md"
falling = st.lists(st.floats(-39, 50, width=32), max_size=12).map(lambda told: sorted(told, reverse=True))


def a_list(told: list[float]) -> Ranking:
    return Ranking([f"item-{place}" for place in range(len(told))], told, "full", True, "memory")


@pytest.mark.parametrize("share", [0.01, MOST_EXPLORED])
def test_logged_chances_are_how_often_it_happens(share: float) -> None:
    lists = [drawn(f"request-{n}", share, TIES) for n in range(40_000)]
    order, chance = (np.stack([one[part] for one in lists]) for part in (0, 1))
    even = chance[:, 0] < 1  # the pair of the first two places is one of an even list
    assert abs(even.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(even))
    seen = 0
    for mine in (even, ~even):
        for place in range(len(TIES) + 1):
            for item in np.unique(order[mine, place]):
                here = order[mine, place] == item
                told = np.unique(chance[mine, place][here])
                assert len(told) == 1, "a list has one chance for an item at a place"
                error = np.sqrt(told[0] * (1 - told[0]) / mine.sum())
                assert abs(here.mean() - told[0]) <= 4 * error, (place, item, here.mean(), told)
                seen += 0 < told[0] < 1
    assert seen == 2 * 2 * 5, "five pairs, each of two items at two places"


@settings(max_examples=100, deadline=None)
@given(near=st.lists(st.booleans(), max_size=9), request_id=st.text(max_size=8), share=st.floats(0, MOST_EXPLORED))
def test_chances_at_a_place_and_of_an_item_add_up_to_one(near: list[bool], request_id: str, share: float) -> None:
    """Over the two lists that a request can get: whatever the coin says, the other list has the rest of the chance."""
    flags = np.array(near, bool)
    here, chance, _ = drawn(request_id, share, flags)
    best, certain, none = drawn(request_id, 0.0, flags)
    assert best.tolist() == list(range(len(near) + 1)) and set(certain) == {1.0} and not none
    other, always, _ = drawn(request_id, 1.0, flags)  # the coin falls on swaps
    pairs = np.flatnonzero(other > best)
    assert all(flags[place] for place in pairs) and len({place % 2 for place in pairs}) <= 1
    in_pair = other != best
    expected = np.where(here == other, share, 1 - share)
    assert chance.tolist() == np.where(in_pair, expected, 1.0).tolist()
    assert sorted(here) == best.tolist()


@settings(max_examples=100, deadline=None)
@given(told=falling, number=st.integers(0, 5_000))
def test_nothing_moves_further_than_a_near_tie(told: list[float], number: int) -> None:
    ranking = a_list(told)
    shown, propensities = explored(ranking, f"r{number}", 1.0, kept=())
    assert sorted(shown.items) == sorted(ranking.items) and len(propensities) == len(told)
    assert shown.scores == sorted(shown.scores, reverse=True)
    spread = told[0] - told[-1] if told else 0
    score_of = dict(zip(ranking.items, told, strict=True))
    for place, item in enumerate(shown.items):
        assert abs(score_of[item] - told[place]) <= NEAR * spread
        assert abs(ranking.items.index(item) - place) <= 1


def test_unknown_items_and_borders_of_rules_stay() -> None:
    told = [3.0, 3.0, 3.0, UNKNOWN, UNKNOWN]
    assert near_ties(told, UNKNOWN).tolist() == [True, True, False, False]
    assert near_ties(told, UNKNOWN, kept=(0, 9)).tolist() == [False, True, False, False]
    assert near_ties([], UNKNOWN).tolist() == near_ties([1.0], UNKNOWN).tolist() == []


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return a_release(tmp_path_factory.mktemp("release"))


def a_replica(release: tuple[Path, Path], home: Path, **rules: Any) -> Replica:
    home.mkdir(exist_ok=True)
    options = {"secrets": write_secrets(home / "secrets.json"), "spool": home / "spool", "deadline_ms": 60_000}
    replica = Replica(ReplicaOptions(release[0], "r1", view=release[1], **options))
    replica.load()
    if rules:
        told = Revision(revision=1, at="", actor="a", reason="r", rules=Merchandising(**rules))
        replica._engine.obey(told)  # type: ignore[union-attr]
    return replica


def ask(replica: Replica, request_id: str, shadow: bool = False, **body: Any) -> list[str]:
    request = convert_rank({"surface": "recommendation", "k": 20} | body)
    call = replica.open_call(request, request_id, shadow, 0.0)
    return [item.item_id for item in replica.answered(call, replica.worker.run(call.job)).items]


def landed(home: Path) -> pl.DataFrame:
    rows = [row for path in sealed_segments(home / "spool", "", 0) for row in read_segment(path)]
    tables = [pq.read_table(pa.BufferReader(parquet_of(part))) for part in by_day(rows).values()]
    return pl.concat([pl.from_arrow(table) for table in tables])  # type: ignore[misc]


def test_shown_lists_are_landed_with_the_chances_of_their_places(release: tuple[Path, Path], tmp_path: Path) -> None:
    replica = a_replica(release, tmp_path, explored=MOST_EXPLORED)
    lists = {f"q{n}": ask(replica, f"q{n}") for n in range(300)}
    model = ask(replica, "copy", shadow=True)
    moved = [request for request, items in lists.items() if items != model]
    assert 0 < len(moved) < 40, "about one list in twenty"
    again = {request: ask(replica, request) for request in moved}
    assert again == {request: lists[request] for request in moved}, "a request that is sent again gets the same list"
    assert {ask(replica, request, shadow=True) == model for request in moved} == {True}, (
        "a copy says what the model says"
    )
    flags = {one.request_id: one.explored for one in replica.served.after(0) if not one.shadow}
    assert {request for request, flag in flags.items() if flag} == set(moved)
    assert replica.slate(moved[0]).items == lists[moved[0]]  # type: ignore[union-attr]
    assert b"freshrank_explored_total %d.0" % (2 * len(moved)) in replica.metrics.text()
    replica.close()
    shown = landed(tmp_path).sort("request_id", "position")
    assert set(shown["request_id"]) == set(lists)
    for (request,), rows in shown.group_by("request_id"):
        assert rows["item_id"].to_list() == lists[str(request)]
        open_ = {MOST_EXPLORED} if request in moved else {1 - MOST_EXPLORED}
        assert set(rows["propensity"]) - {1.0} <= open_
        at_other_places = [a != b for a, b in zip(rows["item_id"], model, strict=True)]
        assert [p == MOST_EXPLORED for p in rows["propensity"]] == at_other_places


def test_without_a_share_lists_and_what_is_landed_are_as_before(release: tuple[Path, Path], tmp_path: Path) -> None:
    plain, ruled = a_replica(release, tmp_path / "a"), a_replica(release, tmp_path / "b", blocked=["nobody"])
    assert [ask(plain, f"q{n}") for n in range(40)] == [ask(ruled, f"q{n}") for n in range(40)]
    for replica in (plain, ruled):
        replica.close()
    lines = [b"".join(p.read_bytes() for p in sealed_segments(tmp_path / one / "spool", "", 0)) for one in "ab"]
    assert b"propensit" not in b"".join(lines)
    assert landed(tmp_path / "a")["propensity"].null_count() == 40 * 20
    before = msgspec.json.encode({"at": "", "request_id": "q", "release": "r", "surface": "search", "query": None,
                                  "user_id": "u", "shown": ["a"], "scores": [1.0]})  # fmt: skip
    assert msgspec.json.encode(Shown("", "q", "r", "search", None, "u", ["a"], [1.0])) == before
    assert impression_rows(msgspec.json.decode(before))[0]["propensity"] is None


def test_pins_stay_on_top_and_caps_are_kept_whatever_is_drawn(release: tuple[Path, Path], tmp_path: Path) -> None:
    replica = a_replica(release, tmp_path)
    rules = {"pinned": [Pinned(items=("item-007", "item-003"))], "caps": [Cap(by="brand", most=2, first=10)]}
    replica._engine.obey(  # type: ignore[union-attr]
        Revision(revision=1, at="", actor="a", reason="r", rules=Merchandising(explored=MOST_EXPLORED, **rules))
    )
    lists = {tuple(ask(replica, f"q{n}")) for n in range(200)}
    replica.close()
    assert len(lists) > 2
    for items in lists:
        assert items[:2] == ("item-007", "item-003")
        brands = [int(item[-3:]) % 7 for item in items[:10]]
        assert all(brands.count(brand) <= 2 for brand in brands)


def test_a_list_that_diversity_arranged_is_not_explored(release: tuple[Path, Path], tmp_path: Path) -> None:
    """Its scores are levelled: what looks like a tie need not be one."""
    replica = a_replica(release, tmp_path, explored=MOST_EXPLORED, diversity=Diversity(weight=0.9, first=10))
    assert len({tuple(ask(replica, f"q{n}")) for n in range(100)}) == 1
    replica.close()
    assert set(landed(tmp_path)["propensity"]) == {1.0}


def test_a_share_above_five_percent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"explored[\s\S]*less than or equal to 0.05"):
        Merchandising(explored=0.06)


def test_an_impression_of_the_caller_s_own_does_not_hide_the_chance(release: tuple[Path, Path], tmp_path: Path) -> None:
    """Two segments and one event id: whichever comes first in the store, the row that knows its propensity counts."""
    replica = a_replica(release, tmp_path, explored=MOST_EXPLORED)
    items = ask(replica, "q", user_id="user-1")
    seen = FeedbackSent(request_id="q", events=[FeedbackEvent(items[0], "impression")], user_id="user-1")
    rows, _ = replica.open_feedback(seen)
    replica.close()
    served = [row for path in sealed_segments(tmp_path / "spool", "", 0) for row in read_segment(path)]
    day = served[0]["event_time"][:10]
    assert rows[0]["event_id"] == served[0]["event_id"]
    for own in (parquet_of([*rows, *served]), parquet_of([*served, *rows])):  # in one segment
        assert pl.from_arrow(pq.read_table(pa.BufferReader(own)))["propensity"].null_count() == 0  # type: ignore[index]
    store = MemoryStore()
    for name, part in (("a", rows), ("b", served)):
        store.put_new(f"feedback/dt={day}/{name * 12}-r1-0-00000.parquet", parquet_of(part))
    events = pl.from_arrow(Feedback(store, day, "k1", "9999-01-01").events(day))
    assert len(events) == len(items)
    assert events["propensity"].null_count() == 0  # type: ignore[index]


def test_the_page_s_example_finds_the_looks_that_were_planted(tmp_path: Path) -> None:
    """The code of docs/exploration.md, run on lists and clicks whose truth is known."""
    rng, places = np.random.default_rng(3), 6
    look, near = 1 / (1 + np.arange(places)), np.ones(places - 1, bool)
    like = rng.uniform(0.2, 1.0, ITEMS)
    rows = []
    for n in range(30_000):
        request, best = f"r{n}", np.sort(rng.choice(ITEMS, places, replace=False))  # the shop ranks by item number
        order, chance, _ = drawn(request, MOST_EXPLORED, near)
        for place, item in enumerate(best[order].tolist()):
            shown = {"event_id": f"{n}-{item}", "request_id": request, "item_id": str(item), "position": place}
            rows.append(shown | {"event_type": "impression", "propensity": float(chance[place])})
            if rng.random() < look[place] * like[item]:
                rows.append(shown | {"event_id": f"{n}-{item}c", "event_type": "click", "propensity": None})
    (tmp_path / "feedback" / "dt=2026-11-29").mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(tmp_path / "feedback" / "dt=2026-11-29" / "a.parquet")
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    told: dict[str, Any] = {}
    exec(code.replace("feedback/dt=", f"{tmp_path}/feedback/dt="), told)
    found = dict(told["looks"].select("place", "look_against_the_place_above").iter_rows())
    for above, below in pairwise(range(places)):
        assert found[below] == pytest.approx(look[below] / look[above], rel=0.2), (below, found)
