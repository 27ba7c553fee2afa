"""What IAM would say: the roles' policies and the bucket's calls, small enough to read beside AWS's own rules.

An explicit deny wins, else one allow is enough, else no. Only what our policies use is known: actions and resources with
wildcards, and StringLike on a key of the request. Anything else in a policy is an error here, never a silent yes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

ROLES = Path(__file__).parents[1] / "infra" / "terraform" / "aws" / "roles"
BUCKET = "arn:aws:s3:::example"
KEY = "arn:aws:kms:eu-central-1:123456789012:key/k"
# the permission that S3 asks for, by the operation of its API
ACTIONS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
}


@dataclass(frozen=True)
class Asked:
    """One request: what, on what, and what it says about itself."""

    action: str
    resource: str
    context: dict[str, str] = field(default_factory=dict, hash=False, compare=False)


def of_object(action: str, key: str) -> Asked:
    return Asked(action, f"{BUCKET}/{key}")


def policy(role: str) -> list[dict[str, Any]]:
    text = (ROLES / f"{role}.json").read_text().replace("${bucket}", BUCKET).replace("${key}", KEY)
    found = json.loads(text)
    assert found["Version"] == "2012-10-17"
    statements: list[dict[str, Any]] = found["Statement"]
    return statements


def allows(statements: list[dict[str, Any]], asked: Asked) -> bool:
    effects = {one["Effect"] for one in statements if _applies(one, asked)}
    return effects == {"Allow"}


def _applies(statement: dict[str, Any], asked: Asked) -> bool:
    unknown = set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}
    assert not unknown, f"this evaluator does not know {unknown}"
    conditions = statement.get("Condition", {})
    assert set(conditions) <= {"StringLike"}, f"this evaluator does not know {set(conditions)}"
    return (
        any(_like(pattern, asked.action, re.IGNORECASE) for pattern in _listed(statement["Action"]))
        and any(_like(pattern, asked.resource) for pattern in _listed(statement["Resource"]))
        and all(
            any(_like(pattern, asked.context[name]) for pattern in _listed(patterns))
            if name in asked.context
            else False
            for name, patterns in conditions.get("StringLike", {}).items()
        )
    )


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _like(pattern: str, value: str, flags: int = 0) -> bool:
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(escaped, value, flags) is not None


@contextmanager
def recorded() -> Iterator[set[Asked]]:
    """Every call that boto3 clients of this process make to S3 meanwhile, as what IAM would be asked."""
    calls: set[Asked] = set()
    listening = True

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        if not listening:  # a client outlives the block that it was made in
            return
        action = ACTIONS[model.name]  # an operation that nobody thought of fails the test here
        if action == "s3:ListBucket":
            calls.add(Asked(action, BUCKET, {"s3:prefix": str(params.get("Prefix", ""))}))
        else:
            calls.add(of_object(action, str(params["Key"])))
            # the bucket encrypts with our key whether or not a call says so
            calls.add(Asked("kms:GenerateDataKey" if action == "s3:PutObject" else "kms:Decrypt", KEY))

    before = boto3.DEFAULT_SESSION
    boto3.setup_default_session()
    assert boto3.DEFAULT_SESSION is not None
    boto3.DEFAULT_SESSION.events.register("provide-client-params.s3", note)
    try:
        yield calls
    finally:
        listening = False
        boto3.DEFAULT_SESSION = before
