"""What was built from a user's rows: found by content where it names the user, by lineage where it does not."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from tasks.adapters.erasures import DONE, ERASED
from tasks.adapters.store import MemoryStore
from tasks.domain.erasure import Erased, Erasure, Tainted, descendants, erasure_id
from tasks.domain.manifest import Artifact, Manifest
from tasks.erasure.taint import body_names, built_from, tainted_by
from tests.behaviour_builders import a_day, events_table, parquet_bytes

ANNA = "a1" * 32
FIRST, SECOND = "2017-01-01", "2017-01-02"


def a_run(store, step, day, key, files=None, inputs=(), summary=None, complete=True) -> str:
    prefix = f"runs/{step}/{day}/{key * 24}"
    outputs = {}
    for name, body in (files or {}).items():
        store.put_new(f"{prefix}/0/{name}", body)
        outputs[name] = Artifact(uri=store.uri(f"{prefix}/0/{name}"), sha256=f"{len(body):064x}", bytes=len(body))
    manifest = Manifest(
        step=step,
        partition=day,
        inputs={f"input-{n}": store.uri(one) for n, one in enumerate(inputs)},
        outputs=outputs,
        params={},
        summary=summary or {},
        code_version="c",
        lock_digest="l",
        seed=1,
        started_at="s",
        seconds=1.0,
    )
    if complete:
        store.put_new(f"{prefix}.json", manifest.model_dump_json().encode())
    return f"{prefix}.json"


def a_release(store, letter, view, weights, kind="weights") -> str:
    digest = letter * 64
    told = {"view": view, "weights_digest": weights, "kind": kind}
    store.put_new(f"releases/{digest}/release/release.json", json.dumps(told).encode())
    store.put_new(f"releases/{digest}.json", b"{}")
    return digest


def a_dataset(store, day, key, user, **more) -> str:
    names = json.dumps({"users": [user]}).encode()
    return a_run(store, "build_dataset", day, key, {"names.json": names, "log.safetensors": b"numbers"}, **more)


def test_weights_that_went_on_from_tainted_weights_are_tainted():
    store = MemoryStore()
    dataset, other = a_dataset(store, FIRST, "1", ANNA), a_dataset(store, SECOND, "2", "b2" * 32)
    first = a_run(store, "finetune", FIRST, "3", {}, [dataset], {"weights_digest": "w1"})
    warm = a_run(store, "finetune", SECOND, "4", {}, [other], {"weights_digest": "w2", "started_from": "w1"})
    fresh = a_run(store, "finetune", SECOND, "5", {}, [other], {"weights_digest": "w3"})
    later = a_run(store, "compress", SECOND, "6", {}, [warm])
    runs = built_from(store, ANNA, FIRST).tainted.runs
    assert set(runs) == {first, warm, later} and fresh not in runs


def test_a_dataset_is_deleted_whole_and_what_read_it_is_named():
    store = MemoryStore()
    dataset, other = a_dataset(store, SECOND, "1", ANNA), a_dataset(store, SECOND, "2", "b2" * 32)
    model = a_run(store, "finetune", SECOND, "3", {"model.safetensors": b"w"}, [dataset])
    packaged = {"release": "c" * 64, "view": "d" * 64}
    package = a_run(store, "package", SECOND, "4", {"release.json": b"{}"}, [model], packaged)
    a_run(store, "finetune", SECOND, "5", {"model.safetensors": b"w"}, [other])
    a_release(store, "c", "d" * 64, "w" * 64)
    older = a_release(store, "e", "f" * 64, "v" * 64)
    built = built_from(store, ANNA, FIRST)
    assert built.objects == [f"{dataset[:-5]}/0/log.safetensors", f"{dataset[:-5]}/0/names.json"]
    assert built.outputs == sorted({f"{len(body):064x}" for body in (b"numbers", store.get(built.objects[1]))})
    assert built.tainted == Tainted(
        datasets=(dataset,), runs=(model, package), releases=("c" * 64,), views=("d" * 64,), weights=("w" * 64,)
    )
    assert older not in built.tainted.releases


def test_of_other_steps_only_what_names_the_user_is_deleted():
    store, rows = MemoryStore(), events_table(a_day(rows=3, user_id=ANNA))
    clean = parquet_bytes(events_table(a_day(rows=3, user_id="b" * 64)))
    files = {"quarantine.parquet": parquet_bytes(rows), "clean.parquet": clean, "report.md": f"| {ANNA[:8]} |".encode()}
    run = a_run(store, "validate_data", FIRST, "1", files)
    built = built_from(store, ANNA, FIRST)
    assert [key.rsplit("/", 1)[1] for key in built.objects] == ["quarantine.parquet", "report.md"]
    assert built.tainted == Tainted() and run


def test_slates_that_number_the_user_go_first_and_those_of_other_datasets_stay():
    store = MemoryStore()
    dataset, other = a_dataset(store, SECOND, "1", ANNA), a_dataset(store, SECOND, "2", "b2" * 32)
    slates = parquet_bytes(pa.table({"user": [0], "slice.group_age_65": [True]}))
    files = {"slates.parquet": slates, "evaluation.json": b"{}"}
    judged = a_run(store, "evaluate", SECOND, "3", files, [dataset])
    a_run(store, "evaluate", SECOND, "4", files, [other])
    built = built_from(store, ANNA, FIRST)
    assert built.objects[0] == f"{judged[:-5]}/0/slates.parquet" and len(built.objects) == 3
    assert f"{len(slates):064x}" in built.outputs, "copies on machines go too"
    assert judged in built.tainted.runs


def test_attempts_without_a_manifest_are_looked_through_and_days_before_the_user_are_not():
    store = MemoryStore()
    a_dataset(store, FIRST, "1", ANNA)
    a_dataset(store, SECOND, "2", ANNA, complete=False)
    assert {key.split("/")[2] for key in built_from(store, ANNA, SECOND).objects} == {SECOND}
    assert built_from(store, ANNA, None).objects == []


@pytest.mark.parametrize(
    ("suffix", "body", "named"),
    [
        (".json", f'["{ANNA}"]'.encode(), True),
        (".json", ANNA[:8].encode(), False),
        (".html", ANNA[:8].encode(), True),
        (".parquet", b"not readable: it may", True),
        (".md", b"", False),
    ],
)
def test_what_counts_as_naming(suffix, body, named):
    assert body_names(suffix, body, ANNA) == named


def test_descendants_are_found_through_any_number_of_runs_and_circles_end():
    parents = {"a": {"r"}, "b": {"a"}, "c": {"b", "x"}, "d": {"x"}, "e": {"f"}, "f": {"e"}}
    assert descendants(parents, ["r"]) == ["a", "b", "c"]
    assert descendants(parents, ["e"]) == ["f"]
    assert descendants(parents, []) == []


def test_a_release_says_by_which_erasure_it_is_tainted_also_when_only_its_weights_are_old():
    store = MemoryStore()
    both = a_release(store, "c", "d" * 64, "w" * 64)
    fresh_state = a_release(store, "e", "f" * 64, "w" * 64, kind="state")
    clean = a_release(store, "9", "f" * 64, "v" * 64)
    told = Erasure(pseudonym=ANNA, when="2026-11-22", actor="a", reason="r", days={}, tainted=Tainted(releases=(both,)))
    key = f"{ERASED}{erasure_id(ANNA)}"
    store.put_new(f"{key}.json", told.model_dump_json().encode())
    assert (len(tainted_by(store, both)), tainted_by(store, fresh_state)) == (1, [])
    done = Erased(when="w", days={}, tainted=Tainted(weights=("w" * 64,)), remains=())
    store.replace(f"{key}{DONE}", done.model_dump_json().encode())
    assert "its state and weights were made" in tainted_by(store, both)[0]
    assert "its weights were made" in tainted_by(store, fresh_state)[0]
    assert tainted_by(store, clean) == []
    assert "2026-11-22" in tainted_by(store, both)[0] and ANNA not in tainted_by(store, both)[0]
