"""Who publishes, whose clock runs ahead, and who may not: what a pruning must not do meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.releases import fetch, publish, publish_release
from tasks.adapters.store import MemoryStore
from tasks.domain.errors import Forbidden, InputRejected, Unavailable
from tasks.domain.prune import GOING, RetentionPolicy, mark_of
from tasks.prune.commands import NotHere, of_machine, of_store
from tasks.prune.store import prune_store
from tasks.serving.signature import signature_of
from tasks.settings import Settings
from tests.prune_builders import digest_of
from tests.unit.test_prune_store import a_log

POLICY = RetentionPolicy(decision_days=30)
LATER = datetime.now(UTC) + timedelta(days=40)
DIGEST, KEY_ID = digest_of("spare"), "0123456789abcdef"
OPERATIONS = ("put_new", "replace", "get", "exists", "stat", "delete")


class TurnStore(MemoryStore):
    """Each operation of a named thread waits for its turn: PRUNE for `pruned` operations, then PUBLISH for `published`, then
    PRUNE to its end, then PUBLISH to its end."""

    def __init__(self, pruned: int, published: int) -> None:
        super().__init__()
        self._script = iter([*["prune"] * pruned, *["publish"] * published])
        self._turn = next(self._script, "prune")
        self._ended: set[str] = set()
        self._changed = threading.Condition()

    def step(self, operation: Callable[[], Any]) -> Any:
        me = threading.current_thread().name
        if me not in ("prune", "publish"):
            return operation()
        with self._changed:
            assert self._changed.wait_for(lambda: self._turn == me, 10)
            done = operation()
            self._next()
            return done

    def end(self) -> None:
        with self._changed:
            self._ended.add(threading.current_thread().name)
            if self._turn in self._ended:
                self._next()

    def _next(self) -> None:
        self._turn = next(self._script, "prune")
        if self._turn in self._ended:
            self._turn = "publish" if self._turn == "prune" else "prune"
        self._changed.notify_all()


def _taking_turns(name: str) -> Callable[..., Any]:
    def operation(self: TurnStore, *given: Any) -> Any:
        return self.step(lambda: getattr(MemoryStore, name)(self, *given))

    return operation


for name in OPERATIONS:
    setattr(TurnStore, name, _taking_turns(name))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("release/release.json", "model.bin", "table.bin"):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text("{}" if name.endswith("json") else name)
    signature_of(tmp_path / "src").write_text("{}")
    return tmp_path / "src"


def marked(store: MemoryStore, directory: Path, whole: bool) -> None:
    publish_release(store, DIGEST, directory, KEY_ID)
    if not whole:  # what a publication that died left
        store.delete(f"releases/{DIGEST}.json")
    prune_store(store, dict, POLICY, LATER)
    assert store.exists(mark_of(f"releases/{DIGEST}"))


@pytest.mark.parametrize("whole", [True, False])
def test_a_release_that_is_published_while_it_is_pruned_is_whole_in_every_order(
    directory: Path, tmp_path: Path, whole: bool
) -> None:
    outcomes = set()
    for pruned in range(18):
        for published in range(0, 10):
            store = TurnStore(pruned, published)
            marked(store, directory, whole)
            refused = played(store, directory)
            outcomes.add((refused, store.exists(mark_of(f"releases/{DIGEST}"))))
            if refused:  # as Airflow does: it tries again
                publish_release(store, DIGEST, directory, KEY_ID)
            target = tmp_path / f"{pruned}-{published}"
            fetch(store, "releases", DIGEST, target)
            assert {path.name for path in target.rglob("*")} >= {"model.bin", "table.bin", "release.json"}
            assert store.exists(f"releases/{DIGEST}.{KEY_ID}.sig.json")
            assert store.list(GOING) == []
    assert {refused for refused, _ in outcomes} == {True, False}, "both sides gave way somewhere"


def played(store: TurnStore, directory: Path) -> bool:
    """Whether who published was told to try again."""
    told: list[BaseException] = []

    def act(action: Callable[[], Any]) -> None:
        try:
            action()
        except BaseException as err:
            told.append(err)
        finally:
            store.end()

    threads = [
        threading.Thread(name="prune", target=act, args=(lambda: prune_store(store, dict, POLICY, LATER),)),
        threading.Thread(name="publish", target=act, args=(lambda: publish_release(store, DIGEST, directory, KEY_ID),)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [err for err in told if not isinstance(err, Unavailable)] == []
    return bool(told)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of a pool would have no turn."""

    class Inline:
        def __init__(self, *given: object) -> None: ...

        def __enter__(self) -> Inline:
            return self

        def __exit__(self, *given: object) -> None: ...

        map = staticmethod(map)

    for module in ("tasks.adapters.releases", "tasks.prune.store", "tasks.lineage"):
        monkeypatch.setattr(f"{module}.ThreadPoolExecutor", Inline)


def test_a_pruning_that_was_killed_holds_publication_up_until_the_next_one(directory: Path) -> None:
    store = MemoryStore()
    marked(store, directory, True)
    store.put_new(f"{GOING}releases/{DIGEST}/abc.json", b"{}")
    with pytest.raises(Unavailable, match=r"is being pruned at this moment.*delete it"):
        publish(store, "releases", DIGEST, directory)
    prune_store(store, dict, POLICY, LATER)
    publish(store, "releases", DIGEST, directory)
    assert store.list(GOING) == []


class Stack:
    def __init__(self, settings: Settings, store: MemoryStore) -> None:
        self.settings, self.store = settings, store


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    store = MemoryStore()
    monkeypatch.setattr("tasks.adapters.store.open_store", lambda settings: store)
    monkeypatch.setattr("tasks.controller.client.ControllerClient.pins", lambda self: {})
    monkeypatch.setattr("tasks.controller.client.ControllerClient.log", lambda self, after=0: a_log("f" * 64, "1"))
    yield Stack(Settings(), store)


@pytest.mark.parametrize("hours", [-48, 0, 48])
def test_a_clock_that_is_ahead_of_the_stores_prunes_nothing(
    stack: Stack, directory: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    publish(stack.store, "releases", DIGEST, directory)
    copy = stack.settings.data / "inputs" / "x" / "file"
    copy.parent.mkdir(parents=True)
    copy.touch()
    before = dict(stack.store._objects)
    theirs = datetime.now(UTC) - timedelta(hours=hours)
    monkeypatch.setattr(stack.store, "clock", lambda: theirs)
    if hours > 0:
        for prune in (of_store, of_machine):
            with pytest.raises(InputRejected, match=r"nothing is pruned. Set this machine's clock"):
                prune(stack.settings)
        assert stack.store._objects == before and copy.exists()
    else:
        assert of_store(stack.settings).gone == () and of_machine(stack.settings).things == {}


def test_a_store_that_is_down_keeps_nobody_from_freeing_the_disk(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def down() -> datetime:
        raise Unavailable("the object store did not answer")

    monkeypatch.setattr(stack.store, "clock", down)
    assert of_machine(stack.settings).things == {}
    with pytest.raises(Unavailable):
        of_store(stack.settings)


@pytest.mark.parametrize(("endpoint", "by_design"), [("aws", True), (None, False), ("https://s3.example", False)])
def test_who_may_not_prune_is_told_so_and_only_on_aws_is_it_by_design(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, by_design: bool
) -> None:
    def refused(key: str, content: bytes) -> None:
        raise Forbidden(f"the object store refused {key}: AccessDenied")

    monkeypatch.setattr(stack.store, "replace", refused)
    with pytest.raises(Forbidden, match="refused control/pruned/stacks") as told:
        of_store(stack.settings.model_copy(update={"store_endpoint": endpoint}))
    assert isinstance(told.value, NotHere) is by_design
    monkeypatch.setattr("tasks.controller.client.ControllerClient.log", lambda self, after=0: [])
    with pytest.raises(NotHere, match="no release serves"):
        of_store(stack.settings)
