"""Keys of the service's callers: an id and a secret each. Here lie hashes only; the secret is shown once, when it is made.

A secret is 192 random bits, so that a plain hash of it cannot be turned back. It is SHA-1 because Envoy's own filter reads
that and nothing else (docs/adr/0027): what breaks SHA-1 are collisions, and nobody but us chooses a secret.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tasks.atomic import write_atomically
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record
from tasks.settings import Settings

CLIENT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
OURS = "freshrank"  # the key that this home's own clients use: replay, `make run`
LIVE = 2  # of one client: the old and the new one, while it changes over


class ApiKey(Record):
    id: str
    client: str
    sha1: str
    created: str


class NewKey(Record):
    """A key with its secret: exists in memory, and on the screen of who made it."""

    id: str
    secret: str


def keys(settings: Settings) -> list[ApiKey]:
    """By client, oldest first. Empty: the service asks for no key."""
    try:
        return [ApiKey.model_validate(row) for row in json.loads(_file(settings).read_text())]
    except FileNotFoundError:
        return []
    except ValueError as err:  # also of a key that lacks a field
        raise InputRejected(
            f"{_file(settings)} cannot be read ({err}); restore it, or delete it to ask for no keys"
        ) from err


def create(settings: Settings, client: str) -> NewKey:
    """A further key of a client. With the first one of all, our own clients get theirs.

    Raises:
        InputRejected: the name cannot be one, or the client has two live keys already.
    """
    if not CLIENT.fullmatch(client):
        raise InputRejected(f"client {client!r} is no name; use lower-case letters, digits and hyphens, at most 40")
    with _alone(settings):
        present = keys(settings)
        if client != OURS and not any(key.client == OURS for key in present):
            own = _new(present, OURS)
            present.append(own[0])
            _write(own_file(settings), own[1].model_dump())
        live = [key.id for key in present if key.client == client]
        if len(live) >= LIVE:
            raise InputRejected(f"{client} has {LIVE} live keys, {', '.join(live)}; revoke one before you make another")
        added, made = _new(present, client)
        _save(settings, [*present, added])
        if client == OURS:
            _write(own_file(settings), made.model_dump())
        return made


def ensure_own(settings: Settings) -> None:
    """Where tokens are asked for, our own clients need a key although nobody else has one."""
    with _alone(settings):
        present = keys(settings)
        if not any(key.client == OURS for key in present):
            added, made = _new(present, OURS)
            _write(own_file(settings), made.model_dump())
            _save(settings, [*present, added])


def revoke(settings: Settings, key_id: str) -> ApiKey:
    """Raises InputRejected: there is no such key, or it is our own and others still ask for one."""
    with _alone(settings):
        present = keys(settings)
        found = next((key for key in present if key.id == key_id), None)
        if found is None:
            known = ", ".join(key.id for key in present) or "none"
            raise InputRejected(f"there is no key {key_id!r}; keys: {known}")
        left = [key for key in present if key.id != key_id]
        if found.client == OURS and left and not any(key.client == OURS for key in left):
            raise InputRejected(
                f"{key_id} is what this home's own clients use; make another first: `freshrank api-keys create {OURS}`"
            )
        if all(key.client == OURS for key in left):
            left = []  # nobody else has a key: the service is open again
            own_file(settings).unlink(missing_ok=True)
        _save(settings, left)
        return found


def htpasswd(settings: Settings) -> tuple[str, ...]:
    """What the router checks against."""
    return tuple(sorted(f"{key.id}:{{SHA}}{key.sha1}" for key in keys(settings)))


def own_credentials(settings: Settings) -> tuple[str, str] | None:
    """What our own clients send to the router here; None while no key is asked for."""
    try:
        told = json.loads(own_file(settings).read_text())
        return str(told["id"]), str(told["secret"])
    except FileNotFoundError:
        return None


def own_headers(settings: Settings) -> dict[str, str]:
    """The same as headers, for clients that are no httpx."""
    key = own_credentials(settings)
    return {"authorization": f"Basic {base64.b64encode(':'.join(key).encode()).decode()}"} if key else {}


def own_file(settings: Settings) -> Path:
    return settings.home / "own_api_key.json"


def _file(settings: Settings) -> Path:
    return settings.home / "api_keys.json"


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Two people at once: the second waits, or a key that was just revoked would be written back."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / ".api_keys.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _new(present: list[ApiKey], client: str) -> tuple[ApiKey, NewKey]:
    taken = {key.id for key in present}
    key_id = next(name for number in range(1, len(taken) + 2) if (name := f"{client}.{number}") not in taken)
    secret = secrets.token_urlsafe(24)
    sha1 = base64.b64encode(hashlib.sha1(secret.encode(), usedforsecurity=False).digest()).decode()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return ApiKey(id=key_id, client=client, sha1=sha1, created=now), NewKey(id=key_id, secret=secret)


def _save(settings: Settings, present: list[ApiKey]) -> None:
    if present:
        _write(
            _file(settings), [key.model_dump() for key in sorted(present, key=lambda key: (key.client, key.created))]
        )
    else:
        _file(settings).unlink(missing_ok=True)


def _write(path: Path, content: object) -> None:
    write_atomically(path, json.dumps(content, indent=1).encode(), mode=0o600)
