"""A store with a history is pruned: what serves can be pulled, what goes can be made again, and dying on the way is harmless."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tasks.adapters.releases import fetch, release_description
from tasks.adapters.store import MemoryStore
from tasks.cli import app
from tasks.domain.errors import Forbidden, InputRejected, Unavailable
from tasks.domain.prune import DATA_STEPS, RetentionPolicy, mark_of
from tasks.domain.rollout_log import Kind, sealed
from tasks.prune.commands import of_store
from tasks.prune.stacks import STACKS
from tasks.prune.store import Pruned, prune_store
from tasks.run import materialise, read_manifest, run
from tasks.settings import Settings
from tests.behaviour_builders import HookedStore, die
from tests.prune_builders import a_refresh, digest_of, publish_release, step
from tests.rollout_builders import NOON, a_draft, a_policy

POLICY = RetentionPolicy(decision_days=30)
LATER = datetime.now(UTC) + timedelta(days=40)  # by then everything below is old, and marks are older than a day
DAYS = ("2017-07-01", "2017-07-02", "2017-07-03", "2017-07-04")
SERVING = {digest_of("second"): "serves", digest_of("first"): "served before"}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    monkeypatch.setattr("tasks.run.MIN_FREE_BYTES", 0)
    return Settings()


@pytest.fixture
def store(settings: Settings) -> MemoryStore:
    """Four refreshes made a release each; the third was refused in its rollout, the fourth waits for its own."""
    made = MemoryStore()
    for day, name, compared in zip(
        DAYS, ("first", "second", "refused", "fourth"), (None, "first", "second", "second"), strict=True
    ):
        a_refresh(made, settings, day, name, compared)
    made.put_new(f"runs/compress/{DAYS[0]}/{'e' * 24}/dead/model.bin", b"of an attempt that died")
    return made


def prune(store: MemoryStore, **given: object) -> Pruned:
    return prune_store(store, lambda: SERVING, POLICY, LATER, **given)  # type: ignore[arg-type]


def test_first_look_marks_second_look_deletes_and_what_serves_is_as_it_was(store: MemoryStore, tmp_path: Path) -> None:
    before = dict(store._objects)
    first = prune(store)
    refused = digest_of("refused")
    assert f"releases/{refused}" in first.marked and f"views/{digest_of('view of refused')}" in first.marked
    assert {key.split("/")[1] for key in first.marked if key.startswith("runs/")} == set(DATA_STEPS)
    assert first.gone == () and first.orphans == 1 and first.orphan_bytes == 23
    assert all(store.get(key) == body for key, body in before.items() if "/dead/" not in key)

    second = prune(store)
    assert set(second.gone) == set(first.marked) and second.gone_bytes == first.marked_bytes
    gone = {key for key in before if key not in store._objects and "/dead/" not in key}
    assert sum(len(before[key]) for key in gone) == second.gone_bytes
    assert {key for key in before if key.startswith("runs/") and key.count("/") == 3} <= store._objects.keys(), (
        "manifests"
    )
    for name in ("first", "second"):
        fetch(store, "releases", digest_of(name), tmp_path / name)
        fetch(store, "views", digest_of(f"view of {name}"), tmp_path / f"{name}-view")
    with pytest.raises(InputRejected, match="does not exist"):
        fetch(store, "releases", refused, tmp_path / "refused")
    assert release_description(store, refused)["kind"] == "weights", "what it was is still known"
    assert not any(f"runs/{one}/{day}" in key for key in gone for one in DATA_STEPS for day in (*DAYS[:2], DAYS[3]))

    left = dict(store._objects)
    third = prune(store)
    assert (third.marked, third.gone, third.orphans) == ((), (), 0) and store._objects == left


def test_a_pruned_step_is_run_again_and_its_old_manifest_says_what_happened(
    store: MemoryStore, settings: Settings
) -> None:
    prune(store)
    (mark,) = store.list(mark_of(f"runs/build_dataset/{DAYS[2]}").removesuffix(".json"))
    old = mark.removeprefix("control/pruned/")
    prune(store)
    inputs = read_manifest(store, store.uri(old)).inputs
    again = run(step("build_dataset", 2, {}), DAYS[2], inputs, settings, store=store)
    assert store.key(again) != old and store.key(again).startswith(f"runs/build_dataset/{DAYS[2]}/")
    assert run(step("build_dataset", 2, {}), DAYS[2], inputs, settings, store=store) == again, "once"
    elsewhere = Settings(home=settings.home / "elsewhere")
    assert (materialise(store, read_manifest(store, again), elsewhere) / "build_dataset.bin").exists()
    with pytest.raises(InputRejected, match="was pruned, because nothing recent named it; start the refresh"):
        materialise(store, read_manifest(store, store.uri(old)), Settings(home=settings.home / "third"))


def test_a_release_that_is_published_again_after_it_went_is_whole(store: MemoryStore, tmp_path: Path) -> None:
    prune(store)
    prune(store)
    publish_release(store, tmp_path / "again", "refused")
    fetch(store, "releases", digest_of("refused"), tmp_path / "fetched")
    assert (tmp_path / "fetched" / "release" / "model.bin").read_text() == "weights of refused"


def test_who_goes_back_to_an_old_release_while_it_is_looked_at_keeps_it(store: MemoryStore) -> None:
    prune(store)
    refused = digest_of("refused")
    answers = iter([SERVING, SERVING | {refused: "rolled back to"}])
    prune_store(store, lambda: next(answers), POLICY, LATER)
    assert store.exists(f"releases/{refused}.json")
    told = prune_store(store, lambda: SERVING | {refused: "rolled back to"}, POLICY, LATER)
    assert f"releases/{refused}" in told.unmarked and not store.exists(mark_of(f"releases/{refused}"))


def test_killed_before_any_change_the_next_passes_end_alike(store: MemoryStore) -> None:
    start = dict(store._objects)
    whole = HookedStore(0, die, start)
    for _ in range(2):
        prune(whole)
    for k in range(1, whole.changes + 1, 3):
        hurt = HookedStore(k, die, start)
        for _ in range(3):
            try:
                prune(hurt)
            except KeyboardInterrupt:
                pass
        assert hurt._objects.keys() == whole._objects.keys()


def test_two_at_once_end_as_one(store: MemoryStore) -> None:
    alone = MemoryStore()
    alone._objects.update(store._objects)
    failed: list[Exception] = []

    def both() -> None:
        try:
            for _ in range(2):
                prune(store)
        except Exception as err:
            failed.append(err)

    threads = [threading.Thread(target=both) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(2):
        prune_store(alone, lambda: SERVING, POLICY, LATER + timedelta(days=2))
    assert failed == []
    assert {key for key in store._objects if "pruned" not in key} == {
        key for key in alone._objects if "pruned" not in key
    }


def test_a_release_that_nobody_can_read_stops_everything(store: MemoryStore) -> None:
    store._objects[f"releases/{digest_of('refused')}/release/release.json"] = b"{"
    before = dict(store._objects)
    with pytest.raises(InputRejected, match=r"is damaged .* nothing is pruned"):
        prune(store)
    assert store._objects == before


def test_a_manifest_that_is_listed_and_cannot_be_read_stops_everything(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outputs would look as if no manifest named them, and would go in one look."""
    (hidden,) = (key for key in store._objects if key.startswith(f"runs/finetune/{DAYS[1]}/") and key.count("/") == 3)
    get, before = store.get, dict(store._objects)

    def may_not(key: str) -> bytes:
        if key == hidden:
            raise Forbidden(f"the object store refused {key}")
        return get(key)

    monkeypatch.setattr(store, "get", may_not)
    with pytest.raises(Unavailable, match=f"{hidden} and 0 more manifests are listed and cannot be read"):
        prune(store)
    assert store._objects == before


def a_log(release: str, key: str) -> list[dict[str, object]]:
    policy = {"kind": "bootstrap", "policy": a_policy().model_dump(mode="json")}
    start = sealed(a_draft(key, Kind.START, to_release=release, details=policy), None, NOON)
    boot = sealed(a_draft(f"{key}-2", Kind.BOOT, to_release=release, weight=100), start, NOON)
    return [row.model_dump(mode="json") for row in (start, boot)]


def test_what_another_stack_of_the_bucket_needs_stays(
    store: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return LATER

    monkeypatch.setattr("tasks.prune.commands.datetime", Late)
    monkeypatch.setattr(store, "clock", lambda: LATER)
    monkeypatch.setattr("tasks.adapters.store.open_store", lambda settings: store)
    monkeypatch.setattr("tasks.controller.client.ControllerClient.pins", lambda self: {})
    logs = {name: a_log(digest_of(name), name) for name in ("second", "refused")}

    def of(name: str, **given: bool) -> Pruned:
        monkeypatch.setattr("tasks.controller.client.ControllerClient.log", lambda self, after=0: logs[name])
        return of_store(settings, **given)

    before = dict(store._objects)
    assert f"releases/{digest_of('refused')}" in of("second", dry_run=True).marked and store._objects == before
    assert of("refused").marked, "the other stack is here too"
    for _ in range(2):
        told = of("second")
    assert "another stack needs it" in told.kept[f"releases/{digest_of('refused')}"]
    assert store.exists(f"releases/{digest_of('refused')}.json")
    assert not of("refused").gone and of("refused").kept[f"releases/{digest_of('second')}"].startswith("another stack")
    (key,) = (one for one in store.list(STACKS) if digest_of("refused").encode() in store.get(one))
    store._objects[key] = b"{"
    with pytest.raises(InputRejected, match="is damaged .* nothing is pruned"):
        of("second")


def test_the_command_says_what_would_go_and_changes_nothing(
    store: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.adapters.store.open_store", lambda settings: store)
    rows: list[dict[str, object]] = []
    monkeypatch.setattr("tasks.controller.client.ControllerClient.log", lambda self, after=0: rows)
    refused = CliRunner().invoke(app, ["prune", "--only", "store"])
    assert isinstance(refused.exception, Forbidden), (
        "a log without a champion needs nothing: that is no reason to delete"
    )
    rows += a_log(digest_of("second"), "1")
    monkeypatch.setattr("tasks.controller.client.ControllerClient.pins", lambda self: {digest_of("refused"): {}})
    before = dict(store._objects)
    told = json.loads(CliRunner().invoke(app, ["prune", "--dry-run", "--json"]).stdout)
    assert told["dry_run"] and told["store"]["kept"][f"releases/{digest_of('second')}"] == "serves"
    assert told["store"]["kept"][f"releases/{digest_of('refused')}"] == "pinned", "where the controller runs"
    assert told["store"]["marked"] == [] and "things" in told["machine"], "all of it was made just now"
    said = CliRunner().invoke(app, ["prune", "--dry-run"]).stdout
    assert "0 would go, 0.0 MiB" in said and store._objects == before
    with pytest.raises(InputRejected, match="--only everything is not known"):
        raise CliRunner().invoke(app, ["prune", "--only", "everything"]).exception  # type: ignore[misc]
