"""What one run of one step read, wrote and was told to do. A step is complete if and only if its manifest exists."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.domain.errors import InputRejected

Parameter = str | int | float | bool | None
PARTITION = re.compile(r"\d{4}-\d{2}-\d{2}")


class Record(BaseModel):
    """A frozen value that crosses a process or disk boundary. NaN and infinity cannot exist in one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artifact(Record):
    """One file that a step wrote: where it is and what it must contain."""

    uri: str
    sha256: str
    bytes: int


class Manifest(Record):
    """The record of one completed step. `inputs` are manifest URIs, so that lineage is a walk."""

    step: str
    partition: str
    inputs: dict[str, str]
    outputs: dict[str, Artifact]
    params: dict[str, Parameter]
    summary: dict[str, Any]  # small: numbers and sentences for people, MLflow and the Airflow page
    code_version: str
    lock_digest: str
    seed: int
    started_at: str
    seconds: float


def canonical_json(value: Any) -> bytes:
    """One spelling for one value, so that digests of equal values are equal."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def partition_date(partition: str) -> date:
    """Parse a partition key such as 2017-07-01. Raises InputRejected for anything else, `../` and NUL included."""
    if isinstance(partition, str) and PARTITION.fullmatch(partition):
        try:
            return date.fromisoformat(partition)
        except ValueError:
            pass
    raise InputRejected(f"partition {partition!r} is not a day; write it as YYYY-MM-DD, for example 2017-07-01")
