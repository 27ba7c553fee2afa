"""Which day is for what, and whose slates: decided before anything is trained."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.build_dataset import chosen_users, most_trips, split_days
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.manifest import partition_date
from tasks.domain.recipe import load_recipe
from tasks.ranker.arrays import epoch_day, iso_day
from tasks.ranker.days import day_keys, ensure_rows
from tasks.ranker.slates import Sampling
from tests.ranker_builders import DAY, a_log

DEMO = load_recipe("demo")


def told(days):
    return [
        (iso_day(part[0]), iso_day(part[-1])) if part else None for part in (days.train, days.validation, days.holdout)
    ]


def test_the_first_champion_trains_to_its_day_and_holds_nothing_out():
    assert told(split_days("2017-06-16", DEMO, holdout=False)) == [
        ("2017-04-01", "2017-06-13"),
        ("2017-06-14", "2017-06-16"),
        None,
    ]


def test_a_refresh_holds_out_seven_days_that_the_champion_has_not_seen():
    assert told(split_days("2017-07-01", DEMO, holdout=True)) == [
        ("2017-04-01", "2017-06-21"),
        ("2017-06-22", "2017-06-24"),
        ("2017-06-25", "2017-07-01"),
    ]


def test_a_day_before_training_can_start_is_refused():
    with pytest.raises(
        InputRejected, match="trains from 2017-04-01, but validation for 2017-04-03 starts on 2017-04-01"
    ):
        split_days("2017-04-03", DEMO, holdout=False)


@given(st.integers(30, 400), st.booleans())
def test_days_are_apart_and_without_gaps_and_end_with_the_partition(offset, holdout):
    partition = (partition_date("2017-04-01") + timedelta(days=offset)).isoformat()
    days = split_days(partition, DEMO, holdout=holdout)
    together = [*days.train, *days.validation, *days.holdout]
    assert together == list(range(together[0], epoch_day(partition) + 1))
    assert len(days.train) <= DEMO.data.train_days
    assert together[0] >= epoch_day(DEMO.data.train_from)


def test_most_trips_counts_days_not_lines_and_nothing_later():
    lines = (
        [(DAY, 0, item) for item in range(9)]
        + [(DAY - n, 1, 0) for n in range(3)]
        + [(DAY - n, 2, 0) for n in range(2)]
    )
    log = a_log([*lines, *((DAY + n, 3, 0) for n in range(1, 8))])
    assert most_trips(log, DAY, 2).tolist() == [1, 2]
    assert most_trips(log, DAY, 10).tolist() == [0, 1, 2], "who bought nothing yet is not chosen"


def test_two_users_are_the_least():
    with pytest.raises(InputRejected, match="fewer than two users"):
        most_trips(a_log([(DAY, 0, 0)]), DAY, 2)


def test_the_champions_users_stay_but_not_those_that_were_erased(tmp_path):
    log = a_log([(DAY, user, 0) for user in range(4)])
    (tmp_path / "users.json").write_text(json.dumps({"users": [log.user_ids[2], log.user_ids[1], "erased"]}))
    assert chosen_users(log, tmp_path).tolist() == [1, 2]


@pytest.mark.parametrize(("users", "sentence"), [(None, "holds no users.json"), (["gone"], "pseudonym key changed")])
def test_a_view_that_cannot_be_the_champions_is_refused(tmp_path, users, sentence):
    if users:
        (tmp_path / "users.json").write_text(json.dumps({"users": users}))
    with pytest.raises(InputRejected, match=sentence):
        chosen_users(a_log([(DAY, 0, 0)]), tmp_path)


def files_of(folder, days, text="x"):
    paths = []
    for day in days:
        path = folder / f"dt={iso_day(day)}" / "accepted.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}{day}")
        paths.append(path)
    return paths


def test_a_days_key_depends_on_all_days_up_to_it_and_on_none_after(tmp_path):
    catalogue = tmp_path / "catalogue.parquet"
    catalogue.write_text("items")
    paths = files_of(tmp_path, range(100, 110))
    before = day_keys(paths, [], catalogue, 100, 109, ["options"])
    paths[5].write_text("changed")
    after = day_keys(paths, [], catalogue, 100, 109, ["options"])
    assert [day for day in before if before[day] != after[day]] == [105, 106, 107, 108, 109]
    longer = day_keys([*paths, *files_of(tmp_path, [110])], [], catalogue, 100, 110, ["options"])
    assert {day: longer[day] for day in after} == after


def test_a_plan_changes_the_key_of_the_day_after_its_partition(tmp_path):
    catalogue = tmp_path / "catalogue.parquet"
    catalogue.write_text("items")
    accepted, plans = files_of(tmp_path / "a", range(100, 104)), files_of(tmp_path / "p", range(100, 104))
    before = day_keys(accepted, plans, catalogue, 100, 103, [])
    plans[1].write_text("changed")
    after = day_keys(accepted, plans, catalogue, 100, 103, [])
    assert [day for day in before if before[day] != after[day]] == [102, 103]


@pytest.mark.parametrize("other", [["options", 2], ["options"]])
def test_options_and_items_are_in_every_key(tmp_path, other):
    catalogue = tmp_path / "catalogue.parquet"
    catalogue.write_text("items")
    before = day_keys(files_of(tmp_path, [100]), [], catalogue, 100, 100, ["options"])
    if len(other) == 1:
        catalogue.write_text("other items")
    assert day_keys(files_of(tmp_path, [100]), [], catalogue, 100, 100, other) != before


def test_a_worker_that_fails_or_is_killed_is_told_apart(tmp_path, monkeypatch):
    sampling = Sampling(0.1, 0.1, 0.0, 1)
    with pytest.raises(InputRejected, match="worker of build_dataset failed"):
        ensure_rows(tmp_path, {DAY: tmp_path / "rows.safetensors"}, sampling, workers=1)
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr("tasks.ranker.days.sys.executable", str(killer))
    with pytest.raises(Unavailable, match="was killed"):
        ensure_rows(tmp_path, {DAY: tmp_path / "rows.safetensors"}, sampling, workers=1)


def test_days_that_exist_start_no_worker(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.ranker.days.sys.executable", "/no/such/python")
    (tmp_path / "rows.safetensors").touch()
    ensure_rows(tmp_path, {DAY: tmp_path / "rows.safetensors"}, Sampling(0.1, 0.1, 0.0, 1), workers=2)


def test_a_day_without_slates_is_no_error():
    from tasks.ranker.slates import training_rows
    from tests.ranker_builders import a_builder, stocked

    rows = training_rows(
        a_builder(a_log(stocked([(DAY - 3, 0, 0)]))), DAY, np.zeros((12, 16), np.uint8), Sampling(1, 1, 1, 0)
    )
    assert rows.ptr.tolist() == [0] and len(rows.x) == len(rows.tokens) == 0
