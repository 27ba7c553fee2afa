"""Merchandising rules: what may not be shown is never shown, by any path of the engine, and nothing else is lost."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.adapters import merchandising
from tasks.adapters.store import MemoryStore
from tasks.controller import rules
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.manifest import canonical_json
from tasks.domain.merchandising import Cap, Merchandising, Pinned, Revision, read_rules, write_rules
from tasks.domain.requests import convert_rank
from tasks.ranker.rank import Ranking
from tasks.serving.asked import Asked
from tasks.serving.engine import Engine
from tasks.serving.merchandise import Merchandiser, Watch, capped, path_of, revisions
from tasks.serving.release import verify
from tasks.settings import Settings
from tests.serving_builders import ITEMS, a_release

IDS = [f"item-{n:03d}" for n in range(ITEMS)]
some_items = st.lists(st.sampled_from([*IDS, "unknown"]), max_size=20, unique=True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    src, view = a_release(tmp_path_factory.mktemp("release"))
    return Engine.open(verify(src), view)


def obeying(engine: Engine, revision: int = 1, **rules: Any) -> Engine:
    engine.obey(Revision(revision=revision, at="", actor="a", reason="r", rules=Merchandising(**rules)))
    return engine


def asked(surface: str = "recommendation", **more: Any) -> Any:
    return convert_rank({"surface": surface, **more})


@settings(max_examples=60, deadline=None)
@given(
    candidates=some_items.filter(bool),
    blocked=some_items,
    gone=some_items,
    first=some_items.filter(bool),
    most=st.integers(1, 3),
)
def test_of_given_candidates_all_come_back_but_the_hidden_ones(
    engine: Engine, candidates: list[str], blocked: list[str], gone: list[str], first: list[str], most: int
) -> None:
    rules = {
        "blocked": blocked,
        "unavailable": gone,
        "pinned": [Pinned(items=tuple(first))],
        "caps": [Cap(by="brand", most=most, first=5)],
    }
    ranking = obeying(engine, **rules).rank(asked(candidates=candidates))
    shown = set(candidates) - set(blocked) - set(gone)
    assert sorted(ranking.items) == sorted(shown)
    on_top = [item for item in first if item in shown]
    assert ranking.items[: len(on_top)] == on_top
    assert np.isfinite(ranking.scores).all()
    assert ranking.scores == sorted(ranking.scores, reverse=True)


def test_a_blocked_item_leaves_no_gap_in_what_is_retrieved(engine: Engine) -> None:
    engine.merchandiser = None
    best = engine.rank(asked(k=10)).items
    ranking = obeying(engine, blocked=best[:3]).rank(asked(k=10))
    assert len(ranking.items) == 10
    assert ranking.items[:7] == best[3:]


@pytest.mark.parametrize("query", ["milk tea", "  MILK   Tea"])
def test_an_item_that_no_query_would_retrieve_comes_first_where_it_is_pinned(engine: Engine, query: str) -> None:
    engine.merchandiser = None
    last = engine.rank(asked("search", query="milk tea", k=ITEMS)).items[-1]
    obeying(engine, pinned=[Pinned(query=query, items=(last, "nobody-sells-it"))])
    assert engine.rank(asked("search", query="milk tea", k=3)).items[0] == last
    assert engine.rank(asked("search", query="coffee", k=3)).items[0] != last
    assert engine.rank(asked(k=3)).items[0] != last, "a query's items are not pinned to recommendations"


def test_an_answer_that_was_kept_obeys_the_rules_of_now(engine: Engine) -> None:
    engine.merchandiser = None
    user = next(iter(engine._users.busiest(1)))
    one = Asked(asked(k=5), user, 1e9, True)
    first = engine.rank(one.request, user).items
    assert engine.at_once(one).items == first  # type: ignore[union-attr]
    obeying(engine, blocked=first[:2])
    assert not set(engine.at_once(one).items) & set(first[:2])  # type: ignore[union-attr]
    obeying(engine, revision=2)
    assert engine.at_once(one).items == first  # type: ignore[union-attr]


def test_a_list_of_blocked_items_alone_is_empty(engine: Engine) -> None:
    assert obeying(engine, blocked=IDS[:3]).rank(asked(candidates=IDS[:3])).items == []


@settings(max_examples=100, deadline=None)
@given(
    codes=st.lists(st.integers(0, 3), max_size=14),
    most=st.integers(1, 3),
    first=st.integers(4, 8),
    pinned=st.integers(0, 3),
)
def test_a_cap_is_kept_wherever_others_can_fill_the_places(
    codes: list[int], most: int, first: int, pinned: int
) -> None:
    rows = np.arange(len(codes), dtype=np.int32)
    places = capped(Cap(by="brand", most=most, first=first), np.array(codes, np.int32), rows, pinned).tolist()
    assert sorted(places) == rows.tolist(), "a cap moves, and hides nothing"
    assert places[: min(pinned, len(codes))] == rows[:pinned].tolist()
    # as many as the cap allows of each code, pinned ones in any case
    room = sum(max(min(n, most), Counter(codes[:pinned])[code]) for code, n in Counter(codes).items())
    ahead = Counter(codes[place] for place in places[: min(first, room)])
    assert all(n <= max(most, Counter(codes[:pinned])[code]) for code, n in ahead.items())
    kept = places[pinned : min(first, room)]
    assert kept == sorted(kept), "what stays ahead stays in its order"


def test_unknown_items_are_blocked_by_their_name_and_count_for_no_cap(engine: Engine) -> None:
    obeying(engine, blocked=["new-1"], caps=[Cap(by="brand", most=1, first=3)])
    told = engine.rank(asked(candidates=["new-1", "new-2", "new-3", "item-001"]))
    assert told.items == ["item-001", "new-2", "new-3"]


def test_no_rules_change_nothing(engine: Engine) -> None:
    ranking = Ranking(np.array([2, 0, 1], np.int32), np.array([3, 2, 1], np.float32), "full")
    rows, same = Merchandiser(1, Merchandising(), engine._items).arranged(
        asked(), np.array([4, 5, 6], np.int32), ranking
    )
    assert rows.tolist() == [4, 5, 6]
    assert same.order.tolist() == [2, 0, 1]
    assert same.scores.tolist() == [3, 2, 1]


# the files of revisions, on a disk and in the store


@pytest.fixture(params=["disk", "store"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    store = MemoryStore()
    monkeypatch.setattr(merchandising, "open_store", lambda settings: store)
    return Settings(home=tmp_path, merchandising=request.param)


def test_changes_made_at_once_are_all_in_force(home: Settings) -> None:
    def block(n: int) -> None:
        merchandising.change(
            home, f"p{n}", "r", lambda rules: rules.model_copy(update={"blocked": rules.blocked | {f"i{n}"}})
        )

    threads = [threading.Thread(target=block, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    number, rules = merchandising.current(home)
    assert number == 8
    assert rules.blocked == {f"i{n}" for n in range(8)}
    assert sorted(one.actor for one in merchandising.history(home)) == [f"p{n}" for n in range(8)]


def test_a_file_made_from_older_rules_is_refused_and_says_whose_came_between(home: Settings) -> None:
    merchandising.change(home, "cli:ann", "recall", lambda _: Merchandising(blocked=frozenset({"a"})))
    seen, rules = read_rules(write_rules(*merchandising.current(home)), "rules.yaml")
    merchandising.change(
        home, "cli:bob", "another recall", lambda now: now.model_copy(update={"blocked": now.blocked | {"b"}})
    )
    with pytest.raises(
        Conflict, match=r"starts from revision 1, cli:bob made 2 since \(another recall\); nothing was changed"
    ):
        merchandising.replace(home, "cli:ann", "caps", seen, rules)
    assert merchandising.current(home)[1].blocked == {"a", "b"}


def test_the_same_rules_again_make_no_revision(home: Settings) -> None:
    def edit(rules: Merchandising) -> Merchandising:
        return rules.model_copy(update={"unavailable": frozenset({"a"})})

    assert merchandising.change(home, "feed", "stock feed", edit) == (1, True)
    assert merchandising.change(home, "feed", "stock feed", edit) == (1, False)


def test_an_earlier_revision_comes_back_as_a_new_one_also_past_a_damaged_file(home: Settings) -> None:
    merchandising.change(home, "a", "r", lambda _: Merchandising(blocked=frozenset({"a"})))
    assert merchandising.kept(home).write_first(2, b"{")
    with pytest.raises(InputRejected, match=r"revision 2 .* cannot be read .* freshrank items restore"):
        merchandising.current(home)
    assert merchandising.restore(home, "a", "r", 1) == 3
    assert merchandising.current(home)[1].blocked == {"a"}
    with pytest.raises(InputRejected, match="there is no revision 9 .* there are 1 to 3"):
        merchandising.restore(home, "a", "r", 9)


def test_old_revisions_go(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merchandising, "KEPT", 3)
    for n in range(6):
        merchandising.change(home, "a", "r", lambda _, n=n: Merchandising(blocked=frozenset({f"i{n}"})))
    assert sorted(merchandising.kept(home).numbers()) == [4, 5, 6]


def test_rules_reach_another_machine_and_the_newest_counts(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        merchandising.change(home, "a", "r", lambda now: Merchandising(blocked=now.blocked | {f"i{len(now.blocked)}"}))

    kept, pod, used = merchandising.kept(home), tmp_path / "pod", list[int]()
    watch = Watch(pod, lambda told: used.append(told.revision))
    assert not rules.bring(kept, pod, listed=True) and pod.is_dir(), "asked, and there is none: a replica may start"
    for _ in range(2):
        change()
        assert rules.bring(kept, pod, listed=False) and not rules.bring(kept, pod, listed=False)
        watch.look()
    monkeypatch.setattr(merchandising, "KEPT", 3)
    for _ in range(6):
        change()
    assert not rules.bring(kept, pod, listed=False), "the next one is gone already"
    assert rules.bring(kept, pod, listed=True) and not rules.bring(kept, pod, listed=True)
    watch.look()
    assert used == [1, 2, 8] and sorted(revisions(pod)) == [8]
    assert path_of(pod, 8).read_bytes() == kept.read(8)


def test_a_store_that_does_not_answer_leaves_the_rules_of_before_and_is_asked_again(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merchandising.change(home, "a", "r", lambda _: Merchandising(blocked=frozenset({"a"})))
    kept, pod, left, asked = merchandising.kept(home), tmp_path / "pod", threading.Event(), list[bool]()
    numbers = kept.numbers

    def at_first_none() -> list[int]:
        asked.append(pod.exists())
        if len(asked) < 3:
            raise Unavailable("the object store did not answer")
        left.set()
        return numbers()

    monkeypatch.setattr(rules, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(kept, "numbers", at_first_none)
    rules.follow(kept, pod, left)
    assert asked[:3] == [False] * 3, "who waits for the folder starts with no rules unknown"
    assert revisions(pod) == [1]


def test_a_watch_uses_the_newest_that_can_be_read_and_each_once(tmp_path: Path) -> None:
    used: list[int] = []
    watch = Watch(tmp_path / "rules", lambda told: used.append(told.revision))
    watch.look()
    assert used == [], "a missing folder is no rules"
    for number in (1, 2, 4):
        _write(tmp_path / "rules", number)
    (tmp_path / "rules" / "00000005.json").write_bytes(b'{"revision": 5')
    watch.look()
    watch.look()
    assert used == [4]
    _write(tmp_path / "rules", 3)
    watch.look()
    assert used == [4], "an older one that appears late is not gone back to"
    _write(tmp_path / "rules", 6)
    watch.look()
    assert used == [4, 6]


def test_a_revision_that_could_not_be_read_for_a_moment_is_used_a_second_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    watch = Watch(tmp_path / "rules", lambda told: used.append(told.revision))
    _write(tmp_path / "rules", 1)
    with monkeypatch.context() as full:
        full.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(OSError(24, "too many open files")))
        watch.look()
    assert used == []
    watch.look()
    assert used == [1], "a recall waits for no restart"


def _write(folder: Path, number: int) -> None:
    folder.mkdir(exist_ok=True)
    told = Revision(revision=number, at="", actor="a", reason="r", rules=Merchandising())
    (folder / f"{number:08d}.json").write_bytes(canonical_json(told.model_dump(mode="json")))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("blocked: [a]", "has no `revision:`; start from what"),
        ("revision: 1\nblockd: [a]", "blockd: Extra inputs are not permitted"),
        ("revision: 1\ncaps: [{by: brand, most: 5, first: 5}]", "at most 5 among the first 5 excludes nothing"),
        (
            "revision: 1\ncaps: [{by: colour, most: 1, first: 5}]",
            r"caps\.0\.by: Input should be 'brand', 'type' or 'category'",
        ),
        ("revision: 1\npinned: [{items: [a]}, {items: [b]}]", "recommendations has more than one list"),
        ("revision: 1\npinned: [{query: Oat Milk, items: [a]}, {query: oat  milk, items: [b]}]", "more than one list"),
        ("revision: 1\npinned: [{items: [a, b, a]}]", "a is pinned twice in one list"),
        ("revision: 1\nblocked: ['']", "at least 1 character"),
        ("revision: [", "is not YAML"),
        ("- a", "has no `revision:`"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text: str, sentence: str) -> None:
    with pytest.raises(InputRejected, match=f"rules.yaml.*{sentence}"):
        read_rules(text, "rules.yaml")


def test_what_is_printed_can_be_read_back() -> None:
    rules = Merchandising(
        blocked=frozenset({"b", "a"}),
        pinned=(Pinned(items=("x", "y"), query="oat milk"), Pinned(items=("z",))),
        caps=(Cap(by="brand", most=2, first=10),),
    )
    assert read_rules(write_rules(7, rules), "rules.yaml") == (7, rules)
