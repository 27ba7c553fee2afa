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
