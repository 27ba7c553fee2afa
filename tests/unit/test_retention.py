"""Days that are too old: hidden first, then deleted, with what was made from them; never landed again."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner

from tasks.adapters.erasures import leave_out
from tasks.adapters.partitions import (
    accepted_days,
    landed_days,
    landed_key,
    read_accepted_events,
    read_landed_manifest,
    read_partition,
    retired_days,
)
from tasks.adapters.store import MemoryStore
from tasks.adapters.tables import parquet_bytes
from tasks.domain.behaviour import next_day, pseudonym
from tasks.domain.errors import InputRejected
from tasks.erasure.commands import retention
from tasks.erasure.erase import erase, look_for
from tasks.erasure.retention import Retired, look_for_old, retire
from tasks.ingest import ingest
from tasks.settings import Settings
from tests.behaviour_builders import (
    FIRST,
    KEY,
    KEY_ID,
    HookedStore,
    TinySource,
    a_day,
    accept,
    die,
    events_table,
    holders,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)
LAST = next_day(FIRST, 34)  # 35 days: with 30 kept, 5 are too old
OLD = [next_day(FIRST, n) for n in range(5)]


def a_store() -> MemoryStore:
    """35 days, the old ones accepted; until the fourth the source knew its users otherwise."""
    store, source = MemoryStore(), TinySource()
    for day in (next_day(FIRST, n) for n in range(35)):
        source.replaced[day] = events_table(a_day(day, rows=5))
    for through, age in ((OLD[3], "young"), (LAST, "old")):
        source.user_table = pa.table({"user_id": ["user-1", "user-2"], "age": [age, age]})
        ingest(source, store, through, KEY, KEY_ID)
    for day in [*OLD, LAST]:
        accept(store, day, {0: "late"})
    for day in (OLD[0], LAST):
        store.put_new(f"feedback/dt={day}/{'a' * 12}-r-0.parquet", parquet_bytes(events_table([])))
        for step in ("build_dataset", "finetune"):
            store.put_new(f"runs/{step}/{day}/{'b' * 24}.json", b"{}")
            store.put_new(f"runs/{step}/{day}/{'b' * 24}/0/names.json", b"[]")
    return store


def run(store, tmp_path, keep=30) -> Retired:
    found = look_for_old(store, keep)
    retire(store, found, tmp_path, keep, "cli:test", NOW)
    return found


def test_old_days_are_gone_and_the_others_are_as_they_were(tmp_path):
    store = a_store()
    young = {day: read_partition(store, day).events for day in landed_days(store) if day not in OLD}
    found = run(store, tmp_path)
    assert (found.before, list(found.days)) == (next_day(FIRST, 5), OLD)
    assert landed_days(store) == sorted(young) and accepted_days(store) == [LAST]
    assert retired_days(store) == OLD
    assert all(read_partition(store, day).events == events for day, events in young.items())
    assert read_accepted_events(store, LAST).num_rows == 4
    left = [key for key in store.list("") if any(f"dt={day}/" in key for day in OLD)]
    assert {key.rsplit("/", 1)[1] for key in left} == {"manifest.json", "retired.json"}
    told = json.loads(store.get(landed_key(FIRST, "retired.json")))
    assert told == {"actor": "cli:test", "keep_days": 30, "when": "2026-11-22T00:00:00+00:00"}


def test_what_was_made_from_them_goes_with_them_and_models_stay(tmp_path):
    store = a_store()
    run(store, tmp_path)
    assert len(store.list("users/")) == 1 and len(store.list("catalogue/")) == 1, "the newest days name one of each"
    assert store.list("feedback/") == [f"feedback/dt={LAST}/{'a' * 12}-r-0.parquet"]
    names = [key for key in store.list("runs/") if key.endswith("names.json")]
    assert [key.split("/")[1:3] for key in names] == [
        ["build_dataset", LAST],
        ["finetune", FIRST],
        ["finetune", LAST],
    ]
    assert len([key for key in store.list("runs/") if key.count("/") == 3]) == 4, "every manifest stays"


def test_a_retired_day_is_not_landed_again(tmp_path):
    store, source = a_store(), TinySource()
    run(store, tmp_path)
    before = dict(store._objects)
    with pytest.raises(InputRejected, match="2017-01-01 was retired because of its age"):
        ingest(source, store, FIRST, KEY, KEY_ID)
    assert store._objects == before
    assert ingest(source, store, next_day(LAST), KEY, KEY_ID)["landed"] == 1
    assert landed_days(store)[0] == next_day(FIRST, 5)


def test_nothing_to_do_changes_nothing(tmp_path):
    store = a_store()
    run(store, tmp_path)
    before = dict(store._objects)
    found = run(store, tmp_path)
    assert (found.days, found.objects) == ((), ()) and store._objects == before
    assert look_for_old(MemoryStore(), 30).objects == ()


def test_killed_before_any_change_days_are_whole_or_gone_and_the_next_run_ends_alike(tmp_path):
    objects = a_store()._objects
    whole = HookedStore(0, die, objects)
    run(whole, tmp_path)
    for k in range(1, whole.changes + 1):
        store = HookedStore(k, die, objects)
        with pytest.raises(KeyboardInterrupt):
            run(store, tmp_path)
        for day in set(OLD) & set(landed_days(store)):
            assert read_partition(store, day).events.num_rows == 5
        for day in accepted_days(store):
            read_accepted_events(store, day)
        run(store, tmp_path)
        assert store._objects == whole._objects


def test_local_copies_of_old_days_go_too(tmp_path):
    kept = [
        f"inputs/build_dataset-{LAST}-x/log",
        f"quarantine/{LAST}/quarantine.parquet",
        f"cache/accepted/behaviour/dt={LAST}/e",
        "cache/text/x/v",
    ]
    gone = [
        f"inputs/build_dataset-{FIRST}-x/log",
        f"cache/accepted/behaviour/dt={FIRST}/e",
        f"quarantine/{FIRST}/quarantine.parquet",
        f"rehearsals/{FIRST}-half_day/quarantine.parquet",
        f"work/runs-validate_data-{FIRST}-x/work/rows",
        "cache/days/1",
        "objects/a/b",
    ]
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("rows")
    run(a_store(), tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_a_user_can_be_erased_from_what_is_left(tmp_path):
    store, user = a_store(), pseudonym("user-1", KEY)
    run(store, tmp_path)
    leave_out(store, {user})
    assert holders(store, user) == []
    assert read_landed_manifest(store, LAST).revision == 2


def test_a_user_whose_days_are_all_retired_can_be_erased_from_what_was_made_of_them(tmp_path):
    store, user = a_store(), pseudonym("user-of-old-days", KEY)
    for key in store.list("runs/"):
        store.delete(key)  # their manifests are none
    dataset = f"runs/build_dataset/{LAST}/{'c' * 24}/0"
    store.put_new(f"{dataset}/view/users.json", json.dumps({"users": [user]}).encode())
    store.put_new(f"{dataset}/histories.safetensors", b"what they bought")
    run(store, tmp_path)
    holdings = look_for(store, user)
    assert holdings.found.days == {} and len(holdings.built.objects) == 2
    erase(store, Settings(home=tmp_path), None, holdings, "cli:test", "ticket 12", NOW)
    assert store.list(dataset) == []
    assert look_for(store, user).nothing


def test_fewer_days_than_a_day_is_judged_by_are_refused():
    with pytest.raises(InputRejected, match="29 days are too few"):
        look_for_old(a_store(), 29)


def test_the_command_shows_asks_and_deletes(tmp_path, monkeypatch):
    app, store = typer.Typer(), a_store()
    app.command()(retention)
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    monkeypatch.setattr("tasks.adapters.store.open_store", lambda settings: store)
    before = dict(store._objects)
    shown = CliRunner().invoke(app, ["--keep-days", "30", "--dry-run"])
    assert "before 2017-01-06: 5 days, 2017-01-01 to 2017-01-05" in shown.stdout
    refused = CliRunner().invoke(app, ["--keep-days", "30"])
    assert isinstance(refused.exception, InputRejected) and store._objects == before
    told = json.loads(CliRunner().invoke(app, ["--keep-days", "30", "--yes", "--json"]).stdout)
    assert told["days"] == OLD == retired_days(store)
