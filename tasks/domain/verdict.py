"""What the gate says: findings with their numbers, a verdict for each candidate, and what ships. Pure values."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from tasks.domain.manifest import Record

CandidateKind = Literal["weights", "state", "bootstrap"]
TOTAL = "all"


class Outcome(StrEnum):
    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


SEVERITY = {Outcome.PASS: 0, Outcome.INCONCLUSIVE: 1, Outcome.FAIL: 2}


class Finding(Record):
    """One reason, passed or not, with its numbers. `difference` is positive where the candidate is better."""

    name: str
    slice: str
    champion: float | None
    candidate: float | None
    difference: float | None
    bound: float | None = Field(description="the one-sided 95 % bound that is held against the margin")
    margin: float | None
    outcome: Outcome
    sentence: str
    lower: float | None = None
    upper: float | None = None
    sample: int | None = Field(default=None, description="how many `unit` the numbers come from")
    unit: str = ""
    smallest_detectable: float | None = None
    next_step: str = ""
    warns: bool = Field(default=False, description="passes, and a person should know it")


class Verdict(Record):
    kind: CandidateKind
    outcome: Outcome
    reason: str
    findings: tuple[Finding, ...]
    section: str = Field(
        default="", description="the part of the policy that judged: weights, architecture, labels ..."
    )


class Decision(Record):
    """What ships. `shipped` is `none` where neither candidate proved itself; that is a successful run."""

    policy: str
    shipped: Literal["weights", "state", "bootstrap", "none"]
    reason: str
    needs_review: bool = Field(description="the weights were inconclusive, and a person may look at them")
    verdicts: tuple[Verdict, ...]


class Override(Record):
    """A person shipped what the gate did not: who, why, when, and over which verdict."""

    kind: CandidateKind
    by: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    at: str = Field(min_length=1, description="when the person answered, as Airflow wrote it down")
    verdict: Outcome
    verdict_reason: str
