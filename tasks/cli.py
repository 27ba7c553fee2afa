"""`freshrank`: what serves, why, and how to change it. Every command has --json; the text is for people.

`status`, `rollback`, `abort`, `freeze` and `served-at` talk to the controller only: they work with Airflow, MLflow, the
object store and Valkey stopped.
"""

from __future__ import annotations

import logging
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tasks import command_errors, firing, telemetry_off
from tasks.bench_command import bench
from tasks.data_commands import data_app
from tasks.domain.errors import InputRejected, Unavailable
from tasks.drill_command import drill
from tasks.erasure.commands import erase, retention
from tasks.evaluate_command import evaluate
from tasks.explain.commands import bundle, explain, reproduce
from tasks.explain.why_command import why
from tasks.gate_trials.commands import gate_error_rates
from tasks.merchandising_commands import items_app
from tasks.oncall_commands import console, keys_app, pin, releases, unpin
from tasks.prune.commands import prune
from tasks.release_commands import diff, lineage, served_in_words
from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen, this_actor

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.add_typer(data_app, name="data")
app.add_typer(keys_app, name="api-keys")
app.add_typer(items_app, name="items")
Reason = Annotated[str, typer.Option("--reason", help="one sentence; it is kept in the rollout log forever")]


def main() -> None:
    """Entry point: an error is one sentence and an exit code (2 refused, 75 try again, 70 a bug of ours), not a traceback."""
    telemetry_off.apply()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        app()
    except Exception as err:
        sentence, code = command_errors.told(err)
        sys.stderr.write(sentence + "\n")
        sys.exit(code)


@app.command()
def status(as_json: AsJson = False) -> None:
    """What serves, with which weights, what is rolling out, and which services are up."""
    from tasks.controller.client import ControllerClient
    from tasks.status import read_status, services

    settings = Settings()
    try:
        told = read_status(settings, ControllerClient(settings))
    except Unavailable:
        if not as_json:  # what is known without the controller is what somebody needs now
            _show_alerts(*firing.read(settings))
            _show_services(services(settings))
        raise
    if as_json:
        return emit(told)
    table = Table(title="freshrank", show_header=True, header_style="bold")
    for column in ("role", "version", "release", "weight", "since"):
        table.add_column(column)
    for role in ("champion", "challenger", "previous"):
        found = told[role]
        if found:
            weight = told["weights"].get(found["release"], 0)
            table.add_row(role, str(found["version"]), found["release"][:12], f"{weight} %", str(found["since"]))
        else:
            table.add_row(role, "-", "-", "-", "-")
    screen.print(table)
    rollout = told["rollout"]
    screen.print(
        f"rollout: {rollout['state']} (step {rollout['step']}): {rollout['reason']}" if rollout else "rollout: none"
    )
    if told["frozen"]:
        screen.print(f"frozen ({told['frozen_because']}): no promotion until `freshrank unfreeze --reason TEXT`")
    _show_alerts(told["alerts"], told["alerts_unknown"])
    _show_services(told["services"])


def _show_alerts(alerts: list[dict[str, Any]], unknown: str) -> None:
    for alert in alerts:
        screen.print(f"{alert['severity']}: {alert['name']}: {alert['summary']} -> {alert['runbook']}")
    if not alerts:
        screen.print(f"alerts: {unknown or 'none'}")


def _show_services(services: dict[str, dict[str, Any]]) -> None:
    table = Table(show_header=True, header_style="bold")
    for column in ("service", "state", "address"):
        table.add_column(column)
    for name, service in services.items():
        table.add_row(name, service["state"], service["url"])
    screen.print(table)


@app.command()
def refresh(
    partition: Annotated[str, typer.Option(help="the day of behaviour data, YYYY-MM-DD")],
    wait: Annotated[bool, typer.Option("--wait", help="follow the run, and the rollout that it starts")] = False,
    candidates: Annotated[str, typer.Option(help="weights, state or both")] = "both",
    recipe: Annotated[str | None, typer.Option(help="how to train; default: the setting")] = None,
    as_json: AsJson = False,
) -> None:
    """Start model_refresh for one day through the scheduler."""
    from tasks.domain.manifest import partition_date
    from tasks.follow import follow_refresh, start_refresh

    partition_date(partition)
    settings = Settings()
    run_id = start_refresh(settings, {"partition": partition, "candidates": candidates, "recipe": recipe})
    if not wait:
        return (
            emit({"run": run_id})
            if as_json
            else screen.print(f"started {run_id}; `freshrank status` shows what serves")
        )
    result = follow_refresh(settings, run_id, Console(stderr=True, markup=False, highlight=False, soft_wrap=True))
    if as_json:
        emit(result)
    else:
        screen.print(result["sentence"])
    if not result["ok"]:
        raise typer.Exit(1)


@app.command()
def rollback(
    reason: Reason,
    to: Annotated[str | None, typer.Option(help="a release digest; default: the previous champion")] = None,
    as_json: AsJson = False,
) -> None:
    """Send all traffic back to the previous release, now. During a canary: stop it. Twice is the same as once."""
    from tasks.controller.client import ControllerClient, told_of_rollback

    # a key for one press: a retry of this very request inside the client changes nothing
    done = ControllerClient(Settings()).rollback(
        to=to, actor=this_actor(), reason=reason, idempotency_key=uuid.uuid4().hex
    )
    if as_json:
        return emit(done)
    screen.print(told_of_rollback(done))


@app.command()
def abort(reason: Reason, as_json: AsJson = False) -> None:
    """Stop the rollout that is under way; the champion keeps all traffic."""
    from tasks.controller.client import ControllerClient

    done = ControllerClient(Settings()).abort(actor=this_actor(), reason=reason)
    left, serves = (str(done[side] or "nothing")[:12] for side in ("from", "to"))
    emit(done) if as_json else screen.print(f"stopped {done['rollout']}: {left} loses its traffic, {serves} serves")


@app.command()
def freeze(reason: Reason, as_json: AsJson = False) -> None:
    """Refuse every promotion until `unfreeze`. Rollback still works."""
    from tasks.controller.client import ControllerClient

    done = ControllerClient(Settings()).freeze(actor=this_actor(), reason=reason)
    emit(done) if as_json else screen.print("frozen: nothing is promoted until `freshrank unfreeze --reason TEXT`")


@app.command()
def unfreeze(reason: Reason, as_json: AsJson = False) -> None:
    """Allow promotions again."""
    from tasks.controller.client import ControllerClient

    done = ControllerClient(Settings()).unfreeze(actor=this_actor(), reason=reason)
    emit(done) if as_json else screen.print("promotions are allowed again")


@app.command("served-at")
def served_at(
    moment: Annotated[str, typer.Argument(help="a UTC time, e.g. 2026-11-21T03:00:00Z")], as_json: AsJson = False
) -> None:
    """What served at a moment, and why: the champion, the weights, and the row of the rollout log that made it so."""
    from tasks.controller.client import ControllerClient

    try:
        asked = datetime.fromisoformat(moment)
    except ValueError:
        raise InputRejected(f"{moment!r} is not a time; write it as 2026-11-21T03:00:00Z") from None
    asked = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    told = ControllerClient(Settings()).served_at(asked.isoformat())
    emit(told) if as_json else screen.print("\n".join(served_in_words(told)))


@app.command()
def replay(
    day: Annotated[str | None, typer.Option(help="the day whose trips are sent, or damaged, YYYY-MM-DD")] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="requests per second")] = 20,
    seconds: Annotated[float, typer.Option(min=1, help="how long")] = 60,
    inject: Annotated[
        str | None, typer.Option(help="damage the day in memory and show what the rules make of it")
    ] = None,
    strength: Annotated[float | None, typer.Option(help="how much damage; see --list-kinds")] = None,
    list_kinds: Annotated[bool, typer.Option("--list-kinds", help="what --inject knows")] = False,
    freshness: Annotated[
        Path | None, typer.Option(help="send nothing; draw what the refreshes so far were worth, as one HTML file")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send the trips of a real day as live requests, and what was bought as feedback; or rehearse a bad day.

    With --inject nothing is sent, landed or published: the day is damaged in memory and judged against the days before.
    With --freshness the days are those that were refreshed: the release left alone, new state, and new weights.
    """
    if list_kinds:
        return _show_kinds(as_json)
    if freshness is not None:
        return _draw_freshness(freshness, as_json)
    if day is None:
        raise InputRejected("say which day: freshrank replay --day 2017-07-02")
    if inject is not None:
        from tasks.red_team.rehearsal import as_text, rehearse

        settings = Settings()
        told = rehearse(settings, day, inject, strength, settings.data / "rehearsals" / f"{day}-{inject}")
        return emit(told) if as_json else screen.print(as_text(told))
    from tasks.replay import replay_day

    result = replay_day(Settings(), day, rate=rate, seconds=seconds)
    if as_json:
        emit(result)
    else:
        screen.print(
            f"{result['requests']} requests, {result['failed']} failed, p95 {result['p95_ms']:.1f} ms, "
            f"{result['feedback']} feedback posts"
        )


def _draw_freshness(path: Path, as_json: bool) -> None:
    from tasks.adapters.store import open_store
    from tasks.explain.freshness import freshness, page

    rows = freshness(open_store(Settings()))
    path.write_text(page(rows))
    emit(rows) if as_json else screen.print(f"{path}: {len(rows)} days, {rows[0]['day']} to {rows[-1]['day']}")


def _show_kinds(as_json: bool) -> None:
    from tasks.red_team import KINDS

    if as_json:
        return emit([{"kind": k.name, "what": k.what, "strength": k.strength, "published": k.published} for k in KINDS])
    table = Table(show_header=True, header_style="bold")
    for column in ("kind", "what goes wrong", "strength", "promised at"):
        table.add_column(column)
    for kind in KINDS:
        table.add_row(kind.name, kind.what, kind.strength, f"{kind.published:g}")
    screen.print(table)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check ports, disk, packages, services and secrets; each problem with what to do."""
    from tasks.doctor import examine

    findings = examine(Settings())
    if as_json:
        emit(findings)
    else:
        for finding in findings:
            mark = "ok  " if finding["ok"] else "FAIL"
            screen.print(
                f"{mark} {finding['check']}: {finding['sentence']}"
                + (f" -> {finding['next']}" if not finding["ok"] else "")
            )
    if not all(finding["ok"] for finding in findings):
        raise typer.Exit(1)


for command in (console, releases, pin, unpin):
    app.command()(command)
app.command()(explain)
app.command()(bundle)
app.command()(reproduce)
app.command()(evaluate)
app.command()(bench)
app.command()(why)
app.command()(erase)
app.command()(retention)
app.command()(prune)
app.command()(lineage)
app.command()(diff)
app.command()(gate_error_rates)
app.command()(drill)
