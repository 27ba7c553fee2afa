"""Merchandising rules: a numbered file for each change, made once and never written again, on this disk or in the store.

The next number is taken by whoever writes a file of that number first, so two people at once both get their change in;
replicas look for a higher number each second. On a disk that needs no service to be up.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from tasks.adapters.store import Store, open_store
from tasks.atomic import write_first
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.manifest import canonical_json
from tasks.domain.merchandising import Merchandising, Revision
from tasks.serving.merchandise import number_of, path_of, revisions
from tasks.settings import Settings

KEPT = 500  # revisions that `freshrank items restore` can go back to; a stock feed makes one every few minutes
TRIES = 50
BUSY = f"others changed the merchandising rules {TRIES} times in this moment; nothing was changed, try again"


IN_STORE = Path("control/merchandising")


class Kept(Protocol):
    """The files by their numbers."""

    def numbers(self) -> list[int]: ...

    def read(self, number: int) -> bytes | None:
        """None where there is no such file."""
        ...

    def write_first(self, number: int, content: bytes) -> bool:
        """Whether this call was the first to write that number. Raises Unavailable; nothing was changed."""
        ...

    def drop(self, number: int) -> None: ...


class OnDisk:
    """In a folder that the replicas of this machine look at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def numbers(self) -> list[int]:
        return revisions(self._folder)

    def read(self, number: int) -> bytes | None:
        try:
            return path_of(self._folder, number).read_bytes()
        except FileNotFoundError:
            return None

    def write_first(self, number: int, content: bytes) -> bool:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return write_first(path_of(self._folder, number), content)
        except OSError as err:
            raise Unavailable(
                f"the merchandising rules could not be written: {err.strerror}; nothing was changed"
            ) from err

    def drop(self, number: int) -> None:
        path_of(self._folder, number).unlink(missing_ok=True)


class InStore:
    """In the object store, from where replicas on other machines get them (tasks.controller.rules)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def numbers(self) -> list[int]:
        keys = self._store.list(f"{IN_STORE.as_posix()}/")
        return [number for key in keys if (number := number_of(Path(key).name)) is not None]

    def read(self, number: int) -> bytes | None:
        try:
            return self._store.get(_key(number))
        except InputRejected:
            return None

    def write_first(self, number: int, content: bytes) -> bool:
        try:
            self._store.put_new(_key(number), content)
        except Conflict:
            return False
        return True

    def drop(self, number: int) -> None:
        self._store.delete(_key(number))


def kept(settings: Settings) -> Kept:
    in_store = settings.merchandising == "store"
    return InStore(open_store(settings)) if in_store else OnDisk(merchandising_folder(settings))


def merchandising_folder(settings: Settings) -> Path:
    return settings.data / "serving" / "merchandising"


def current(settings: Settings) -> tuple[int, Merchandising]:
    """(0, no rules) before the first change."""
    present = kept(settings).numbers()
    return (max(present), read(settings, max(present)).rules) if present else (0, Merchandising())


def read(settings: Settings, number: int) -> Revision:
    """Raises InputRejected: there is no such revision (any more), or its file was changed by hand."""
    files = kept(settings)
    content = files.read(number)
    if content is None:
        present = files.numbers()
        known = f"there are {min(present)} to {max(present)}" if present else "there is none yet"
        raise InputRejected(f"there is no revision {number} of the merchandising rules; {known}")
    try:
        return Revision.model_validate_json(content)
    except ValidationError as err:
        raise InputRejected(
            f"revision {number} of the merchandising rules cannot be read ({err.error_count()} errors); go back to"
            " another: freshrank items restore NUMBER --reason TEXT"
        ) from None


def history(settings: Settings) -> list[Revision]:
    """Newest first."""
    return [read(settings, number) for number in sorted(kept(settings).numbers(), reverse=True)]


def change(
    settings: Settings, actor: str, reason: str, edit: Callable[[Merchandising], Merchandising]
) -> tuple[int, bool]:
    """(revision in force, whether it is new). `edit` is called again on what somebody else wrote in the meantime."""
    for _ in range(TRIES):
        number, rules = current(settings)
        edited = edit(rules)
        if edited == rules:
            return number, False
        if _write(settings, number + 1, actor, reason, edited):
            return number + 1, True
    raise Unavailable(BUSY)


def replace(settings: Settings, actor: str, reason: str, seen: int, rules: Merchandising) -> tuple[int, bool]:
    """Put `rules` in force if `seen` still is. Raises Conflict: somebody changed them since; nothing was changed."""
    number, present = current(settings)
    if number == seen and rules == present:
        return number, False
    if number != seen or not _write(settings, number + 1, actor, reason, rules):
        now = read(settings, max(kept(settings).numbers()))
        raise Conflict(
            f"your file starts from revision {seen}, {now.actor} made {now.revision} since ({now.reason}); nothing was"
            " changed: print them again with `freshrank items rules`, and change that"
        )
    return number + 1, True


def restore(settings: Settings, actor: str, reason: str, number: int) -> int:
    """Put what revision `number` said in force again, as a new revision, whatever became of the newest one."""
    rules = read(settings, number).rules
    for _ in range(TRIES):
        new = max(kept(settings).numbers()) + 1
        if _write(settings, new, actor, reason, rules):
            return new
    raise Unavailable(BUSY)


def _write(settings: Settings, number: int, actor: str, reason: str, rules: Merchandising) -> bool:
    """Whether this call was the first to write that number."""
    files = kept(settings)
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    told = Revision(revision=number, at=at, actor=actor, reason=reason, rules=rules)
    first = files.write_first(number, canonical_json(told.model_dump(mode="json")))
    for old in files.numbers():
        if old <= number - KEPT:
            files.drop(old)
    return first


def _key(number: int) -> str:
    return path_of(IN_STORE, number).as_posix()
