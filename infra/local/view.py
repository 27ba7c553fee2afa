"""What a person sees while the stack starts and stops: a live table on a terminal, a line per change elsewhere."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tasks import service_table
from tasks.settings import Settings

GOOD = ("ready", "done")
COLOURS = {"ready": "green", "done": "green", "failing": "red", "restarting": "yellow", "unattended": "yellow"}


class Progress:
    def __init__(self, settings: Settings, console: Console, began: float) -> None:
        self._settings, self._console, self._began = settings, console, began
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self) -> None:
        rows = service_table.read_services(self._settings)
        elapsed = time.monotonic() - self._began
        if self._live:
            self._live.update(table(rows, f"{elapsed:.0f} s"))
            return
        for name, row in rows.items():
            if self._shown.get(name) != row["state"]:
                self._shown[name] = row["state"]
                line = f"{elapsed:6.1f} s  {name:<22} {row['state']:<10} {row['note']}".rstrip()
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def table(rows: dict[str, dict[str, Any]], title: str | None = None) -> Table:
    drawn = Table("service", "state", "for", "restarts", "address", "note", title=title, title_justify="left", box=None)
    now = datetime.now(UTC)
    for name, row in rows.items():
        state = f"[{COLOURS.get(row['state'], 'white')}]{row['state']}[/]"
        seconds = (now - datetime.fromisoformat(row["since"])).total_seconds()
        drawn.add_row(name, state, f"{seconds:.0f} s", str(row["restarts"]), row["url"], row["note"][:60])
    return drawn
