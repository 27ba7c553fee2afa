"""Sixteen processes that want to move the rollout log at the same moment: `python -m tests.promoters_program LOG SCENE`.

Prints a JSON list: what became of each. A process of its own, so that it may fork without the threads of a test session.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.controller.log import SqliteLog
from tasks.domain import rollout_commands
from tasks.domain.errors import Conflict
from tasks.domain.rollout_log import Draft, Kind
from tasks.domain.rollout_state import RolloutState, fold
from tests.rollout_builders import a_policy

PROMOTERS = 16


def main() -> int:
    path, scene = Path(sys.argv[1]), sys.argv[2]
    forked = multiprocessing.get_context("fork")
    line, told = forked.Barrier(PROMOTERS), forked.Queue()
    processes = [forked.Process(target=promote, args=(number, path, scene, line, told)) for number in range(PROMOTERS)]
    for process in processes:
        process.start()
    outcomes = [told.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(10)
    print(json.dumps(outcomes))
    return 0


def promote(number: int, path: Path, scene: str, line: Any, told: Any) -> None:
    log = SqliteLog(path)
    state = fold(log.rows())
    draft = wanted(number, scene, state)
    line.wait(60)  # everybody has read the same revision
    try:
        row = log.append(draft, expected=state.revision, at=datetime.now(UTC))
        told.put({"promoter": number, "won": True, "rev": row.rev, "hash": row.hash})
    except Conflict as err:
        told.put({"promoter": number, "won": False, "said": str(err)})
    except Exception as err:  # anything else is what the test is there to find
        told.put({"promoter": number, "won": False, "said": repr(err), "unexpected": True})


def wanted(number: int, scene: str, state: RolloutState) -> Draft:
    release = f"{number:064x}"
    if scene == "sixteen releases":
        return Draft(
            op=f"promote-{number}",
            kind=Kind.PROMOTE,
            actor=f"promoter-{number}",
            reason="mine",
            to_release=release,
            weight=100,
        )
    if scene == "sixteen submissions":
        champion = state.champion.release if state.champion else None
        told = {"actor": "test", "reason": "mine", "expected_champion": champion}
        return rollout_commands.submit(
            state, op=f"submit-{number}", release=release, kind="canary", policy=a_policy(), **told
        )
    assert state.rollout is not None
    return rollout_commands.step_forward(state, state.rollout, "passed", {"judge": number})


if __name__ == "__main__":
    sys.exit(main())
