"""`freshrank erase` from the terminal: shows first, asks, resumes, and never repeats what was typed."""

from __future__ import annotations

import json
import logging

import pytest
import typer
from typer.testing import CliRunner

from tasks.adapters.erasures import DONE, ERASED
from tasks.adapters.partitions import landed_days, landed_key, read_partition
from tasks.domain.behaviour import pseudonym
from tasks.domain.errors import InputRejected
from tasks.erasure.commands import erase
from tasks.ingest import ingest
from tasks.settings import Settings
from tests.behaviour_builders import FIRST, HookedStore, die, holders
from tests.erasure_builders import SECOND, THIRD, a_source

app = typer.Typer()
app.command()(erase)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """(store with three days under this stack's own key, pseudonym of user-7); nothing of the stack runs."""
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    monkeypatch.setenv("FRESHRANK_PORT_BASE", "23900")
    secrets, store = Settings().secrets, HookedStore(0, die)
    monkeypatch.setattr("tasks.adapters.store.open_store", lambda settings: store)
    key = bytes.fromhex(secrets.pseudonym_key)
    ingest(a_source(), store, THIRD, key, secrets.pseudonym_key_id)
    return store, pseudonym("user-7", key)


def said(*arguments, **more):
    result = CliRunner().invoke(app, list(arguments), **more)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_a_dry_run_shows_what_is_there_and_changes_nothing(world):
    store, user = world
    before = dict(store._objects)
    text = said("user-7", "--dry-run")
    assert "12 rows of 2 days, 2017-01-01 to 2017-01-03; user tables of 3 days" in text
    told = json.loads(said("user-7", "--dry-run", "--json"))
    assert (told["rows"], sorted(told["days"]), told["asked_before"]) == (12, [FIRST, THIRD], None)
    assert store._objects == before and user not in text


def test_without_a_terminal_and_without_yes_nothing_is_erased(world):
    store, _ = world
    before = dict(store._objects)
    with pytest.raises(InputRejected, match="say --yes"):
        said("user-7")
    assert store._objects == before


def test_erasing_takes_the_user_out_and_says_what_remains(world, caplog):
    store, user = world
    caplog.set_level(logging.DEBUG)
    text = said("user-7", "--yes", "--reason", "ticket 12")
    assert "erased from 2 days" in text and "freshrank refresh" in text
    assert [read_partition(store, day).events.num_rows for day in landed_days(store)] == [144, 144, 144]
    [record] = holders(store, user)
    told = json.loads(store.get(record))
    assert told["reason"] == "ticket 12" and told["actor"].startswith("cli:")
    done = json.loads(store.get(record.replace(".json", DONE)))
    assert {day: one["landed"] for day, one in done["days"].items()} == {FIRST: 2, THIRD: 2}
    for shown in (text, caplog.text, str(store._objects)):
        assert "user-7" not in shown


def test_rows_that_somebody_looked_at_on_this_machine_go_too(world):
    """As `freshrank data quarantine DAY` and `freshrank replay --inject` leave them."""
    store, user = world
    data = Settings().data
    manifest = read_partition(store, FIRST).manifest
    rows = store.get(landed_key(FIRST, manifest.file("events").name))
    looked = [data / "quarantine" / FIRST, data / "quarantine" / SECOND, data / "rehearsals" / f"{FIRST}-half_day"]
    for folder in looked:
        folder.mkdir(parents=True)
        (folder / "report.html").write_text("nobody in particular")
    for folder in (looked[0], looked[2]):
        (folder / "quarantine.parquet").write_bytes(rows)
    said("user-7", "--yes")
    assert [folder.exists() for folder in looked] == [False, True, False]


def test_an_interrupted_run_is_resumed_from_every_change(world):
    store, user = world
    start, total = dict(store._objects), store.changes
    said("user-7", "--yes")
    end = {key: body for key, body in store._objects.items() if not key.startswith(ERASED)}
    for at in range(1, store.changes - total + 1):
        store._objects, store.changes, store.at = dict(start), 0, at
        assert CliRunner().invoke(app, ["user-7", "--yes"]).exit_code != 0
        text = said("user-7", "--yes")
        assert ("asked for on" in text) == (at > 1), "the record is the first change"
        assert {key: body for key, body in store._objects.items() if not key.startswith(ERASED)} == end


def test_a_user_whom_nothing_holds_is_not_written_down(world):
    store, _ = world
    before = dict(store._objects)
    assert "nothing in the store holds this user" in said("nobody-at-all", "--yes")
    assert store._objects == before


def test_the_id_may_come_from_standard_input_or_as_a_pseudonym(world):
    _, user = world
    piped = json.loads(said("-", "--dry-run", "--json", input="user-7\n"))
    given = json.loads(said("--pseudonym", user, "--dry-run", "--json"))
    asked = said("--dry-run", input="user-7\n")
    assert piped == given and given["rows"] == 12
    assert "12 rows" in asked and "user-7" not in asked


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pseudonym", "xyz"], "64 hex digits"),
        (["user-7", "--pseudonym", "a" * 64], "either the raw id or --pseudonym"),
        ([" "], "blank user id"),
    ],
)
def test_what_names_nobody_is_refused(world, arguments, sentence):
    with pytest.raises(InputRejected, match=sentence):
        said(*arguments)


def test_a_stack_with_another_key_cannot_name_a_raw_id(world, tmp_path, monkeypatch):
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path / "other"))
    with pytest.raises(InputRejected, match="pseudonymised with key .*a raw id would name nobody"):
        said("user-7")
