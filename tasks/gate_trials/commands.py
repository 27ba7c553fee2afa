"""`freshrank gate-error-rates`: how often the gate blocks a sound model, and promotes a damaged one."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen


def gate_error_rates(
    run: Annotated[str | None, typer.Argument(help="a day whose run trained weights; default: the latest")] = None,
    as_json: AsJson = False,
) -> None:
    """Train other seeds and damaged models of a run, and count how often the gate errs on them. Takes as long as ten trainings."""
    from tasks.adapters.store import open_store
    from tasks.domain.manifest import partition_date
    from tasks.gate_trials.nightly import REPORT, measure
    from tasks.run import read_manifest

    if run:
        partition_date(run)
    settings = Settings()
    uri, summary = measure(settings, run)
    store = open_store(settings)
    told = json.loads(store.get(store.key(read_manifest(store, uri).outputs[REPORT].uri)))
    if as_json:
        emit(told | {"run": uri})
    else:
        screen.print(f"{told['sentence']}.")
        screen.print(rates_table(told["table"]))
    if summary["broken"]:
        raise typer.Exit(1)


def rates_table(rows: list[dict[str, str]]) -> Table:
    """One row a kind of damage. The record keeps its keys sorted, so the order of columns is said here."""
    from tasks.gate_trials.error_rates import HEAD

    table = Table(box=None, header_style="bold")
    for name in HEAD:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in HEAD))
    return table
