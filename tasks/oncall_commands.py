"""`freshrank console`, `releases`, `pin`, `unpin` and `api-keys`: for whoever keeps the service running."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from tasks.domain.errors import FreshrankError, InputRejected
from tasks.settings import Settings
from tasks.terminal import AsJson, emit, screen, this_actor

keys_app = typer.Typer(no_args_is_help=True, help="Keys of the service's callers. Without any, everybody may call.")
Named = Annotated[str, typer.Argument(metavar="RELEASE", help="a digest, or its first digits")]


def console(
    role: Annotated[
        str | None,
        typer.Option(help="a link that also signs in: oncall (roll back, abort, freeze), releaser, viewer, or owner"),
    ] = None,
) -> None:
    """The address of the release console: what serves, live charts, history, and the buttons, for a browser or a phone."""
    from tasks.controller.roles import ROLES, token_of

    settings = Settings()
    if role not in (None, "owner", *ROLES):
        raise InputRejected(f"there is no role {role!r}; roles: {', '.join(ROLES)}, owner")
    secret, signed_in = settings.secrets.controller_token, ""
    if role:
        signed_in = f"#token={secret if role == 'owner' else token_of(role, secret)}"  # type: ignore[arg-type]
    screen.print(f"{settings.url('controller')}/{signed_in}")


def releases(as_json: AsJson = False) -> None:
    """The releases on this machine's disk, how large they are, and why each is kept."""
    from tasks.adapters.shelf import Shelf

    settings = Settings()
    shelf = Shelf(settings.data / "serving")
    roles, pins = _roles(settings), shelf.pins()
    told: list[dict[str, Any]] = [
        {
            "release": one.release,
            "bytes": one.bytes,
            "role": roles.get(one.release),
            "pinned": pins.get(one.release),
        }
        for one in shelf.held()
    ]
    if as_json:
        return emit(told)
    table = Table("release", "MB", "role", "pinned", header_style="bold")
    for row in told:
        pinned = row["pinned"]
        said = f"{pinned['actor']}: {pinned['reason']}" if pinned else ""
        table.add_row(str(row["release"])[:12], f"{row['bytes'] / 1e6:.1f}", str(row["role"] or "-"), said)
    screen.print(table)


def pin(named: Named, reason: Annotated[str, typer.Option("--reason", help="why it must stay")]) -> None:
    """Keep a release on this machine whatever happens, for `rollback --to` with the store down."""
    from tasks.adapters.shelf import Shelf

    release = Shelf(Settings().data / "serving").pin(named, this_actor(), reason)
    screen.print(f"{release[:12]} stays until `freshrank unpin {release[:12]}`")


def unpin(named: Named) -> None:
    """Let a release go with the other old ones."""
    from tasks.adapters.shelf import Shelf

    release = Shelf(Settings().data / "serving").unpin(named)
    screen.print(f"{release[:12]} goes when nothing else needs it")


@keys_app.command("create")
def create_key(
    client: Annotated[str, typer.Argument(help="who calls, e.g. shop; two live keys each, for a change-over")],
    as_json: AsJson = False,
) -> None:
    """Make a key. With the first one, the service begins to ask for keys. The secret is shown this once."""
    from tasks.adapters import api_keys

    made = api_keys.create(Settings(), client)
    if as_json:
        return emit(made.model_dump())
    screen.print(
        f"id      {made.id}\nsecret  {made.secret}\nin force within 10 s; callers send it as user and password"
    )


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="its id, as `freshrank api-keys list` shows it")]) -> None:
    """Refuse a key from now on, on open connections too. With the last caller's key the service is open again."""
    from tasks.adapters import api_keys

    gone = api_keys.revoke(Settings(), key_id)
    screen.print(f"{gone.id} is refused within 10 s")


@keys_app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Ids, clients and dates. Secrets are not kept anywhere."""
    from tasks.adapters import api_keys

    found = api_keys.keys(Settings())
    if as_json:
        return emit([{"id": key.id, "client": key.client, "created": key.created} for key in found])
    for key in found:
        screen.print(f"{key.id:<24} {key.client:<16} {key.created}")
    if not found:
        screen.print("no keys: the service asks for none")


def _roles(settings: Settings) -> dict[str, str]:
    from tasks.controller.client import ControllerClient

    try:
        status = ControllerClient(settings).status()
    except FreshrankError:
        return {}
    return {status[role]["release"]: role for role in ("previous", "challenger", "champion") if status[role]}
