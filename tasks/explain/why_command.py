"""`freshrank why`: one answer, taken apart. For on-call and scientists; needs no stack beside the release's files."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen


def why(
    user: Annotated[str, typer.Argument(help="the raw user id, hashed at once; `-` reads it from standard input")],
    item: Annotated[str, typer.Argument(help="the item's id")],
    pseudonym: Annotated[bool, typer.Option("--pseudonym", help="USER is a pseudonym: 64 hex digits")] = False,
    release: Annotated[str | None, typer.Option(help="a digest or a folder; default: what serves")] = None,
    as_json: AsJson = False,
) -> None:
    """Why ITEM stands where it stands for USER: what each kind of feature adds, and the purchases that are most like it."""
    from pathlib import Path

    from tasks.evaluate_command import DIGEST, parts_of, pulled
    from tasks.explain.why import why as taken_apart
    from tasks.serving.release import verify
    from tasks.typed_user import typed_user

    settings = Settings()
    hashed = typed_user(None, user, settings) if pseudonym else typed_user(user, None, settings)
    wanted = release or _serving(settings)
    src, view = pulled(settings.data / "serving", wanted) if DIGEST.fullmatch(wanted) else parts_of(Path(wanted))
    told = taken_apart(verify(src), view, hashed, item)
    if as_json:
        emit(told)
    else:
        _show(told)


def _serving(settings: Settings) -> str:
    from tasks.controller.client import ControllerClient
    from tasks.domain.errors import InputRejected

    champion = ControllerClient(settings).status().get("champion")
    if not champion:
        raise InputRejected("no release serves; say which one with --release")
    return str(champion["digest"])


def _show(told: dict[str, Any]) -> None:
    known = "" if told["user_known"] else " (unknown to this release: answered as a stranger)"
    screen.print(
        f"user {told['user']}{known}, item {told['item']}: place {told['place']:,} of {told['of']:,}, score "
        f"{told['served_score']:+.3f}, by stage {told['stage']} of release {told['release'][:12]}, state through "
        f"{told['state_through']}"
    )
    if not told["retrieved"]:
        screen.print("not retrieved for this user: it is ranked only where a request names it")
    screen.print(f"a typical candidate of this user scores {told['typical_score']:+.3f}; the difference comes from")
    table = Table(show_header=False, box=None)
    for one in told["contributions"]:
        table.add_row(f"{one['contribution']:+.3f}", one["group"])
    screen.print(table)
    screen.print("single features, with the typical value instead (they overlap)")
    features = Table(header_style="bold", box=None)
    for column in ("effect", "feature", "value", "typical"):
        features.add_column(column, justify="left" if column == "feature" else "right")
    for one in told["features"]:
        value = "unknown" if one["value"] is None else f"{one['value']:.3f}"
        features.add_row(f"{one['effect']:+.3f}", one["feature"], value, f"{one['typical']:.3f}")
    screen.print(features)
    screen.print("the user's purchases that are most like it" if told["history"] else "no purchases are known")
    for one in told["history"]:
        screen.print(
            f"  {one['item']}: same {one['same']}, text cosine {one['text_cosine']:.2f}, bought {one['times']} times, last "
            f"{one['days_since']} days ago"
        )
    screen.print(told["method"])
