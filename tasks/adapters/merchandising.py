"""Merchandising rules on this machine's disk: a numbered file for each change, made once and never written again.

The next number is taken by whoever links a file there first, so two people at once both get their change in; replicas look
for a higher number each second. That needs no service to be up.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from tasks.atomic import write_first
from tasks.domain.errors import Conflict, InputRejected, Unavailable
from tasks.domain.manifest import canonical_json
from tasks.domain.merchandising import Merchandising, Revision
from tasks.serving.merchandise import path_of, revisions
from tasks.settings import Settings

KEPT = 500  # revisions that `freshrank items restore` can go back to; a stock feed makes one every few minutes
TRIES = 50
BUSY = f"others changed the merchandising rules {TRIES} times in this moment; nothing was changed, try again"


def merchandising_folder(settings: Settings) -> Path:
    return settings.data / "serving" / "merchandising"


def current(settings: Settings) -> tuple[int, Merchandising]:
    """(0, no rules) before the first change."""
    present = revisions(merchandising_folder(settings))
    return (max(present), read(settings, max(present)).rules) if present else (0, Merchandising())


def read(settings: Settings, number: int) -> Revision:
    """Raises InputRejected: there is no such revision (any more), or its file was changed by hand."""
    folder = merchandising_folder(settings)
    try:
        return Revision.model_validate_json(path_of(folder, number).read_bytes())
    except FileNotFoundError:
        present = revisions(folder)
        known = f"there are {min(present)} to {max(present)}" if present else "there is none yet"
        raise InputRejected(f"there is no revision {number} of the merchandising rules; {known}") from None
    except ValidationError as err:
        raise InputRejected(
            f"revision {number} of the merchandising rules cannot be read ({err.error_count()} errors in"
            f" {path_of(folder, number).name}); go back to another: freshrank items restore NUMBER --reason TEXT"
        ) from None


def history(settings: Settings) -> list[Revision]:
    """Newest first."""
    return [read(settings, number) for number in sorted(revisions(merchandising_folder(settings)), reverse=True)]


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
        now = read(settings, max(revisions(merchandising_folder(settings))))
        raise Conflict(
            f"your file starts from revision {seen}, {now.actor} made {now.revision} since ({now.reason}); nothing was"
            " changed: print them again with `freshrank items rules`, and change that"
        )
    return number + 1, True


def restore(settings: Settings, actor: str, reason: str, number: int) -> int:
    """Put what revision `number` said in force again, as a new revision, whatever became of the newest one."""
    rules = read(settings, number).rules
    for _ in range(TRIES):
        new = max(revisions(merchandising_folder(settings))) + 1
        if _write(settings, new, actor, reason, rules):
            return new
    raise Unavailable(BUSY)


def _write(settings: Settings, number: int, actor: str, reason: str, rules: Merchandising) -> bool:
    """Whether this call was the first to write that number."""
    folder = merchandising_folder(settings)
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    told = Revision(revision=number, at=at, actor=actor, reason=reason, rules=rules)
    content = canonical_json(told.model_dump(mode="json"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        first = write_first(path_of(folder, number), content)
    except OSError as err:
        raise Unavailable(f"the merchandising rules could not be written: {err.strerror}; nothing was changed") from err
    for old in revisions(folder):
        if old <= number - KEPT:
            path_of(folder, old).unlink(missing_ok=True)
    return first
