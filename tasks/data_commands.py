"""`freshrank data ...`: look at behaviour data, a team's own files or what has landed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from tasks.data_check import Problem, Report

data_app = typer.Typer(no_args_is_help=True, help="Look at behaviour data: your own files, or what has landed.")
screen = Console(markup=False, highlight=False, soft_wrap=True)


@data_app.command("check")
def check_files(
    path: Annotated[Path, typer.Argument(help="a Parquet or JSON lines file, or a folder of them")],
    table: Annotated[str, typer.Option(help="events, plan, items or users, where the names do not say")] = "",
    rows: Annotated[int, typer.Option(min=0, max=100_000, help="how many rows of each problem to name")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable output")] = False,
) -> None:
    """Do my files meet the contract? 0: yes, 1: no, 2: a file cannot be read. Needs no stack and changes nothing."""
    from tasks.data_check import check

    report = check(path, table, rows)
    if as_json:
        sys.stdout.write(json.dumps(report.as_json(), indent=1) + "\n")
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
