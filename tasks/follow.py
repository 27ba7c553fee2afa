"""Start a refresh through the scheduler and follow it, live, to what serves in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tasks.adapters.airflow import FINAL_STATES, AirflowClient
from tasks.adapters.store import open_store
from tasks.controller.client import ENDED, ControllerClient
from tasks.decisions import explanation
from tasks.domain.errors import FreshrankError, InputRejected, Unavailable
from tasks.domain.refresh import not_taken
from tasks.progress import last_said
from tasks.settings import Settings

REFRESH, ROLLOUT, ROLLBACK = "model_refresh", "model_rollout", "model_rollback"
Answer = TypeVar("Answer")
POLL_S = 1.0
LOOK_S = 4.0  # at the logs of running steps
RESTART_S = 120.0  # within which a killed api-server answers again, on a busy machine


def start_refresh(settings: Settings, conf: dict[str, Any]) -> str:
    airflow = AirflowClient(settings)
    for dag in (REFRESH, ROLLOUT, ROLLBACK):
        airflow.unpause(dag)
    return airflow.trigger(REFRESH, conf)


def follow_refresh(settings: Settings, run_id: str, screen: Console, *, deadline_s: float = 3600) -> dict[str, Any]:
    """Show a live table of the run's steps until the run, and the rollout that it started, have ended.

    Returns {ok, run, shipped, release, rollout, sentence, steps: {task: seconds}, seconds}.
    """
    airflow, began = AirflowClient(settings), time.monotonic()
    earlier = _patiently(lambda: _rollout_runs(airflow))
    steps = _follow_run(airflow, REFRESH, run_id, screen, deadline_s)
    state = _patiently(lambda: airflow.run_state(REFRESH, run_id))
    result: dict[str, Any] = {
        "ok": state == "success",
        "run": run_id,
        "steps": steps,
        "shipped": "none",
        "release": None,
        "rollout": None,
    }
    if state != "success":
        why = _patiently(lambda: _why(settings, airflow, REFRESH, run_id))
        result["sentence"] = f"{REFRESH} failed; the champion keeps serving. {why}"
        return result | {"seconds": time.monotonic() - began}
    told = _patiently(lambda: _explained(settings, airflow, run_id))
    if told is None:
        result["sentence"] = "nothing to do: the day brought no data that may be trained on; the champion keeps serving"
    elif told["release"] is None:
        result["sentence"] = f"nothing shipped, the champion keeps serving: {told['reason']}"
    else:
        rollout = _follow_rollout(settings, airflow, told["release"], earlier.keys(), screen, deadline_s)
        result |= {
            "shipped": told["shipped"],
            "release": told["release"],
            "rollout": rollout,
            "ok": rollout["state"] == "promoted",
        }
        result["sentence"] = (
            f"shipped {told['shipped']} as release {told['release'][:12]}, rollout {rollout['state']}: {rollout['reason']}"
        )
    return result | {"seconds": time.monotonic() - began}


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """The answer, also where an api-server is being started again just now. Raises Unavailable after RESTART_S."""
    until = time.monotonic() + RESTART_S
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_S)


def _follow_run(airflow: AirflowClient, dag: str, run_id: str, screen: Console, deadline_s: float) -> dict[str, float]:
    began, until = time.monotonic(), time.monotonic() + deadline_s
    seen: dict[str, str] = {}
    progress: dict[str, str] = {}
    looked = 0.0
    with Live(console=screen, refresh_per_second=2, transient=True) as live:
        while True:
            try:
                tasks, state = airflow.tasks(dag, run_id), airflow.run_state(dag, run_id)
            except Unavailable:  # a restarted api-server costs a blank in the table, not the run
                time.sleep(POLL_S)
                tasks, state = [], "unknown"
            if time.monotonic() - looked > LOOK_S:
                progress, looked = _progress(airflow, dag, run_id, tasks, progress), time.monotonic()
            if tasks:
                live.update(_table(dag, tasks, progress, time.monotonic() - began))
                if not screen.is_terminal:
                    _print_changes(screen, tasks, progress, seen, time.monotonic() - began)
            if state in FINAL_STATES:
                break
            if time.monotonic() > until:
                raise Unavailable(
                    f"{dag} {run_id} is still {state} after {deadline_s:.0f} s; watch it on {airflow.run_page(dag, run_id)}"
                )
            time.sleep(POLL_S)
    if screen.is_terminal:
        screen.print(_table(dag, tasks, {}, time.monotonic() - began))
    return {task["task_id"]: round(task["duration"] or 0.0, 1) for task in tasks if task["state"] == "success"}


def _progress(
    airflow: AirflowClient, dag: str, run_id: str, tasks: list[dict[str, Any]], before: dict[str, str]
) -> dict[str, str]:
    """The latest progress line of each running step, read from its log. A log that cannot be read keeps the last one."""
    said = {}
    for task in tasks:
        name = task["task_id"]
        if task["state"] == "running":
            try:
                said[name] = last_said(airflow.task_log(dag, run_id, name, task["try_number"]))
            except FreshrankError:
                said[name] = before.get(name, "")
    return said


def _table(dag: str, tasks: list[dict[str, Any]], progress: dict[str, str], elapsed: float) -> Table:
    table = Table(title=f"{dag}  {elapsed:.0f} s", header_style="bold")
    for column in ("step", "state", "seconds", "progress"):
        table.add_column(column)
    for task in sorted(tasks, key=lambda task: task["start_date"] or "9"):
        seconds = f"{task['duration']:.1f}" if task["duration"] else ("..." if task["state"] == "running" else "")
        table.add_row(task["task_id"], task["state"] or "waiting", seconds, progress.get(task["task_id"], ""))
    return table


def _print_changes(
    screen: Console, tasks: list[dict[str, Any]], progress: dict[str, str], seen: dict[str, str], elapsed: float
) -> None:
    for name, line in progress.items():
        if line and seen.get(f"{name} said") != line:
            screen.print(f"             {line}")
            seen[f"{name} said"] = line
    for task in tasks:
        name, state = task["task_id"], task["state"] or "waiting"
        if seen.get(name) != state and state not in ("waiting", "scheduled", "queued"):
            seconds = f" in {task['duration']:.1f} s" if task["duration"] and state == "success" else ""
            screen.print(f"  {elapsed:6.1f} s  {name}: {state}{seconds}")
            seen[name] = state


def _explained(settings: Settings, airflow: AirflowClient, run_id: str) -> dict[str, Any] | None:
    try:
        uri = airflow.xcom(REFRESH, run_id, "gate")
    except InputRejected:  # the gate was skipped: an empty or refused day
        return None
    return explanation(open_store(settings), uri)


def _why(settings: Settings, airflow: AirflowClient, dag: str, run_id: str) -> str:
    failed = [task for task in airflow.tasks(dag, run_id) if task["state"] == "failed"]
    if not failed:
        return f"See {airflow.run_page(dag, run_id)}"
    task = failed[0]
    if task.get("queued_when") and task.get("hostname") == "":  # of a task that a worker takes, it is the worker's
        said = not_taken(task["task_id"], task["queue"], settings.queued_deadline_s)
        return f"{said}. See {airflow.run_page(dag, run_id)}"
    log = airflow.task_log(dag, run_id, task["task_id"], task["try_number"]).splitlines()
    told = [
        line
        for line in log
        if "Error: " in line or "Rejected: " in line or "Unavailable: " in line or "Conflict: " in line
    ]
    return f"Step {task['task_id']}: {told[-1] if told else 'see its log'}. See {airflow.run_page(dag, run_id)}"


def _follow_rollout(
    settings: Settings,
    airflow: AirflowClient,
    release: str,
    earlier: Collection[str],
    screen: Console,
    deadline_s: float,
) -> dict[str, Any]:
    """The end of the rollout of `release`: {state, reason}.

    Until the asset event has started it, nothing is known of it. It never starts where the release serves already, or where
    the controller refused it (rollouts are frozen, another champion serves): then a run of model_rollout that is not among
    the `earlier` ones has failed.
    """
    controller, until = ControllerClient(settings), time.monotonic() + deadline_s
    said = ""
    while time.monotonic() < until:
        try:
            status = controller.status()
            rollout = status.get("rollout") or {}
            mine = rollout.get("release") == release
            if mine and rollout["state"] in ENDED:
                return {"state": rollout["state"], "reason": rollout["reason"]}
            if not mine and (status.get("champion") or {}).get("digest") == release:
                return {"state": "promoted", "reason": "it serves already: this refresh made the same bytes"}
            runs = {} if mine else _rollout_runs(airflow)
            if failed := [run for run in runs if run not in earlier and runs[run] == "failed"]:
                return {"state": "refused", "reason": _why(settings, airflow, ROLLOUT, failed[0])}
        except Unavailable:  # a restarted controller or api-server costs a second, not the answer
            time.sleep(POLL_S)
            continue
        where = f"{rollout['state']}: {rollout['reason']}" if mine else "waiting: the asset event starts model_rollout"
        if where != said:
            screen.print(f"  rollout {where}")
            said = where
        time.sleep(POLL_S)
    raise Unavailable(f"the rollout of {release[:12]} has not ended after {deadline_s:.0f} s; see `freshrank status`")


def _rollout_runs(airflow: AirflowClient) -> dict[str, str]:
    """Run id -> state of the newest runs of model_rollout."""
    return {str(run["dag_run_id"]): str(run["state"]) for run in airflow.runs(ROLLOUT)}
