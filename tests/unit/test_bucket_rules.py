"""The bucket's own rules on AWS, beside what the policies promise."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.policies import load_policy

TERRAFORM = Path(__file__).parents[2] / "infra" / "terraform" / "aws"


def test_no_step_output_expires_while_its_decision_can_still_be_asked_about() -> None:
    told = (TERRAFORM / "variables.tf").read_text()
    (least,) = re.findall(r"var\.run_days >= (\d+)", told)
    assert int(least) > load_policy("production").retention.decision_days


def test_only_step_outputs_and_what_was_deleted_already_expire() -> None:
    """A release or view has no age: what serves for a year must be there for the pull of a new replica."""
    rules = (TERRAFORM / "store.tf").read_text().split('resource "aws_s3_bucket_lifecycle_configuration" "store"')[1]
    rules = rules.split("\nresource ")[0]
    expiring = [rule for rule in rules.split("  rule {")[1:] if re.search(r"\n    expiration \{\n +days", rule)]
    assert [re.findall(r'prefix = "(.*?)"', rule) for rule in expiring] == [["runs/"]]
