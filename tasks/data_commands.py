"""`freshrank data ...`: look at behaviour data, a team's own files or what has landed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tasks.terminal import AsJson, emit, screen, this_actor

if TYPE_CHECKING:
    from tasks.own_data.check import Problem, Report

data_app = typer.Typer(no_args_is_help=True, help="Look at behaviour data: your own files, or what has landed.")


@data_app.command("check")
def check_files(
    path: Annotated[Path, typer.Argument(help="a Parquet or JSON lines file, or a folder of them")],
    table: Annotated[str, typer.Option(help="events, plan, items or users, where the names do not say")] = "",
    rows: Annotated[int, typer.Option(min=0, max=100_000, help="how many rows of each problem to name")] = 20,
    as_json: AsJson = False,
) -> None:
    """Do my files meet the contract? 0: yes, 1: no, 2: a file cannot be read. Needs no stack and changes nothing."""
    from tasks.own_data.check import check

    report = check(path, table, rows)
    if as_json:
        emit(report.as_json())
    else:
        _show(report)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _show(report: Report) -> None:
    said = [
        f"{told['rows']:,} rows of {name}s in {told['files']:,} file{'s' * (told['files'] > 1)}"
        for name, told in report.tables.items()
    ]
    screen.print(
        f"{report.path}: {', '.join(said)}; contract version {report.contract_version}, {report.seconds:.1f} s"
    )
    for note in report.notes:
        screen.print(f"note: {note}")
    for sentence in report.unreadable.values():
        screen.print(f"cannot be read: {sentence}")
    if report.problems:
        table = Table(header_style="bold")
        for column in ("table", "rows", "column", "problem"):
            table.add_column(column, justify="right" if column == "rows" else "left")
        for problem in report.problems:
            table.add_row(
                problem.table, f"{problem.rows:,}" if problem.rows else "all", problem.column, problem.sentence
            )
        screen.print(table)
    for problem in report.problems:
        _show_rows(problem)
    screen.print(_what_next(report))


def _show_rows(problem: Problem) -> None:
    if not problem.examples:
        return
    screen.print(f"{problem.kind}: {problem.column or 'line'} {problem.sentence}")
    for one in problem.examples:
        unit = "row" if one["file"].endswith(".parquet") else "line"
        row = f" {unit} {one['row']}" if one["row"] else ""
        screen.print(f"  {one['file']}{row}{': ' if one['value'] else ''}{one['value']}")
    if problem.rows > len(problem.examples):
        screen.print(f"  and {problem.rows - len(problem.examples):,} more; --rows shows more of them")


def _what_next(report: Report) -> str:
    if report.unreadable:
        return "A file cannot be read: write it again from its source, then run this command again."
    if report.problems:
        return (
            "The files do not meet the contract: correct the rows named above where they are made "
            "(docs/data-contract.md says what each column means), then run this command again."
        )
    return (
        f"The files meet the contract. Next: set FRESHRANK_SOURCE=files:{Path(report.path).resolve()} and ingest a day."
    )


@data_app.command("rules")
def show_rules(
    as_json: AsJson = False,
) -> None:
    """Every rule that a day is judged by: what it does, how much it lets pass, and why it is there."""
    from expectations.day_rules import DAY_RULES
    from expectations.row_rules import ROW_RULES
    from tasks.validate_data import load_policy

    policy = load_policy()
    told: list[dict[str, str | float]] = [
        {"rule": rule.name, "action": one.action, "budget": one.budget, "beyond": one.beyond, "why": rule.reason}
        for rule in ROW_RULES
        if (one := policy.rows[rule.name])
    ]
    told += [{"rule": rule.name, "action": policy.days[rule.name].action, "why": rule.reason} for rule in DAY_RULES]
    if as_json:
        emit(told)
        return
    table = Table(header_style="bold")
    for column in ("rule", "does", "why"):
        table.add_column(column)
    for row in told:
        beyond = f" rows; {row['beyond']}s the day beyond {row['budget']:.0%}" if "budget" in row else "s the day"
        table.add_row(
            str(row["rule"]), f"{row['action']}{beyond}" if row["action"] != "off" else "off", str(row["why"])
        )
    screen.print(table)
    screen.print("numbers: tasks/policies/data.yaml; expectations of Great Expectations: expectations/suites.py")


@data_app.command("quarantine")
def show_quarantine(
    day: Annotated[str, typer.Argument(help="a landed day, YYYY-MM-DD")],
    as_json: AsJson = False,
) -> None:
    """What the rules caught of a landed day, and why it passed or did not. Changes nothing."""
    from tasks.adapters.store import open_store
    from tasks.quarantine import look
    from tasks.settings import Settings
    from tasks.validate_data import load_policy

    settings = Settings()
    out = settings.data / "quarantine" / day
    _tell(look(open_store(settings), checked_day(day), load_policy(), out), out, as_json)


@data_app.command("release")
def release_rows(
    day: Annotated[str, typer.Argument(help="a landed day, YYYY-MM-DD")],
    rule: Annotated[list[str], typer.Option("--rule", help="may be given several times")],
    reason: Annotated[str, typer.Option("--reason", help="one sentence; it is kept with the day")],
    as_json: AsJson = False,
) -> None:
    """Let a rule pass for one day: its rows come back, or the day that it stopped is used after all."""

    from tasks.adapters.store import open_store
    from tasks.quarantine import release
    from tasks.settings import Settings
    from tasks.validate_data import load_policy

    settings = Settings()
    out = settings.data / "quarantine" / day
    actor, store = this_actor(), open_store(settings)
    _tell(release(store, checked_day(day), rule, actor, reason, load_policy(), out), out, as_json)


def checked_day(day: str) -> str:
    from tasks.domain.manifest import partition_date

    return partition_date(day).isoformat()


def _tell(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        emit(summary)
        return
    screen.print((out / "report.md").read_text().rstrip())
    for rule, told in summary["released"].items():
        screen.print(f"- {rule} let pass by {told}")
    screen.print(f"the same with plots: {out / 'report.html'}; the rows: {out / 'quarantine.parquet'}")


@data_app.command("report")
def show_report(
    manifest: Annotated[str, typer.Argument(help="what `python -m tasks validate_data` printed: s3://...json")],
    as_json: AsJson = False,
) -> None:
    """What validate_data found, for a person with a minute. report.html beside it has the plots."""
    from rich.markdown import Markdown

    from tasks.adapters.store import open_store
    from tasks.domain.errors import InputRejected
    from tasks.run import read_manifest
    from tasks.settings import Settings

    store = open_store(Settings())
    told = read_manifest(store, manifest)
    if "report.md" not in told.outputs:
        raise InputRejected(f"{manifest} is a manifest of {told.step}; a data report comes from validate_data")
    if as_json:
        emit(told.summary)
    else:
        screen.print(Markdown(store.get(store.key(told.outputs["report.md"].uri)).decode()))
