"""`freshrank items ...`: what may be shown, and what comes first, whichever release serves. In force within seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from tasks.domain.errors import FreshrankError, InputRejected
from tasks.domain.merchandising import Merchandising, first_problem, read_rules, write_rules
from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen, this_actor

items_app = typer.Typer(
    no_args_is_help=True,
    help="Take items off, put them first, cap brands: for whichever release serves, within seconds.",
)
Reason = Annotated[str, typer.Option("--reason", help="one sentence; it is kept with the revision")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ITEM...", help="item ids, as the catalogue spells them")]
FromFile = Annotated[
    Path | None, typer.Option("--file", help="a file with an item id on each line; - reads what is piped in")
]
WAIT_S = 10.0


@items_app.command("block")
def block(reason: Reason, items: Ids = None, file: FromFile = None, as_json: AsJson = False) -> None:
    """Never show these items until `unblock`: a recall, a wrong price, a complaint."""
    ids = _ids(items, file)
    _change(reason, lambda rules: rules.model_copy(update={"blocked": rules.blocked | ids}), as_json)


@items_app.command("unblock")
def unblock(reason: Reason, items: Ids = None, file: FromFile = None, as_json: AsJson = False) -> None:
    """Show these items again."""
    ids = _ids(items, file)
    _change(reason, lambda rules: rules.model_copy(update={"blocked": rules.blocked - ids}), as_json)


@items_app.command("unavailable")
def unavailable(
    file: Annotated[
        Path, typer.Option("--file", help="every item that is out of stock, an id on each line; - for a pipe")
    ],
    reason: Reason = "stock feed",
    as_json: AsJson = False,
) -> None:
    """Replace the whole list of what is out of stock: for the feed of your warehouse, as often as it has news."""
    ids = _ids(None, file, may_be_empty=True)
    _change(reason, lambda rules: rules.model_copy(update={"unavailable": ids}), as_json)


@items_app.command("rules")
def rules(as_json: AsJson = False) -> None:
    """All rules in force, as the YAML file that `apply` takes."""
    from tasks.adapters.merchandising import current

    number, present = current(Settings())
    text = write_rules(number, present)
    if as_json:
        import yaml

        return emit(yaml.safe_load(text))
    sys.stdout.write(text)


@items_app.command("apply")
def apply(
    file: Annotated[Path, typer.Argument(help="the file that `rules` printed, changed")],
    reason: Reason,
    as_json: AsJson = False,
) -> None:
    """Put a changed file of rules in force: pinned items, caps, anything. Refused where somebody changed them since."""
    from tasks.adapters.merchandising import replace

    seen, wanted = read_rules(_text(file), file.name)
    settings = Settings()
    _tell(settings, *replace(settings, this_actor(), reason, seen, wanted), as_json)


@items_app.command("history")
def history(as_json: AsJson = False) -> None:
    """Who changed what, when and why; newest first."""
    from tasks.adapters.merchandising import history as told

    revisions = told(Settings())
    if as_json:
        return emit(
            [one.model_dump(mode="json", exclude={"rules"}) | {"rules": one.rules.sentence} for one in revisions]
        )
    table = Table("revision", header_style="bold")
    table.add_column("at, UTC", no_wrap=True)
    for column in ("by", "why", "rules"):
        table.add_column(column)
    for one in revisions:
        table.add_row(str(one.revision), one.at[:16].replace("T", " "), one.actor, one.reason, one.rules.sentence)
    screen.print(table)


@items_app.command("restore")
def restore(
    revision: Annotated[int, typer.Argument(help="as `history` shows it; 0 takes every rule away")],
    reason: Reason,
    as_json: AsJson = False,
) -> None:
    """Put what an earlier revision said in force again, as a new one."""
    from tasks.adapters import merchandising

    settings = Settings()
    if revision == 0:
        return _change(reason, lambda _: Merchandising(), as_json)
    _tell(settings, merchandising.restore(settings, this_actor(), reason, revision), True, as_json)


def _change(reason: str, edit: Callable[[Merchandising], Merchandising], as_json: bool) -> None:
    from tasks.adapters.merchandising import change

    settings = Settings()
    _tell(settings, *change(settings, this_actor(), reason, lambda rules: checked(edit(rules))), as_json)


def checked(rules: Merchandising) -> Merchandising:
    """A copy with changes is not validated by pydantic. Raises InputRejected."""
    from pydantic import ValidationError

    try:
        return Merchandising.model_validate(rules.model_dump())
    except ValidationError as err:
        raise InputRejected(f"{first_problem(err)}; nothing was changed") from None


def _tell(settings: Settings, number: int, changed: bool, as_json: bool) -> None:
    """Wait until every replica that can says it obeys revision `number`, and say so."""
    told = {"revision": number, "changed": changed} | (_in_force(settings, number) if changed else {})
    if as_json:
        return emit(told)
    screen.print(
        f"revision {number}: {told['sentence']}" if changed else f"nothing to do: revision {number} says so already"
    )


def _in_force(settings: Settings, number: int) -> dict[str, Any]:
    from tasks.controller.client import ControllerClient

    began = time.monotonic()
    try:
        replicas = ControllerClient(settings).replicas()
    except FreshrankError:
        return {
            "sentence": "kept; the controller does not answer, so nobody knows of replicas (they look by themselves)"
        }
    waiting, obeying, deaf = dict(replicas), [], set()
    with httpx.Client(timeout=2) as client:
        while waiting and time.monotonic() - began < WAIT_S:
            for address, release in list(waiting.items()):
                seen = _revision_of(client, address)
                if seen is None or seen >= number:
                    del waiting[address]
                    deaf.add(release) if seen is None else obeying.append(address)
            if waiting:
                time.sleep(0.1)
    seconds = time.monotonic() - began
    sentence = f"in force on {len(obeying)} of {len(replicas)} replicas after {seconds:.1f} s"
    if waiting:
        sentence += f"; {', '.join(waiting)} did not say so in {WAIT_S:.0f} s: `freshrank status`, and look again"
    if deaf:
        sentence += f"; release {', '.join(sorted(deaf))} is of before merchandising rules and obeys none"
    return {
        "obeying": sorted(obeying),
        "waiting": sorted(waiting),
        "deaf": sorted(deaf),
        "seconds": seconds,
        "sentence": sentence,
    }


def _revision_of(client: httpx.Client, address: str) -> int | None:
    """Of the rules that a replica obeys; None: its code knows none, -1: it does not answer."""
    try:
        reply = client.get(f"http://{address}/readyz")
        return reply.json().get("merchandising") if reply.status_code == 200 else -1
    except (httpx.HTTPError, ValueError):
        return -1


def _ids(items: list[str] | None, file: Path | None, *, may_be_empty: bool = False) -> frozenset[str]:
    told = list(items or [])
    if file is not None:
        told += [line.strip() for line in _text(file).splitlines() if line.strip() and not line.startswith("#")]
    if not told and not may_be_empty:
        raise InputRejected("no item is named; name item ids, or a --file with one on each line")
    return frozenset(told)


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as err:
        raise InputRejected(
            f"{file.name} cannot be read: {getattr(err, 'strerror', None) or 'it is not UTF-8'}"
        ) from None
