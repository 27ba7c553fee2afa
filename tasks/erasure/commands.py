"""`freshrank erase` and `freshrank retention`: show what is there, ask, delete. Raw ids are hashed at once."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.domain.errors import InputRejected
from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen, this_actor

if TYPE_CHECKING:
    from tasks.adapters.store import Store
    from tasks.domain.erasure import Erased
    from tasks.erasure.erase import Holdings

LONGEST_REASON = 500


def erase(
    user: Annotated[
        str | None, typer.Argument(help="the raw user id; `-` reads it from standard input, none asks for it")
    ] = None,
    pseudonym: Annotated[str | None, typer.Option(help="instead of the raw id: 64 hex digits")] = None,
    reason: Annotated[str, typer.Option(help="one sentence without personal data; it is kept")] = "asked for",
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what is there, change nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Take one user out of every landed day, dataset and view, and keep the user out. Run it again to resume it."""
    from tasks.adapters.store import open_store
    from tasks.erasure.erase import erase as erase_user
    from tasks.erasure.erase import look_for
    from tasks.serving.online_store import ValkeyOnlineStore
    from tasks.serving.user_view import PUBLISH_TIMEOUT_S

    settings = Settings()
    store = open_store(settings)
    holdings = look_for(store, _pseudonym(user, pseudonym, settings, store))
    if not as_json:
        _show(holdings)
    if (holdings.nothing and holdings.record is None) or dry_run:
        return emit(_as_json(holdings)) if as_json else None
    if not yes and not (sys.stdin.isatty() and typer.confirm("Erase? This cannot be undone")):
        raise InputRejected("nothing was erased; say --yes where nobody can be asked")
    done = erase_user(
        store,
        settings,
        ValkeyOnlineStore(settings.url("valkey"), PUBLISH_TIMEOUT_S),
        holdings,
        actor=this_actor(),
        reason=reason[:LONGEST_REASON],
        now=datetime.now(UTC),
    )
    emit(_as_json(holdings) | {"done": done.model_dump()}) if as_json else _tell(done)


def retention(
    keep_days: Annotated[int, typer.Option(help="keep the newest landed day and so many days with it")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what is there, change nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the rows of days that are older than that, and what steps made from them. Run it again to resume it."""
    from tasks.adapters.store import open_store
    from tasks.erasure.retention import look_for_old, retire

    settings = Settings()
    store = open_store(settings)
    found = look_for_old(store, keep_days)
    if not as_json:
        span = f", {found.days[0]} to {found.days[-1]}" if found.days else ""
        screen.print(f"before {found.before}: {len(found.days)} days{span}, {len(found.objects)} objects")
    if not dry_run and (found.days or found.objects):
        if not yes and not (sys.stdin.isatty() and typer.confirm("Delete? This cannot be undone")):
            raise InputRejected("nothing was deleted; say --yes where nobody can be asked")
        retire(store, found, settings.data, keep_days, this_actor(), datetime.now(UTC))
        if not as_json:
            screen.print("deleted; those days are not landed, judged or trained on again")
    if as_json:
        emit(found.model_dump())


def _pseudonym(user: str | None, given: str | None, settings: Settings, store: Store) -> str:
    from tasks.erasure.erase import checked_key_id
    from tasks.typed_user import typed_user

    if given is None:
        checked_key_id(store, settings.secrets.pseudonym_key_id)
    return typed_user(user, given, settings)


def _as_json(holdings: Holdings) -> dict[str, Any]:
    from tasks.domain.erasure import erasure_id

    return {
        "erasure": erasure_id(holdings.user),
        "asked_before": holdings.record.when if holdings.record else None,
        "rows": holdings.rows,
        "days": {day: held.model_dump() for day, held in holdings.found.days.items()},
        "user_tables_of_days": len(holdings.found.tabled),
        "objects": holdings.built.objects,
        "views": holdings.built.views,
        "feedback": holdings.feedback,
        "pages": holdings.pages,
        "tainted": holdings.built.tainted.model_dump(),
    }


def _show(holdings: Holdings) -> None:
    if holdings.record:
        screen.print(
            f"asked for on {holdings.record.when} by {holdings.record.actor}; this run goes on where that ended"
        )
    if holdings.nothing:
        screen.print("nothing in the store holds this user; is the id written as the source writes it?")
        return
    days, built = sorted(holdings.found.days), holdings.built
    span = f" of {len(days)} days, {days[0]} to {days[-1]}" if days else ""
    screen.print(f"{holdings.rows} rows{span}; user tables of {len(holdings.found.tabled)} days")
    screen.print(
        f"{len(built.objects)} files of runs, {len(holdings.pages)} pages of MLflow and {len(holdings.feedback)} feedback "
        f"segments name the user, {len(built.views)} views hold the user's history"
    )
    for name in ("datasets", "runs", "releases", "views", "weights"):
        if tainted := getattr(built.tainted, name):
            screen.print(f"tainted {name}: {len(tainted)}, the newest {tainted[-1]}")


def _tell(done: Erased) -> None:
    screen.print(f"erased from {len(done.days)} days; ingest leaves the user out from now on")
    for sentence in done.remains:
        screen.print(f"remains: {sentence}")
    screen.print("next: `freshrank refresh --partition DAY` makes state and weights without the user")
