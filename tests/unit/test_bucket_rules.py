"""The bucket's own rules on AWS: a rule knows an object's age, and not whether what serves rests on it."""

from __future__ import annotations

import re
from pathlib import Path

TERRAFORM = Path(__file__).parents[2] / "infra" / "terraform" / "aws"


def test_nothing_expires_by_its_age_but_what_was_deleted_already() -> None:
    """What serves for a year must be there for the pull of a new replica; and every run that led to it, to explain it."""
    rules = (TERRAFORM / "store.tf").read_text().split('resource "aws_s3_bucket_lifecycle_configuration" "store"')[1]
    rules = rules.split("\nresource ")[0]
    assert rules.count("  rule {") == 3
    expirations = re.findall(r"\n    expiration \{\n(.*?)\n    \}", rules, re.DOTALL)
    assert [one.strip() for one in expirations] == ["expired_object_delete_marker = true"]
