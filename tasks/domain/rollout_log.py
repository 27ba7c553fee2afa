"""The rollout log's rows: one per change of traffic, each sealed with the hash of the row before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from tasks.domain.errors import Conflict, InputRejected
from tasks.domain.manifest import Record, canonical_json, digest_of

GENESIS = "0" * 64


class Kind(StrEnum):
    START = "start"  # a rollout was accepted; no traffic moves yet
    BOOT = "boot"  # the very first champion, straight to 100
    ADVANCE = "advance"
    PROMOTE = "promote"
    ABORT = "abort"  # a rollout ended, traffic back on the champion
    ROLLBACK = "rollback"  # champion -> an earlier champion
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"


class Draft(Record):
    """A row that somebody wants to append. `op` is the idempotency key: one effect, however often it is sent."""

    op: str = Field(min_length=1, max_length=200)
    kind: Kind
    actor: str = Field(min_length=1, max_length=200)
    reason: str = Field(min_length=1, max_length=2000)
    rollout: str | None = None
    from_release: str | None = None
    to_release: str | None = None
    weight: int = Field(default=0, ge=0, le=100)  # percent on to_release once this row is in effect
    details: dict[str, Any] = Field(default_factory=dict)  # policy of a start, evidence of a decision


class Row(Draft):
    """An appended row. `rev` counts from 1 without gaps; `hash` covers everything else, the previous hash included."""

    rev: int
    at: str  # ISO 8601, UTC
    previous_hash: str
    hash: str

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.at)


def sealed(draft: Draft, after: Row | None, at: datetime) -> Row:
    """The draft as the row that follows `after`."""
    body = draft.model_dump(mode="json") | {
        "rev": after.rev + 1 if after else 1,
        "at": at.astimezone(UTC).isoformat(),
        "previous_hash": after.hash if after else GENESIS,
    }
    return Row(**body, hash=digest_of(body))


def check_chain(rows: Sequence[Row]) -> None:
    """Raise InputRejected at the first row that was edited, dropped, reordered or inserted.

    A cut tail is not visible from inside the log: compare the last hash with a copy kept elsewhere.
    """
    previous_hash = GENESIS
    for place, row in enumerate(rows, start=1):
        expected = digest_of(row.model_dump(mode="json", exclude={"hash"}))
        if row.rev != place or row.previous_hash != previous_hash or row.hash != expected:
            raise InputRejected(
                f"rollout log is not intact at revision {place}: row says revision {row.rev}, hash {row.hash[:12]}, "
                f"content has {expected[:12]}, previous should be {previous_hash[:12]}; restore the log from a backup"
            )
        previous_hash = row.hash


def already_done(present: Row, draft: Draft) -> Row:
    """The row that this idempotency key already has. Raises Conflict when the key was used for something else."""
    if (present.kind, present.to_release, present.rollout) != (draft.kind, draft.to_release, draft.rollout):
        raise Conflict(
            f"idempotency key {draft.op!r} was used at revision {present.rev} for {present.kind} of "
            f"{short(present.to_release)}; use a new key for {draft.kind} of {short(draft.to_release)}"
        )
    return present


def following(draft: Draft, head: Row | None, expected: int, at: datetime) -> Row:
    """The draft as the row after `head`. Raises Conflict where `head` is not at revision `expected`."""
    actual = head.rev if head else 0
    if actual != expected:
        raise Conflict(
            f"the rollout log is at revision {actual}, not {expected}: somebody else moved first; look again"
        )
    return sealed(draft, head, at)


def spelled(row: Row) -> str:
    """The row as a database keeps it; `read_row` reads it."""
    return canonical_json(row.model_dump(mode="json")).decode()


def read_row(body: str) -> Row:
    return Row.model_validate(json.loads(body))


def short(release: str | None) -> str:
    """Releases as people read them."""
    return release[:12] if release else "none"
