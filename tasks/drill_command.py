"""`freshrank drill`: give the running stack bad releases and see them stopped, without a user noticing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen


def drill(
    kind: Annotated[list[str] | None, typer.Option(help="one or more; default: all of them")] = None,
    rate: Annotated[float, typer.Option(min=1, max=1000, help="requests per second of the drill's own")] = 50,
    as_json: AsJson = False,
) -> None:
    """Rehearse: deploy bad releases (wrong order, constant, NaN, slow, crash loop, memory hog) and press rollback once.

    Users keep the champion. Each stop freezes promotion, as always; the drill lifts its own freezes.
    """
    from tasks.drill import KINDS, rehearse, require_passed

    results = rehearse(Settings(), kind or list(KINDS), rate=rate)
    if as_json:
        emit([asdict(result) for result in results])
    else:
        table = Table(show_header=True, header_style="bold")
        for column in (
            "drill",
            "ended",
            "in step",
            "detected after",
            "last bad reply after",
            "requests",
            "lost",
            "seen",
        ):
            table.add_column(column)
        for one in results:
            detected = "-" if one.detected_s is None else f"{one.detected_s:.1f} s"
            back = "never served" if one.back_s is None else f"{one.back_s:.2f} s"
            ended = one.state if one.passed else f"{one.state} FAILED"
            table.add_row(one.kind, ended, one.step, detected, back, str(one.requests), str(one.lost), str(one.seen))
        screen.print(table)
    require_passed(results)
