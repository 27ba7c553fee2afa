"""SIGKILL of one process at one moment of a refresh, on the whole stack with workers; then: did the day end as it should?

    python -m benchmarks.kill_matrix HOME [nothing | nothing@state | PROCESS@STEP[+PROCESS@STEP...] | square-N ...]

HOME is made and bootstrapped, or joined where its stack runs. Each cell is a refresh of its own, of the next day, with the tiny
recipe: the process is killed as STEP starts to run. Joined by +, several are killed on one day, each at a step of its own;
square-0 to square-7 are eight such days, which together hit every process at every step once. Where finetune or compress is
hit, both candidates are made; the other days make a new state alone, which takes half the time and goes through the same steps but
those two. A day is right if its refresh succeeds, it has exactly one decision, and what it shipped has exactly one release, which
serves, after exactly one rollout. Days are written as they end and are not repeated, so that the matrix can be filled in pieces; a
cell that was not run is named as not run.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks._table import Row, at_least, below, publish
from infra.local.run import FIRST_REFRESH, bootstrap
from infra.local.up import bring_up
from tasks import service_table
from tasks.adapters.airflow import FINAL_STATES, AirflowClient
from tasks.adapters.store import open_store
from tasks.controller.client import ControllerClient
from tasks.decisions import explanation
from tasks.domain.behaviour import next_day
from tasks.domain.errors import FreshrankError
from tasks.domain.rollout_log import Kind
from tasks.follow import REFRESH, follow_refresh, start_refresh
from tasks.settings import Settings

RESULT = Path(__file__).parent / "results" / "kill_matrix.json"
PROCESSES = (
    *("airflow-scheduler", "airflow-api-server", "airflow-triggerer", "worker-default", "worker-gpu"),
    *("broker", "postgres"),
)
MOMENTS = ("ingest", "validate_data", "build_dataset", "finetune", "compress", "evaluate", "gate", "package")
TRAINED = {"finetune", "compress"}  # a refresh for a new state alone skips them
UNFAULTED = "nothing"
PORT_BASE = 33_000
CHECKPOINT_S, ADDED = 5, 0.10  # the bar: a tenth of a day on which nothing is killed, and one checkpoint interval
quiet = Console(quiet=True)


def main(arguments: list[str]) -> int:
    home, cells = Path(arguments[0]), arguments[1:] or [f"{p}@{m}" for m in MOMENTS for p in PROCESSES]
    os.environ |= {"FRESHRANK_EXECUTOR": "celery", "FRESHRANK_RECIPE": "tiny", "FRESHRANK_POLICY": "tiny"}
    running = service_table.read_supervisor(Settings(home=home)) or {}
    os.environ |= {"FRESHRANK_HOME": str(home), "FRESHRANK_PORT_BASE": str(running.get("port_base", PORT_BASE))}
    settings = Settings()
    bring_up(settings, quiet, timeout_s=600)
    bootstrap(settings)
    for cell in (_square(int(cell[-1])) if cell.startswith("square-") else cell for cell in cells):
        days = _days()
        if not cell.startswith(UNFAULTED) and any(day["cell"] == cell for day in days):
            continue
        days.append(played(cell, day_to_refresh(settings), settings))
        print(json.dumps(days[-1]), flush=True)
        record(days)
    print(as_markdown(_days()))
    return 0


def record(days: list[dict[str, Any]]) -> None:
    evidence = {"recipe": "tiny", "days": days, "not_run": _missing(days, alone=False), "not_run_alone": _missing(days)}
    publish("kill_matrix", bars(days), ("apache-airflow", "celery"), evidence=evidence)


def bars(days: list[dict[str, Any]]) -> list[Row]:
    killed = [day for day in days if not day["cell"].startswith(UNFAULTED)]
    cells = len(PROCESSES) * len(MOMENTS)
    rows = [
        at_least("days with kills that ended right", sum(day["right"] for day in killed), "", len(killed)),
        at_least("cells hit, of 56", cells - len(_missing(days, alone=False)), "", cells),
        Row("of them as the only kill of their day", cells - len(_missing(days)), ""),
    ]
    # days without `at` are of before a worker gave back what its predecessor had lost; they were slower for other reasons, too
    now = [day for day in days if "at" in day]
    plain = [day["seconds"] for day in now if day["cell"] == UNFAULTED]
    if plain and (lost := _lost(now)):
        unfaulted = statistics.median(plain)
        allowed = round(ADDED * unfaulted + CHECKPOINT_S, 1)
        rows += [
            Row(f"a day on which nothing is killed, median of {len(plain)}", unfaulted, "s"),
            Row(
                f"from the kill of a worker to the next try of its step, median of {len(lost)}",
                statistics.median(lost),
                "s",
            ),
            below("the same, longest", max(lost), "s", allowed),
        ]
    if before := _lost([day for day in days if "at" not in day]):
        rows.append(
            Row(f"the same before, by missed heartbeats, median of {len(before)}", statistics.median(before), "s")
        )
    return rows


def _lost(days: list[dict[str, Any]]) -> list[float]:
    """Seconds from the kill of a worker to the next try of the step that it ran."""
    return [
        seconds
        for day in days
        for step, seconds in day.get("again_after_s", {}).items()
        if {f"worker-default@{step}", f"worker-gpu@{step}"} & set(day["cell"].split("+"))
    ]


def played(
    cell: str, day: str, settings: Settings, *, recipe: str | None = None, ripe: Callable[[], bool] = lambda: True
) -> dict[str, Any]:
    """One refresh with one kill in it, as STEP has begun and `ripe` says yes: {cell, day, right, seconds, tries, shipped, ...}."""
    airflow, controller, began = AirflowClient(settings), ControllerClient(settings), time.monotonic()
    kills = [] if cell.startswith(UNFAULTED) else [kill.partition("@")[::2] for kill in cell.split("+")]
    candidates = "both" if cell == UNFAULTED or TRAINED & {moment for _, moment in kills} else "state"
    before = controller.log()[-1]["rev"]
    run = start_refresh(settings, {"partition": day, "recipe": recipe, "candidates": candidates})
    killed: list[tuple[str, datetime]] = []
    for process, moment in kills:
        _when_running(airflow, run, moment)
        while not ripe():
            time.sleep(0.2)
        os.kill(int(service_table.read_services(settings)[process]["pid"]), signal.SIGKILL)
        killed.append((moment, datetime.now(UTC)))
    told = follow_refresh(settings, run, quiet, deadline_s=1200)
    seconds = time.monotonic() - began
    again = [task for task in airflow.tasks(REFRESH, run) if task["try_number"] > 1]
    started = [row for row in controller.log(after=before) if row["kind"] == Kind.START]
    wrong = _wrong(told, day, settings, len(started))
    return {
        "cell": cell,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "day": day,
        "run": run,
        "candidates": candidates,
        "right": not wrong,
        "wrong": wrong,
        "seconds": round(seconds, 1),
        "tries": {task["task_id"]: task["try_number"] for task in again},
        "again_after_s": {
            task["task_id"]: round((datetime.fromisoformat(task["start_date"]) - at).total_seconds(), 1)
            for task in again
            for moment, at in killed
            if moment == task["task_id"]
        },
        "shipped": told["shipped"],
        "sentence": told["sentence"][:300],
    }


def _when_running(airflow: AirflowClient, run: str, step: str) -> None:
    while True:
        try:
            states = {task["task_id"]: task["state"] for task in airflow.tasks(REFRESH, run)}
            if states.get(step) in ("running", *FINAL_STATES) or airflow.run_state(REFRESH, run) in FINAL_STATES:
                return
        except FreshrankError:
            pass
        time.sleep(0.2)


def _wrong(told: dict[str, Any], day: str, settings: Settings, rollouts: int) -> list[str]:
    """Everything in which the end differs from that of a day on which nothing was killed."""
    store, wrong = open_store(settings), []
    if not told["ok"]:
        wrong.append(told["sentence"][:200])
    gates = [key for key in store.list(f"runs/gate/{day}/") if key.count("/") == 3 and key.endswith(".json")]
    if len(gates) != 1:
        wrong.append(f"{len(gates)} decisions")
    packaged = [key for key in store.list(f"runs/package/{day}/") if key.count("/") == 3 and key.endswith(".json")]
    ships = bool(gates) and explanation(store, store.uri(gates[0]))["release"] is not None
    if len(packaged) != int(ships):
        wrong.append(f"{len(packaged)} releases packaged")
    if rollouts != int(ships):
        wrong.append(f"{rollouts} rollouts")
    status = ControllerClient(settings).status()
    if ships and status["champion"]["digest"] != told["release"]:
        wrong.append("what was shipped does not serve")
    if sum(status["weights"].values()) != 100:
        wrong.append(f"weights {status['weights']}")
    return wrong


def _days() -> list[dict[str, Any]]:
    days: list[dict[str, Any]] = json.loads(RESULT.read_text())["days"] if RESULT.exists() else []
    return days


def _missing(rows: list[dict[str, Any]], *, alone: bool = True) -> list[str]:
    done = {cell for row in rows for cell in ([row["cell"]] if alone else row["cell"].split("+"))}
    return [cell for m in MOMENTS for p in PROCESSES if (cell := f"{p}@{m}") not in done]


def _square(shift: int) -> str:
    kills = [((n + shift) % len(MOMENTS), process) for n, process in enumerate(PROCESSES)]
    return "+".join(f"{process}@{MOMENTS[moment]}" for moment, process in sorted(kills))


def day_to_refresh(settings: Settings) -> str:
    """The day after the last one that this home has decided."""
    decided = [key.split("/")[2] for key in open_store(settings).list("runs/gate/")]
    return max(next_day(max(decided)), FIRST_REFRESH)  # the first champion was judged on a day long before


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """By cell how the day ended and after how many seconds the step ran again; in brackets what was hit with others on one day."""
    lines = []
    for name, kind in ((UNFAULTED, "both candidates"), (f"{UNFAULTED}@state", "a new state alone")):
        if alone := [row["seconds"] for row in rows if row["cell"] == name]:
            lines += [f"Nothing killed, {kind}: median {statistics.median(alone):.0f} s of {len(alone)}", ""]
    lines += [f"| killed | {' | '.join(MOMENTS)} |", f"| --- |{' --- |' * len(MOMENTS)}"]
    lines += [f"| {p} | {' | '.join(_told(rows, p, m) for m in MOMENTS)} |" for p in PROCESSES]
    return "\n".join(lines)


def _told(rows: list[dict[str, Any]], process: str, moment: str) -> str:
    hit = [row for row in rows if f"{process}@{moment}" in row["cell"].split("+")]
    if not hit:
        return "-"
    row = min(reversed(hit), key=lambda row: row["cell"].count("+"))  # alone if it ever was, and of these the newest
    again = row.get("again_after_s", {}).get(moment)
    said = ("right" if again is None else f"right, {again:.0f} s") if row["right"] else f"**{'; '.join(row['wrong'])}**"
    return f"({said})" if "+" in row["cell"] else said


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
