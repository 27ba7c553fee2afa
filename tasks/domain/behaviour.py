"""What one landed and one accepted day is made of, and how a raw id becomes a pseudonym. Never touches data itself."""

from __future__ import annotations

import hmac
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from tasks.domain.contract import CONTRACT_VERSION
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Record, digest_of, partition_date

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# no `/`, so no way out of the folder
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")]


class PartitionFile(Record):
    """One file of a partition and what it must contain."""

    name: FileName
    bytes: int = Field(ge=0)
    sha256: Sha256
    rows: int = Field(ge=0)

    @property
    def kind(self) -> str:
        """What the file holds: the word before the first dash (events, plan, caught, report, counts, items)."""
        return self.name.split("-", 1)[0]


class _Files(Record):
    files: tuple[PartitionFile, ...]

    def file(self, kind: str) -> PartitionFile:
        found = [file for file in self.files if file.kind == kind]
        if len(found) != 1:
            raise InputRejected(f"a manifest should name one {kind} file, this one names {len(found)}")
        return found[0]


class PartitionManifest(_Files):
    """One landed day. It is written last: without it the day does not exist, whatever files lie there.

    `digest` is of the content (rows, plan, items, users), not of the Parquet bytes: the same rows in another order, or
    written by another Parquet library, are the same partition. A day never changes, with one exception: erasing a user
    writes the next `revision`, and the bytes of the one before are gone.
    """

    version: Literal[2] = 2
    partition: str
    revision: int = Field(default=1, ge=1)
    rows: int = Field(ge=0)
    late_rows: int = Field(ge=0)  # rows of earlier days that arrived with this one; those days stay as they are
    erased_rows: int = Field(default=0, ge=0)  # rows of erased users that were left out or taken out
    taken_out: tuple[int, ...] = ()  # which rows of the revision before are not in this one
    ignored_columns: tuple[str, ...] = ()  # sent by the source, not in the contract, not stored
    catalogue: Sha256  # of the item table, catalogue/<sha256>.parquet
    users: Sha256 | None = None  # of the user table, users/<sha256>.parquet
    source: str
    pseudonym_key_id: str
    contract: int = CONTRACT_VERSION
    content: dict[str, Sha256] = Field(default_factory=dict)  # events, plan, items, users -> digest of their rows
    digest: Sha256  # of `content`


class AcceptedManifest(_Files):
    """What validate_data let through for one day; it is written last. Days that were held or refused have none.

    No row is copied: `events` is the landed file, and the table `caught` says which of its rows are quarantined or
    marked, and by which rules. Releasing rows or a whole day writes the next `revision`.
    """

    version: Literal[2] = 2
    partition: str
    revision: int = Field(default=1, ge=1)
    verdict: Literal["pass", "empty", "released"]
    rows: int = Field(ge=0)
    landed_rows: int = Field(ge=0)  # before quarantine: what later days are compared with
    quarantined: dict[str, int]  # rule -> rows; a row can be caught by several
    marked: dict[str, int]
    events: PartitionFile  # lies in behaviour/dt=..., as it was landed
    plan: PartitionFile  # likewise
    catalogue: Sha256
    users: Sha256 | None = None
    partition_digest: Sha256  # of the landed day that was judged
    landed_revision: int = Field(default=1, ge=1)
    released: dict[str, str] = Field(default_factory=dict)  # rule -> who let it pass for this day, and why
    policy_digest: Sha256


def pseudonym(raw_id: str, key: bytes) -> str:
    """HMAC-SHA256 of a raw user id as 64 hex digits; `key` is bytes.fromhex(secrets.pseudonym_key).

    Ingest and the service's request handler are the only callers: nothing else ever holds a raw id.
    """
    return hmac.digest(_checked(key), raw_id.encode(), "sha256").hex()


def session_pseudonym(raw_id: str, key: bytes) -> str:
    """Like `pseudonym`, in a space of its own: a basket number that equals a user number gets another hash."""
    return hmac.digest(_checked(key), b"session\0" + raw_id.encode(), "sha256").hex()


def visitor_pseudonym(request_id: str, key: bytes) -> str:
    """Who a request is of that names nobody: a user of this one request, so that its events belong together."""
    return hmac.digest(_checked(key), b"request\0" + request_id.encode(), "sha256").hex()


def _checked(key: bytes) -> bytes:
    if len(key) < 32:
        raise InputRejected(
            f"the pseudonym key has {len(key)} bytes, it needs 32; `freshrank doctor` checks secrets.json"
        )
    return key


def partition_digest(day: str, content: dict[str, str]) -> str:
    """Names what a day holds; `content` are the digests of its tables' rows."""
    return digest_of({"partition": day, **content})


def next_day(day: str, days: int = 1) -> str:
    return (partition_date(day) + timedelta(days=days)).isoformat()
