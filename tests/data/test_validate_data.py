"""The step: sound days are published, broken ones are not, and every row is accounted for."""

from __future__ import annotations

import json
import logging
import math
import re
from datetime import timedelta

import polars as pl
import pytest

from tasks.adapters.accepted_days import fetch_accepted
from tasks.adapters.partitions import (
    accepted_days,
    landed_key,
    manifest_name,
    read_accepted_events,
    read_accepted_manifest,
    read_caught,
    read_landed_manifest,
    read_partition,
)
from tasks.adapters.store import MemoryStore
from tasks.domain.behaviour import next_day
from tasks.domain.errors import InputRejected
from tasks.ingest import ingest
from tasks.validate_data import load_policy, validate_data
from tests.behaviour_builders import (
    FIRST,
    KEY,
    KEY_ID,
    CrashingStore,
    TinySource,
    a_day,
    an_event,
    events_table,
    items_table,
    plan_table,
)

LAST = next_day(FIRST, 7)
DAYS = [next_day(FIRST, n) for n in range(8)]


def judged(tmp_path, bend=None, store=None, days=None):
    """Land eight days, the last one bent, and validate them."""
    source, store = TinySource(), MemoryStore() if store is None else store
    if bend is not None:
        bend(source)
    ingest(source, store, LAST, KEY, KEY_ID)
    return validate_data(days or DAYS, store, load_policy(), tmp_path / "out"), store


def last_day(rows):
    return lambda source: source.replaced.update({LAST: events_table(rows)})


def test_sound_days_are_accepted_whole(tmp_path):
    summary, store = judged(tmp_path)
    assert (summary["verdict"], summary["rows"], summary["quarantined"]) == ("pass", 1200, 0)
    assert accepted_days(store) == DAYS
    assert read_accepted_events(store, LAST).num_rows == 150
    json.dumps(summary)


MORNING = an_event(0, LAST)["event_time"]
REFUSED = [
    pytest.param(a_day(LAST, value=math.nan), "refuse", "all_null", id="a column that is all NaN"),
    pytest.param(a_day(LAST, 1), "refuse", "too_few", id="one row"),
    pytest.param(a_day(LAST, event_type="hover"), "refuse", "event_type_in_set", id="an unknown event type everywhere"),
    pytest.param(a_day(LAST, event_time=MORNING + timedelta(days=1)), "refuse", "wrong_day", id="a clock a day ahead"),
    pytest.param(a_day(LAST, event_time=MORNING - timedelta(days=1)), "hold", "late", id="a clock a day behind"),
    pytest.param(a_day(LAST, value=1e4), "refuse", "price_outlier", id="prices in another unit"),
    pytest.param(a_day(LAST, item_id="ghost"), "hold", "unknown_item", id="items of another shop"),
    pytest.param(a_day(LAST, user_id="bot"), "refuse", "user_flood", id="one user is the whole day"),
    pytest.param([*a_day(LAST), *a_day(LAST)], "hold", "duplicate", id="a file sent twice"),
    pytest.param(a_day(LAST, 600), "hold", "row_count", id="four times the usual rows"),
    pytest.param(
        [row | {"event_id": old["event_id"]} for row, old in zip(a_day(LAST), a_day(DAYS[3]), strict=True)],
        "refuse",
        "replayed",
        id="an earlier day sent again",
    ),
]


@pytest.mark.parametrize(("rows", "verdict", "rule"), REFUSED)
def test_a_broken_day_is_not_published_and_says_why(tmp_path, rows, verdict, rule):
    summary, store = judged(tmp_path, last_day(rows))
    assert summary["verdict"] == verdict
    assert summary["not_accepted"] == [LAST]
    assert any(f"{verdict}: {rule}: " in reason for reason in summary["reasons"][LAST])
    assert accepted_days(store) == DAYS[:-1]
    assert not [key for key in store.list("accepted/") if LAST in key]
    assert f"{verdict}: {rule}: " in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    "bend",
    [
        pytest.param(lambda s: s.plans.update({LAST: plan_table(display_share=1.5)}), id="plan"),
        pytest.param(lambda s: setattr(s, "item_table", items_table(title=" " * 600)), id="items"),
    ],
)
def test_a_day_with_a_broken_plan_or_item_table_is_refused(tmp_path, bend):
    summary, store = judged(tmp_path, bend)
    assert summary["verdict"] == "refuse"
    assert LAST not in accepted_days(store)


def test_a_few_bad_rows_are_quarantined_with_their_rules_and_the_rest_passes(tmp_path):
    bad = {1: {"item_id": "ghost"}, 2: {"value": math.inf}, 3: {"event_id": f"{LAST}-00000"}}
    summary, store = judged(tmp_path, last_day([an_event(n, LAST, **bad.get(n, {})) for n in range(150)]))
    assert summary["verdict"] == "pass"
    assert summary["quarantined_by_rule"] == {"duplicate": 1, "not_finite": 1, "unknown_item": 1}
    manifest = read_accepted_manifest(store, LAST)
    assert (manifest.rows, manifest.landed_rows, manifest.quarantined) == (147, 150, summary["quarantined_by_rule"])
    accepted = pl.DataFrame(read_accepted_events(store, LAST))
    caught = pl.DataFrame(read_caught(store, manifest))
    assert len(accepted) + len(caught) == 150
    assert sorted(caught.select("item_id", "rules", "marks").rows()) == [
        ("ghost", "unknown_item", ""),
        ("item-2", "not_finite", ""),
        ("item-3", "duplicate", ""),
    ]
    landed = pl.DataFrame(read_partition(store, LAST).events)
    assert landed[caught["row"].to_list()]["event_id"].to_list() == caught["event_id"].to_list()
    assert (
        pl.concat([accepted, caught.select(accepted.columns)]).sort("event_id").rows()
        == landed.with_columns(pl.col(pl.Categorical).cast(pl.String)).sort("event_id").rows()
    )
    assert pl.read_parquet(tmp_path / "out" / "quarantine.parquet")["partition"].to_list() == [LAST] * 3


def test_a_row_that_two_rules_catch_names_both(tmp_path):
    rows = [an_event(n, LAST, **({"item_id": "ghost", "discount": math.nan} if n == 5 else {})) for n in range(150)]
    judged(tmp_path, last_day(rows))
    assert pl.read_parquet(tmp_path / "out" / "quarantine.parquet")["rules"].to_list() == ["unknown_item,not_finite"]


def test_late_rows_are_marked_and_kept(tmp_path):
    rows = [*a_day(LAST), an_event(7000, LAST, event_time=MORNING - timedelta(hours=3))]
    summary, store = judged(tmp_path, last_day(rows))
    assert (summary["verdict"], summary["marked_by_rule"]) == ("pass", {"late": 1})
    assert read_accepted_events(store, LAST).num_rows == 151
    assert [row["marks"] for row in read_caught(store, read_accepted_manifest(store, LAST)).to_pylist()] == ["late"]


def test_a_day_that_was_landed_anew_while_it_was_judged_is_judged_again(tmp_path):
    _, store = judged(tmp_path)
    manifest = read_landed_manifest(store, LAST)
    again = manifest.model_copy(update={"revision": 2, "taken_out": ()})
    store.put_new(landed_key(LAST, manifest_name(2)), again.model_dump_json(indent=1).encode())
    summary = validate_data(DAYS, store, load_policy(), tmp_path / "again")
    assert (summary["verdict"], summary["already_accepted"]) == ("pass", 7)
    accepted = read_accepted_manifest(store, LAST)
    assert (accepted.revision, accepted.landed_revision) == (2, 2)


def test_an_empty_day_is_empty_alone_and_among_others(tmp_path):
    summary, store = judged(tmp_path, last_day([]))
    assert (summary["verdict"], summary["days"][LAST]["verdict"]) == ("empty", "empty")
    assert read_accepted_manifest(store, LAST).verdict == "empty"
    alone, store = judged(tmp_path / "alone", last_day([]), days=[LAST])
    assert alone["verdict"] == "empty"
    again = validate_data([LAST], store, load_policy(), tmp_path / "again")
    assert (again["verdict"], again["already_accepted"]) == ("empty", 1)


def test_an_older_refused_day_stays_out_and_does_not_stop_the_last_one(tmp_path):
    summary, store = judged(tmp_path, lambda s: s.replaced.update({DAYS[4]: events_table(a_day(DAYS[4], 1))}))
    assert (summary["verdict"], summary["not_accepted"]) == ("pass", [DAYS[4]])
    assert accepted_days(store) == [day for day in DAYS if day != DAYS[4]]


def test_a_held_day_does_not_pass_by_itself_once_it_is_old(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.validate_data.REMEMBERED_DAYS", 10)
    days = [next_day(FIRST, n) for n in range(20)]
    source, store = TinySource(), MemoryStore()
    source.replaced[LAST] = events_table(a_day(LAST, 600))
    ingest(source, store, days[-1], KEY, KEY_ID)
    validate_data(days[:-1], store, load_policy(), tmp_path / "nineteen")
    summary = validate_data(days, store, load_policy(), tmp_path / "one more")
    assert summary["days"].keys() == {LAST, days[-1]}, "eleven days were accepted since, more than are remembered"
    assert (summary["verdict"], summary["not_accepted"]) == ("pass", [LAST])


def test_accepted_days_are_skipped_and_nothing_is_written_again(tmp_path):
    _, store = judged(tmp_path)
    before = dict(store._objects)
    summary, _ = judged(tmp_path / "again", store=store)
    assert (summary["verdict"], summary["already_accepted"], summary["rows"]) == ("pass", 8, 0)
    assert store._objects == before


def test_one_call_or_a_call_a_day_publish_the_same_bytes(tmp_path):
    _, at_once = judged(tmp_path)
    daily = MemoryStore()
    ingest(TinySource(), daily, LAST, KEY, KEY_ID)
    for day in DAYS:
        validate_data([day], daily, load_policy(), tmp_path / day)
    assert daily._objects == at_once._objects


def test_killed_between_files_and_manifest_a_day_is_not_accepted_and_a_rerun_finishes(tmp_path):
    source, whole = TinySource(), MemoryStore()
    ingest(source, whole, FIRST, KEY, KEY_ID)
    validate_data([FIRST], whole, load_policy(), tmp_path / "whole")
    for writes in range(5):
        store = CrashingStore(10**6)
        ingest(source, store, FIRST, KEY, KEY_ID)
        store.left = writes
        with pytest.raises(KeyboardInterrupt):
            validate_data([FIRST], store, load_policy(), tmp_path / "out")
        assert accepted_days(store) == []
        store.left = 10**6
        validate_data([FIRST], store, load_policy(), tmp_path / "out")
        assert store._objects == whole._objects


def test_a_landed_file_that_changed_stops_the_step_by_name_and_publishes_nothing_of_that_day(tmp_path):
    source, store = TinySource(), MemoryStore()
    ingest(source, store, LAST, KEY, KEY_ID)
    key = next(key for key in store.list(f"behaviour/dt={DAYS[2]}/events"))
    store.replace(key, store.get(key)[:-9])
    with pytest.raises(InputRejected, match=key):
        validate_data(DAYS, store, load_policy(), tmp_path)
    assert accepted_days(store) == DAYS[:2]  # the days before it are whole, it and the days after it are not there


def test_no_day_at_all_is_no_pass(tmp_path):
    with pytest.raises(InputRejected, match="ingest lands days first"):
        validate_data([], MemoryStore(), load_policy(), tmp_path)


def test_the_report_is_one_file_that_needs_no_network(tmp_path):
    judged(tmp_path, last_day([*a_day(LAST), an_event(7000, LAST, item_id="<script>alert(1)</script>")]))
    out = tmp_path / "out"
    page = (out / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|<img", page)
    assert "width=device-width" in page and "<svg" in page and "unknown_item" in page
    linked = re.findall(r"href='([^']+)'", page)
    assert sorted(linked) == ["data_docs/events.html", "data_docs/items.html", "data_docs/plan.html"]
    assert all((out / link).read_text().startswith("<!DOCTYPE html>") for link in linked)


def test_no_raw_id_is_in_any_output(tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    user, basket = "RAWUSER-8d1f", "RAWBASKET-77ac"
    rows = [an_event(n, LAST, user_id=user, session_id=basket) if n < 3 else an_event(n, LAST) for n in range(150)]
    rows[1] |= {"item_id": "ghost"}
    summary, store = judged(tmp_path, last_day(rows))
    assert summary["quarantined"] == 1
    tables = [str(pl.read_parquet(body).rows()) for key, body in store._objects.items() if key.endswith(".parquet")]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6
    text = [str(pl.read_parquet(path).rows()) for path in files if path.suffix == ".parquet"]
    text += [path.read_text() for path in files if path.suffix != ".parquet"]
    captured = capsys.readouterr()
    everything = [*tables, *text, *map(repr, store._objects.values()), str(summary), caplog.text, *captured]
    assert any("ghost" in one for one in everything)  # the search would find what is there
    assert not [one[:80] for one in everything for raw in (user, basket) if raw in one]


def test_accepted_days_are_fetched_once_and_a_damaged_copy_is_fetched_again(tmp_path):
    _, store = judged(tmp_path)
    fetched = fetch_accepted(store, DAYS[2], tmp_path / "cache")
    assert fetched.days == DAYS[:3]
    assert [path.parent.name for path in (*fetched.events, *fetched.plans)] == [f"dt={day}" for day in DAYS[:3]] * 2
    fetched.events[1].write_bytes(b"torn")
    again = fetch_accepted(store, DAYS[2], tmp_path / "cache")
    assert len(pl.read_parquet(again.events[1])) == 150
    assert len(pl.read_parquet(again.catalogue)) == 20
