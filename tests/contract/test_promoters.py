"""The bar: of sixteen processes that promote at once, on the real log, exactly one wins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.controller.log import SqliteLog
from tasks.domain.rollout_commands import step_forward, submit
from tasks.domain.rollout_state import fold
from tests.promoters_program import PROMOTERS
from tests.rollout_builders import NOON, A, B, a_policy

ROUNDS = 5


def a_log_with_a_champion(path: Path) -> SqliteLog:
    log = SqliteLog(path)
    start = submit(fold([]), op="boot", release=A, kind="bootstrap", policy=a_policy(), actor="t", reason="first")
    log.append(start, expected=0, at=NOON)
    state = fold(log.rows())
    assert state.rollout is not None
    log.append(step_forward(state, state.rollout, "ready", {}), expected=1, at=NOON)
    return log


def sixteen(log: SqliteLog, scene: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.promoters_program", str(log.path), scene],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(outcomes) == PROMOTERS
    assert not [one for one in outcomes if one.get("unexpected")]
    return outcomes


@pytest.mark.parametrize("scene", ["sixteen releases", "sixteen submissions"])
def test_of_sixteen_processes_exactly_one_wins(tmp_path: Path, scene: str) -> None:
    for number in range(ROUNDS):
        log = a_log_with_a_champion(tmp_path / f"{number}.db")
        outcomes = sixteen(log, scene)
        (winner,) = (one for one in outcomes if one["won"])
        assert all(
            "is at revision 3, not 2: somebody else moved first" in one["said"] for one in outcomes if not one["won"]
        )
        rows = log.rows()
        assert len(rows) == 3 and rows[-1].to_release == f"{winner['promoter']:064x}"
        log.verify()


def test_sixteen_controllers_at_one_rung_write_one_row_and_are_told_the_same(tmp_path: Path) -> None:
    """After a crash a second controller may try the step that the first one took: one effect, no error."""
    log = a_log_with_a_champion(tmp_path / "log.db")
    state = fold(log.rows())
    start = submit(state, op="next", release=B, kind="canary", policy=a_policy(), actor="t", reason="r")
    log.append(start, expected=2, at=NOON)
    outcomes = sixteen(log, "one rung")
    assert {(one["won"], one["rev"], one["hash"]) for one in outcomes} == {(True, 4, log.rows()[-1].hash)}
    assert len(log.rows()) == 4
    log.verify()
