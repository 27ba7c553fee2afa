"""What goes wrong with behaviour data in production, on purpose: injectors, a click log to poison, and a rehearsal.

No refresh reads anything here. Injectors bend what a source delivers or what lies in a store; ingest and validate_data
judge the result as they judge every other day.
"""

from __future__ import annotations

from tasks.domain.errors import InputRejected
from tasks.red_team import actors, clocks, lists, objects, values
from tasks.red_team.scene import Kind

KINDS = (*clocks.KINDS, *actors.KINDS, *lists.KINDS, *values.KINDS, *objects.KINDS)


def kind_named(name: str) -> Kind:
    """Raises InputRejected, listing every kind, for a name that is none."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise InputRejected(f"there is no kind {name!r} of damage; there are {', '.join(kind.name for kind in KINDS)}")


def kinds_table() -> str:
    """Every kind as Markdown, as docs/red-team.md shows it."""
    head = "| kind | what goes wrong | strength is | published | at least | rules |\n|---|---|---|---:|---|---|\n"
    return head + "".join(
        f"| `{kind.name}` | {kind.what} | {kind.strength} | {kind.published:g} | {kind.outcome} "
        f"| {', '.join(kind.rules) or 'the verdict itself'} |\n"
        for kind in KINDS
    )
