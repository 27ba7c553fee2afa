"""Which day is for what, and whose slates: decided before anything is trained."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.build_dataset import chosen_users, most_trips
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.manifest import partition_date
from tasks.domain.recipe import load_recipe
from tasks.ranker.arrays import epoch_day, iso_day
from tasks.ranker.days import day_keys, ensure_rows
from tasks.ranker.rows import Sampling, training_rows
from tasks.ranker.slates import slates_on
from tasks.ranker.split import holdout_length, split_days
from tests.ranker_builders import DAY, a_builder, a_log, stocked

DEMO = load_recipe("demo")


def told(days):
    return [
        (iso_day(part[0]), iso_day(part[-1])) if part else None for part in (days.train, days.validation, days.holdout)
    ]


def delayed(days, **fields):
    return DEMO.model_copy(update={"data": DEMO.data.model_copy(update={"label_delay_days": days, **fields})})


def enough(day):
    return DEMO.data.holdout_slates


def test_the_first_champion_trains_to_its_day_and_holds_nothing_out():
    assert told(split_days("2017-06-16", DEMO, None)) == [
        ("2017-04-01", "2017-06-13"),
        ("2017-06-14", "2017-06-16"),
        None,
    ]


def test_a_refresh_holds_out_seven_days_that_the_champion_has_not_seen():
    days = split_days("2017-07-01", DEMO, enough)
    assert told(days) == [
        ("2017-04-01", "2017-06-21"),
        ("2017-06-22", "2017-06-24"),
        ("2017-06-25", "2017-07-01"),
    ]
    assert iso_day(days.train_end) == "2017-06-24"


@pytest.mark.parametrize(
    ("a_day", "length"),
    [
        pytest.param(1_000, 7, id="enough on the first day: still a week"),
        pytest.param(150, 7, id="1,050 in a week"),
        pytest.param(142, 8, id="994 in a week, 1,136 in eight days"),
        pytest.param(72, 14, id="1,008 in fourteen days"),
        pytest.param(1, 14, id="never enough: fourteen and no more"),
    ],
)
def test_the_holdout_has_the_fewest_days_that_hold_enough_slates(a_day, length):
    days = split_days("2017-07-01", DEMO, lambda day: a_day)
    assert len(days.holdout) == length
    assert days.train_end == days.holdout[0] - 1 == days.validation[-1]


@given(st.lists(st.integers(0, 400), min_size=20, max_size=20))
def test_a_holdout_grows_by_one_day_at_most_from_one_morning_to_the_next(slates):
    """So the champion of yesterday, trained up to yesterday's holdout, has never seen today's."""
    today, tomorrow = slates[1:][::-1], slates[::-1]
    assert holdout_length(tomorrow, DEMO.data) <= holdout_length(today, DEMO.data) + 1


def test_labels_that_come_late_are_waited_for_and_not_taken_from_the_holdout():
    days = split_days("2017-07-01", delayed(2), enough)
    assert told(days) == [
        ("2017-04-01", "2017-06-17"),
        ("2017-06-18", "2017-06-20"),
        ("2017-06-23", "2017-06-29"),
    ], "two days have not all their labels; the labels of the two before the holdout lie in it"
    assert iso_day(days.train_end) == "2017-06-22", "labels of 20 June may come until then"
    first = split_days("2017-06-16", delayed(2), None)
    assert told(first)[1] == ("2017-06-12", "2017-06-14") and iso_day(first.train_end) == "2017-06-16"


def test_a_day_before_training_can_start_is_refused():
    with pytest.raises(
        InputRejected, match="trains from 2017-04-01, but validation for 2017-04-03 starts on 2017-04-01"
    ):
        split_days("2017-04-03", DEMO, None)


@given(st.integers(30, 400), st.none() | st.integers(0, 400), st.integers(0, 5))
def test_days_are_apart_and_end_with_the_partition(offset, a_day, delay):
    partition = (partition_date("2017-04-01") + timedelta(days=offset)).isoformat()
    recipe = delayed(delay)
    days = split_days(partition, recipe, None if a_day is None else lambda day: a_day)
    together = [*days.train, *days.validation, *days.holdout]
    assert together == sorted(set(together))
    assert together[-1] == epoch_day(partition) - delay
    assert days.validation[-1] + delay <= days.train_end < min(days.holdout, default=days.last + 1)
    assert len(days.train) <= recipe.data.train_days
    assert together[0] >= epoch_day(recipe.data.train_from)


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


def test_slates_are_counted_as_they_are_made():
    log = a_log(stocked([(DAY, 0, 0), (DAY, 0, 1), (DAY, 1, 2), (DAY, 2, 11), (DAY - 1, 1, 2)], items=11))
    builder = a_builder(log, users=[0, 1, 2])
    for day in (DAY - 2, DAY - 1, DAY):
        assert builder.slate_count(day) == len(slates_on(builder, day)[1])
    assert builder.slate_count(DAY) == 2, "item 11 was never sold before, so nobody can be offered it"


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
        ensure_rows(tmp_path, {DAY: tmp_path / "rows.safetensors"}, sampling, DAY, workers=1)
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr("tasks.ranker.days.sys.executable", str(killer))
    with pytest.raises(Unavailable, match="was killed"):
        ensure_rows(tmp_path, {DAY: tmp_path / "rows.safetensors"}, sampling, DAY, workers=1)


def test_days_that_exist_start_no_worker(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.ranker.days.sys.executable", "/no/such/python")
    (tmp_path / "rows.safetensors").touch()
    ensure_rows(tmp_path, {DAY: tmp_path / "rows.safetensors"}, Sampling(0.1, 0.1, 0.0, 1), DAY, workers=2)


def test_a_day_without_slates_is_no_error():
    rows = training_rows(
        a_builder(a_log(stocked([(DAY - 3, 0, 0)]))), DAY, np.zeros((12, 16), np.uint8), Sampling(1, 1, 1, 0)
    )
    assert rows.ptr.tolist() == [0] and len(rows.x) == len(rows.tokens) == 0
