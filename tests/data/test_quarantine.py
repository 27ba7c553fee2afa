"""What a person lets pass comes back, row for row, with a name and a reason; everything else stays caught."""

from __future__ import annotations

import polars as pl
import pytest

from tasks.adapters.accepted_days import fetch_accepted
from tasks.adapters.partitions import accepted_days, accepted_revisions, read_accepted_events, read_accepted_manifest
from tasks.adapters.store import MemoryStore
from tasks.domain.behaviour import next_day
from tasks.domain.errors import InputRejected
from tasks.ingest import ingest
from tasks.quarantine import look, release
from tasks.validate_data import load_policy, validate_data
from tests.behaviour_builders import FIRST, KEY, KEY_ID, TinySource, a_day, an_event, events_table

DAYS = [next_day(FIRST, n) for n in range(8)]
LAST = DAYS[-1]


@pytest.fixture
def judged(tmp_path):
    """Eight days; the last has an unknown item in two rows, an infinite price in one, and a late row."""

    def of(rows):
        source, store = TinySource(), MemoryStore()
        source.replaced[LAST] = events_table(rows)
        ingest(source, store, LAST, KEY, KEY_ID)
        return store, validate_data(DAYS, store, load_policy(), tmp_path / "out")

    return of


BENT = {3: {"item_id": "ghost"}, 4: {"item_id": "ghost"}, 5: {"value": float("inf")}}
ROWS = [an_event(n, LAST, **BENT.get(n, {})) for n in range(150)]


def let_pass(store, tmp_path, *rules, reason="the shop opened a new aisle"):
    return release(store, LAST, rules, "cli:ada", reason, load_policy(), tmp_path / "again")


def test_released_rows_come_back_and_what_other_rules_caught_stays(judged, tmp_path):
    store, before = judged(ROWS)
    assert before["quarantined_by_rule"] == {"not_finite": 1, "unknown_item": 2}
    told = let_pass(store, tmp_path, "unknown_item")
    assert (told["verdict"], told["quarantined_by_rule"], told["marked_by_rule"]) == (
        "released",
        {"not_finite": 1},
        {"unknown_item": 2},
    )
    accepted = pl.DataFrame(read_accepted_events(store, LAST))
    assert (len(accepted), accepted["item_id"].to_list().count("ghost")) == (149, 2)
    manifest = read_accepted_manifest(store, LAST)
    assert (manifest.revision, manifest.verdict) == (2, "released")
    assert manifest.released["unknown_item"].startswith("cli:ada at ")
    assert manifest.released["unknown_item"].endswith(": the shop opened a new aisle")
    assert read_accepted_manifest(store, LAST, 1).rows == 147  # what was decided before is still there


def test_what_reads_accepted_days_sees_the_released_rows(judged, tmp_path):
    store, _ = judged(ROWS)
    assert len(pl.read_parquet(fetch_accepted(store, LAST, tmp_path / "cache").events[-1])) == 147
    let_pass(store, tmp_path, "unknown_item", "not_finite")
    assert len(pl.read_parquet(fetch_accepted(store, LAST, tmp_path / "cache").events[-1])) == 150


def test_a_held_day_is_used_once_the_rule_that_held_it_may_pass(judged, tmp_path):
    store, before = judged(a_day(LAST, 600))
    assert (before["verdict"], accepted_days(store)) == ("hold", DAYS[:-1])
    assert let_pass(store, tmp_path, "row_count")["verdict"] == "released"
    assert accepted_days(store) == DAYS
    again = validate_data(DAYS, store, load_policy(), tmp_path / "third")
    assert (again["verdict"], again["already_accepted"]) == ("released", 8)


def test_an_event_that_came_again_while_its_day_was_held_counts_once(tmp_path):
    held, after = LAST, next_day(LAST)
    source, store = TinySource(), MemoryStore()
    source.replaced[held] = events_table(a_day(held, 600))
    source.replaced[after] = events_table([*a_day(after), *a_day(held, 5)])
    ingest(source, store, after, KEY, KEY_ID)
    validate_data([*DAYS, after], store, load_policy(), tmp_path / "first")
    assert accepted_days(store) == [*DAYS[:-1], after], "the day after, with five late rows"
    told = release(store, held, ["row_count"], "cli:ada", "a sale", load_policy(), tmp_path / "second")
    assert (told["verdict"], told["quarantined_by_rule"]) == ("released", {"replayed": 5})
    ids = [one for day in accepted_days(store) for one in read_accepted_events(store, day)["event_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == 8 * 150 + 600


def test_looking_changes_nothing(judged, tmp_path):
    store, _ = judged(ROWS)
    before = dict(store._objects)
    told = look(store, LAST, load_policy(), tmp_path / "look")
    assert (told["quarantined_by_rule"], told["revision"], told["released"]) == (
        {"not_finite": 1, "unknown_item": 2},
        1,
        {},
    )
    assert store._objects == before
    assert (tmp_path / "look" / "report.html").exists()


@pytest.mark.parametrize(
    ("rules", "reason", "sentence"),
    [
        (["ghost_rule"], "because", "there is no rule ghost_rule"),
        ([], "because", "there is no rule"),
        (["duplicate"], "because", "duplicate found nothing in .*not_finite, unknown_item"),
        (["unknown_item"], "  ", "say in up to 500 characters"),
        (["unknown_item"], "x" * 501, "say in up to 500 characters"),
    ],
)
def test_a_release_that_makes_no_sense_is_refused_and_leaves_no_trace(judged, tmp_path, rules, reason, sentence):
    store, _ = judged(ROWS)
    before = dict(store._objects)
    with pytest.raises(InputRejected, match=sentence):
        let_pass(store, tmp_path, *rules, reason=reason)
    assert store._objects == before


def test_a_day_that_never_landed_cannot_be_released(judged, tmp_path):
    store, _ = judged(ROWS)
    with pytest.raises(InputRejected, match="is not landed"):
        release(store, next_day(LAST), ["unknown_item"], "cli:ada", "why", load_policy(), tmp_path)
    assert accepted_revisions(store)[LAST] == 1
