"""What daily data must look like, and the decision whether a day is let through. Pure: numbers in, findings out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from tasks.domain.manifest import Record

Verdict = Literal["pass", "hold", "refuse", "empty", "released"]
Outcome = Literal["pass", "mark", "quarantine", "hold", "refuse"]
SEVERITY: dict[str, int] = {"pass": 0, "mark": 1, "quarantine": 2, "hold": 3, "refuse": 4}


class RowRule(Record):
    """What happens to the rows a rule catches, and what happens to the day when it catches more than its budget."""

    action: Literal["mark", "quarantine", "off"]
    budget: float = Field(ge=0, le=1)  # share of the day's rows
    beyond: Literal["hold", "refuse"]
    settings: dict[str, float] = Field(default_factory=dict)


class DayRule(Record):
    """What happens to a day that breaks a rule about the day as a whole."""

    action: Literal["hold", "refuse", "off"]
    settings: dict[str, float] = Field(default_factory=dict)


class TrainingRule(Record):
    """What happens when a training set differs by more than `at_most` from what comes after it."""

    action: Literal["mark", "refuse", "off"]
    at_most: float = Field(gt=0)


class DataPolicy(Record):
    """tasks/policies/data.yaml. Every rule has an entry and every entry a rule; the loader checks both."""

    version: Literal[1]
    reference_days: int = Field(ge=1)  # accepted days before a day that it is compared with
    model_inputs: tuple[str, ...]  # columns that training reads: a day where one is all null teaches nothing
    rows: dict[str, RowRule]
    days: dict[str, DayRule]
    tables: dict[str, DayRule]  # the plan and the item table that a day names
    training: dict[str, TrainingRule]  # what build_dataset made, its training part against what comes after it


class Distance(Record):
    """Of one day to its reference in one dimension, and which bucket moved most."""

    js: float  # Jensen-Shannon, bits
    psi: float
    most: str


class DayCounts(Record):
    """What later days are compared with: counts by dimension and bucket, and by slice and event type; sound rows only."""

    rows: int = Field(ge=0)
    first_second: int | None  # of the day
    last_second: int | None
    counts: dict[str, dict[str, int]]  # dimension -> bucket -> rows
    visits: dict[str, int]  # hour -> sessions, or users where there are no sessions: rows come in clumps, visits do not
    rates: dict[str, dict[str, dict[str, int]]]  # dimension -> bucket -> event type -> rows
    top_item_share: float
    top_user_share: float
    item_evenness: float
    user_evenness: float
    nulls: dict[str, int]  # column -> rows without a value
    stranger_share: float  # of rows by users whom no reference day has seen
    distances: dict[str, Distance]  # to the days before it, when it was judged


class Finding(Record):
    """One rule on one day, as numbers and as a sentence."""

    rule: str
    outcome: Outcome
    rows: int
    sentence: str


def judge_rows(name: str, rule: RowRule, caught: int, rows: int, reason: str) -> Finding:
    """Rows within the budget are marked or quarantined; more than that says something about the day."""
    share = caught / rows if rows else 0.0
    if rule.action == "off":
        return Finding(rule=name, outcome="pass", rows=0, sentence=f"{name}: switched off by the policy")
    numbers = f"{name}: {caught} of {rows} rows ({share:.2%}, allowed {rule.budget:.2%})"
    if caught == 0:
        return Finding(rule=name, outcome="pass", rows=0, sentence=numbers)
    outcome: Outcome = rule.beyond if share > rule.budget else rule.action
    return Finding(rule=name, outcome=outcome, rows=caught, sentence=f"{numbers}; {reason}")


TRAINING = {
    "train_holdout_drift": "the worst feature's stability index: the model would be judged on another world than it learnt",
    "class_balance": "times more, or less, positives than in training: labels are missing, or doubled",
}


def judge_training(facts: Mapping[str, float], rules: Mapping[str, TrainingRule]) -> list[Finding]:
    """`facts`: a number for each rule of TRAINING."""
    findings = []
    for name, reason in TRAINING.items():
        rule, value = rules[name], facts[name]
        outcome: Outcome = "pass" if rule.action == "off" or value <= rule.at_most else rule.action
        told = f"{name}: {value:.3g}, allowed {rule.at_most:g}"
        findings.append(
            Finding(rule=name, outcome=outcome, rows=0, sentence=told if outcome == "pass" else f"{told}; {reason}")
        )
    return findings


def spread(history: Sequence[float], mads: float) -> float:
    """`mads` robust standard deviations: 1.4826 times the median absolute deviation, which is sigma of a normal law."""
    middle = statistics.median(history)
    return mads * 1.4826 * statistics.median(abs(value - middle) for value in history)


def band(history: Sequence[int], mads: float, below: float, above: float) -> tuple[float, float]:
    """Median +- `mads` robust deviations, never narrower than the shares `below` and `above` of the median."""
    middle = statistics.median(history)
    usual = spread(history, mads)
    return max(middle - max(usual, below * middle), 0.0), middle + max(usual, above * middle)


def verdict_of(findings: Iterable[Finding], rows: int, *, released: bool = False) -> Verdict:
    """The worst finding wins. A day without rows is empty, which is not a pass; nothing judged is held. A pass that a
    person made possible is called released."""
    seen = list(findings)
    worst = max((SEVERITY[finding.outcome] for finding in seen), default=SEVERITY["hold"])
    if worst >= SEVERITY["refuse"]:
        return "refuse"
    if rows == 0:
        return "empty"
    if worst == SEVERITY["hold"]:
        return "hold"
    return "released" if released else "pass"
