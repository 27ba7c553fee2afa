"""The plan and the table of benchmarks/kill_matrix.py: nothing is called right, or run, that was not."""

from __future__ import annotations

from typing import Any

from benchmarks import kill_matrix

EVERY = {f"{process}@{moment}" for process in kill_matrix.PROCESSES for moment in kill_matrix.MOMENTS}


def a_day(cell: str, *, wrong: tuple[str, ...] = (), **again: float) -> dict[str, Any]:
    return {"cell": cell, "day": "2017-07-02", "right": not wrong, "wrong": list(wrong), "again_after_s": again}


def test_eight_days_hit_every_process_at_every_step_once_and_each_in_the_order_of_the_steps() -> None:
    days = [kill_matrix._square(n).split("+") for n in range(8)]
    assert sorted(cell for day in days for cell in day) == sorted(EVERY) and len(EVERY) == 56
    for day in days:
        steps = [kill_matrix.MOMENTS.index(cell.partition("@")[2]) for cell in day]
        assert steps == sorted(set(steps))
        assert {cell.partition("@")[0] for cell in day} == set(kill_matrix.PROCESSES)


def test_what_was_hit_with_others_is_not_told_as_hit_alone() -> None:
    rows = [
        a_day("broker@gate+postgres@package", gate=4.2),
        a_day("broker@ingest"),
        a_day("nothing") | {"seconds": 5.0},
    ]
    assert len(kill_matrix._missing(rows)) == 55
    assert len(kill_matrix._missing(rows, alone=False)) == 53
    told = kill_matrix.as_markdown(rows)
    assert "| broker | right | - | - | - | - | - | (right, 4 s) | - |" in told
    assert "| postgres | - | - | - | - | - | - | - | (right) |" in told


def test_a_wrong_day_is_wrong_in_every_cell_of_it() -> None:
    told = kill_matrix.as_markdown([a_day("broker@gate+postgres@package", wrong=("2 decisions",))])
    assert told.count("**2 decisions**") == 2


def test_a_lost_worker_is_held_against_a_tenth_of_a_day_without_kills_and_a_checkpoint() -> None:
    now = {"at": "2026-11-29T13:00:00+00:00", "seconds": 300.0}
    days = [
        a_day("nothing") | now,
        a_day("worker-gpu@compress+broker@gate", compress=36.0, gate=99.0) | now,
        a_day("worker-default@ingest", ingest=74.0),  # of before: it is told, and not held against the bar
    ]
    rows = {row.bar: row for row in kill_matrix.bars(days)}
    assert (rows["the same, longest"].ours, rows["the same, longest"].target) == (36.0, 35.0)
    assert rows["the same, longest"].reached is False
    assert rows["the same before, by missed heartbeats, median of 1"].ours == 74.0
    assert rows["cells hit, of 56"].ours == 3 and rows["cells hit, of 56"].reached is False
    assert rows["days with kills that ended right"].reached is True
    wrong = kill_matrix.bars([*days, a_day("broker@package", wrong=("2 decisions",))])
    assert wrong[0].reached is False and (wrong[0].ours, wrong[0].target) == (2, 3)
