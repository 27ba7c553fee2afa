"""The one door: a step is complete if and only if its manifest exists, and exactly one of two live copies wins."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tasks.adapters.store import MemoryStore
from tasks.domain.errors import InputRejected
from tasks.run import Step, materialise, read_manifest, run
from tasks.settings import Settings

DAY = "2017-07-01"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    return Settings()


def a_step(name="count", *, inputs=(), body=lambda call: "1"):
    calls = []

    def execute(call):
        calls.append(call)
        (call.out / "answer.txt").write_text(body(call))
        return {"calls": len(calls)}

    return Step(name, inputs, execute), calls


def test_a_retry_returns_the_same_manifest_and_does_no_work(settings):
    store, (step, calls) = MemoryStore(), a_step()
    first = run(step, DAY, {}, settings, store=store)
    assert run(step, DAY, {}, settings, store=store) == first
    assert len(calls) == 1


def test_an_input_or_an_option_makes_another_key(settings):
    store = MemoryStore()
    upstream, _ = a_step("upstream", body=lambda call: str(call.options.get("n")))
    step, calls = a_step(
        "downstream", inputs=("upstream",), body=lambda call: (call.inputs["upstream"] / "answer.txt").read_text()
    )
    uris = [run(upstream, DAY, {}, settings, store=store, options={"n": n}) for n in (1, 2)]
    made = [run(step, DAY, {"upstream": uri}, settings, store=store) for uri in uris]
    assert len({*uris, *made}) == 4
    assert [store.get(store.key(read_manifest(store, m).outputs["answer.txt"].uri)) for m in made] == [b"1", b"2"]


def test_a_step_that_fails_leaves_no_manifest_and_keeps_its_work_for_the_retry(settings):
    store = MemoryStore()

    def body(call):
        checkpoint = call.work / "checkpoint"
        if not checkpoint.exists():
            checkpoint.write_text("half way")
            raise RuntimeError("killed")
        return "resumed from " + checkpoint.read_text()

    step, _ = a_step(body=body)
    with pytest.raises(RuntimeError):
        run(step, DAY, {}, settings, store=store)
    assert store.list("runs/") == []
    manifest = read_manifest(store, run(step, DAY, {}, settings, store=store))
    assert store.get(store.key(manifest.outputs["answer.txt"].uri)) == b"resumed from half way"
    assert list((settings.data / "work").iterdir()) == [], "the workspace of a completed step is removed"


def test_of_two_live_copies_exactly_one_wins_and_both_return_its_manifest(settings):
    store, meet = MemoryStore(), threading.Barrier(2, timeout=10)

    def body(call):
        meet.wait()  # both copies are past the "is it complete?" check
        return call.out.name  # differs between the copies

    step, calls = a_step(body=body)
    uris: list[str] = []
    copies = [threading.Thread(target=lambda: uris.append(run(step, DAY, {}, settings, store=store))) for _ in range(2)]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join()
    assert len(calls) == len(uris) == 2, "the copy that was second must not fail because the first cleaned up"
    assert len(set(uris)) == 1
    manifest = read_manifest(store, uris[0])
    assert materialise(store, manifest, settings).joinpath("answer.txt").read_bytes() == store.get(
        store.key(manifest.outputs["answer.txt"].uri)
    )


def test_an_object_that_changed_after_its_manifest_is_named_and_not_used(settings, tmp_path, monkeypatch):
    store, (step, _) = MemoryStore(), a_step()
    manifest = read_manifest(store, run(step, DAY, {}, settings, store=store))
    store.replace(store.key(manifest.outputs["answer.txt"].uri), b"2")
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path / "another machine"))
    with pytest.raises(InputRejected, match="answer.txt has sha256 .* changed after the manifest"):
        materialise(store, manifest, Settings())


def test_two_outputs_of_the_same_bytes_are_fetched_side_by_side(settings, tmp_path, monkeypatch):
    """They share one file of the cache, which two threads then write at once."""
    names = ("one.txt", "other.txt")
    meet, store = threading.Barrier(len(names), timeout=10), MemoryStore()
    step = Step("twice", (), lambda call: {name: (call.out / name).write_text("same") for name in names})
    manifest = read_manifest(store, run(step, DAY, {}, settings, store=store))
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path / "another machine"))
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (fsync(file), meet.wait()))  # both have written, neither has renamed
    copies = materialise(store, manifest, Settings())
    assert [(copies / name).read_text() for name in names] == ["same", "same"]


def test_a_damaged_local_copy_is_fetched_again(settings):
    store, (step, _) = MemoryStore(), a_step()
    manifest = read_manifest(store, run(step, DAY, {}, settings, store=store))
    [cached] = [path for path in (settings.data / "objects").rglob("*") if path.is_file()]
    cached.write_text("damaged")
    assert materialise(store, manifest, settings).joinpath("answer.txt").read_text() == "1"


@pytest.mark.parametrize("partition", ["latest", "../2017-07-01", "2017-07-01\0", "2017-7-1", "2017-02-30", ""])
def test_a_partition_that_is_not_a_day_is_refused(settings, partition):
    step, calls = a_step()
    with pytest.raises(InputRejected, match="YYYY-MM-DD"):
        run(step, partition, {}, settings, store=MemoryStore())
    assert not calls


def test_missing_and_unknown_inputs_are_named(settings):
    step, _ = a_step(inputs=("build_dataset",))
    with pytest.raises(InputRejected, match="missing: build_dataset, not known: gate"):
        run(step, DAY, {"gate": "memory://x"}, settings, store=MemoryStore())


def test_a_full_disk_is_one_sentence(settings, monkeypatch):
    import tasks.run as door
    from tasks.domain.errors import Unavailable

    step, _ = a_step(body=lambda call: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Unavailable, match="full; nothing was published"):
        run(step, DAY, {}, settings, store=MemoryStore())
    monkeypatch.setattr(door.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5})())
    with pytest.raises(Unavailable, match="Nothing was started"):
        run(step, DAY, {}, settings, store=MemoryStore())


def test_every_registered_step_names_inputs_that_exist_and_comes_after_them():
    from tasks.steps import STEPS

    assert list(STEPS) == [
        *("ingest", "validate_data", "resolve_champion", "build_dataset", "finetune"),
        *("compress", "evaluate", "benchmark", "gate", "package"),
    ]
    seen: set[str] = set()
    for step in STEPS.values():
        assert set(step.inputs + step.optional) <= seen, step.name
        assert (Path("tasks") / f"{step.name}.py").exists()
        seen.add(step.name)
