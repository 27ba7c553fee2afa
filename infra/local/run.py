"""`make run`: from an empty home to a served, gated, rolled-out ranking model, and everything stays up.

Each stage first asks what already exists, so that a rerun after any interruption finishes the work.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from infra.local.up import bring_up
from tasks.adapters.api_keys import own_credentials
from tasks.adapters.store import open_store
from tasks.clock import drop_anchor
from tasks.controller.client import ControllerClient
from tasks.decisions import explanation, find_gate
from tasks.domain.behaviour import next_day
from tasks.domain.errors import FreshrankError, InputRejected, Unavailable
from tasks.explain.text import finding_lines
from tasks.follow import follow_refresh, start_refresh
from tasks.progress import last_said
from tasks.run import read_manifest
from tasks.settings import Settings
from tasks.sources import open_source

FIRST_CHAMPION_DAY = "2017-06-16"  # the weights' last day: before the first holdout, 2017-06-25..07-01
LANDED_THROUGH = "2017-06-30"
FIRST_REFRESH = "2017-07-01"
EXAMPLE = '{"surface":"recommendation","user_id":"1","k":5}'
screen = Console(soft_wrap=True, markup=False)


def main() -> int:
    began, stage = time.monotonic(), "starting"
    settings = Settings()
    try:
        with _alone(settings):
            for stage, action in (
                ("1/5 starting the local stack", lambda: bring_up(settings, screen)),
                ("2/5 landing the data and training the first champion", lambda: bootstrap(settings)),
                (f"3/5 refreshing for {FIRST_REFRESH} through the scheduler", lambda: first_refresh(settings)),
                ("4/5 asking for a ranking", lambda: ask(settings)),
            ):
                screen.rule(f"{stage}  ({time.monotonic() - began:.0f} s)", align="left")
                action()
            screen.rule(f"5/5 done in {time.monotonic() - began:.0f} s", align="left")
            links(settings)
    except KeyboardInterrupt:
        return _stop(
            f"interrupted while {stage}. The stack stays up and nothing is lost: `make run` goes on, `make down` stops it",
            130,
        )
    except InputRejected as err:
        return _stop(f"refused while {stage}: {err}", 2)
    except (Unavailable, FreshrankError) as err:
        return _stop(
            f"stopped while {stage}: {err}. The stack stays up; `make run` tries again, `make down` stops it", 1
        )
    return 0


def _stop(sentence: str, code: int) -> int:
    sys.stderr.write(sentence + "\n")
    return code


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "make-run.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise InputRejected(
                f"another `make run` (pid {lock.read().strip() or 'unknown'}) works on {settings.home.name}; wait for it, or give "
                f"this one its own FRESHRANK_HOME and FRESHRANK_PORT_BASE"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def bootstrap(settings: Settings) -> None:
    """Land the past, train, prove and serve the first champion. No-op when something serves."""
    store, controller = open_store(settings), ControllerClient(settings)
    drop_anchor(store, wall=datetime.now(UTC).date().isoformat(), data=FIRST_REFRESH)
    if controller.status()["champion"]:
        screen.print("  a champion serves already: nothing to do")
        return
    done: dict[str, str] = {}
    done["ingest"] = _step(settings, "ingest", LANDED_THROUGH, {})
    for name, needs in (
        ("validate_data", ("ingest",)),
        ("build_dataset", ("validate_data",)),
        ("finetune", ("build_dataset",)),
        ("compress", ("finetune", "build_dataset")),
        ("evaluate", ("build_dataset", "compress")),
        ("gate", ("evaluate", "compress")),
    ):
        done[name] = _step(settings, name, FIRST_CHAMPION_DAY, {need: done[need] for need in needs})
    told = explanation(store, done["gate"])
    if told["shipped"] != "bootstrap":
        raise InputRejected(f"the first model did not prove itself, so nothing may serve: {told['reason']}")
    done["package"] = _step(
        settings, "package", FIRST_CHAMPION_DAY, {n: done[n] for n in ("gate", "build_dataset", "compress")}
    )
    release = read_manifest(store, done["package"]).summary["release"]
    ended = controller.wait(first_rollout(controller, release), deadline_s=180)
    if ended["state"] != "promoted":
        raise Unavailable(f"the first champion did not come up: {ended['reason']}; see logs/controller.log")
    screen.print(f"  release {release[:12]} serves all traffic")


def first_rollout(controller: ControllerClient, release: str) -> str:
    """The rollout of the first champion: the one that an interrupted `make run` began, or a new one after one that never became
    ready. A key that stayed the same would find that one for ever, whatever was mended since."""
    last = controller.status()["rollout"]
    if last and last["release"] == release and last["state"] != "failed":
        return str(last["id"])
    told = controller.submit(
        release=release,
        kind="bootstrap",
        actor="make run",
        reason="first champion",
        idempotency_key=f"bootstrap-{release}" + (f"-after-{last['id']}" if last else ""),
    )
    return str(told["rollout"])


def _step(settings: Settings, name: str, partition: str, inputs: dict[str, str]) -> str:
    """Run one step in a process of its own, as Airflow would; its progress goes to the terminal, its log to a file."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tasks", name, "--partition", partition]
    for step, uri in inputs.items():
        command += ["--input", f"{step}={uri}"]
    log = settings.logs / f"bootstrap-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors, screen.status(f"  {name}") as status:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        said = ""
        try:
            while process.poll() is None:
                time.sleep(0.5)
                progress = last_said(log.read_text(errors="replace"))
                status.update(f"  {name}  {time.monotonic() - began:.0f} s  {progress}")
                if progress != said and not screen.is_terminal:
                    screen.print(f"    {progress}")
                said = progress
        except KeyboardInterrupt:
            process.terminate()
            process.wait(10)
            raise
    uri = process.stdout.read().strip() if process.stdout else ""  # the manifest, and nothing else
    if process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise Unavailable(
            f"step {name} ended with {process.returncode}: {lines[-1] if lines else 'no output'} (logs/{log.name})"
        )
    screen.print(f"  {name:<16} {time.monotonic() - began:6.1f} s  {_headline(settings, uri)}")
    return uri


def _headline(settings: Settings, uri: str) -> str:
    summary = read_manifest(open_store(settings), uri).summary
    return str(summary.get("sentence", ""))


def first_refresh(settings: Settings) -> None:
    store = open_store(settings)
    champion = ControllerClient(settings).status()["champion"]
    try:
        told = explanation(store, find_gate(store, FIRST_REFRESH))
        if told["shipped"] == "none" or told["release"] == champion["digest"]:
            screen.print(f"  {FIRST_REFRESH} is done already: shipped {told['shipped']}")
            return
    except InputRejected:
        pass  # no gate has run for this day yet
    run_id = start_refresh(settings, {"partition": FIRST_REFRESH})
    result = follow_refresh(settings, run_id, screen)
    screen.print(f"  {result['sentence']}")
    (settings.run_dir / "last_refresh.json").write_text(json.dumps(result, default=str, indent=1))
    if not result["ok"]:
        raise Unavailable(result["sentence"])


def ask(settings: Settings) -> None:
    """Post a real household's request through Envoy and print the products by name, and why this release serves."""
    store = open_store(settings)
    source = open_source(settings.source)
    trip = max(source.trips(next_day(FIRST_REFRESH)), key=lambda trip: len(trip.lines))
    body = {"surface": "recommendation", "user_id": trip.user_id, "k": 10}
    answer = httpx.post(f"{settings.url('router')}/rank", json=body, timeout=10, auth=own_credentials(settings))
    if answer.status_code != 200:
        raise Unavailable(f"the service answered {answer.status_code}: {answer.text[:200]}")
    reply = answer.json()
    names = dict(zip(*(source.items().column(c).to_pylist() for c in ("item_id", "title")), strict=True))
    bought = {item for item, _ in trip.lines}
    table = Table(title=f"household {trip.user_id}, before its trip of {next_day(FIRST_REFRESH)}", header_style="bold")
    for column in ("rank", "item", "product", "score", "bought that day"):
        table.add_column(column)
    for rank, item in enumerate(reply["items"], 1):
        table.add_row(
            str(rank),
            item["item_id"],
            names.get(item["item_id"], "?"),
            f"{item['score']:.3f}",
            "yes" if item["item_id"] in bought else "",
        )
    screen.print(table)
    screen.print(f"  answered by release {reply['release'][:12]}, stage {reply['stage']}, {reply['latency_ms']:.1f} ms")
    told = explanation(store, find_gate(store, FIRST_REFRESH))
    screen.print(f"  {told['partition']} shipped: {told['shipped']}. {told['reason']}")
    for candidate in told["candidates"]:
        screen.print(f"  {candidate['kind']}: {candidate['verdict']}")
        for line in finding_lines(candidate["findings"]):
            screen.print(f"    {line}")
    for line in told["report"].get("lines", []):
        screen.print(f"  {line}")


def links(settings: Settings) -> None:
    router = settings.url("router")
    rows = [
        (
            "Airflow",
            f"{settings.url('airflow')}  (user admin, password: airflow_password in {_shown(settings.home)}/secrets.json)",
        ),
        ("MLflow", settings.url("mlflow")),
        ("console", f"{settings.url('controller')}/  (what serves, live, and the way back)"),
        ("service", f"{router}/docs"),
        (
            "ask",
            f"curl -s {router}/rank -H 'content-type: application/json' -d '{EXAMPLE}'",
        ),
        ("next day", f".venv/bin/freshrank refresh --partition {next_day(FIRST_REFRESH)} --wait"),
        ("why", ".venv/bin/freshrank explain"),
        ("roll back", ".venv/bin/freshrank rollback --reason 'what you saw'"),
        ("stop", "make down"),
    ]
    for name, text in rows:
        screen.print(f"  {name:<10} {text}")


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
