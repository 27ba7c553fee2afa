"""Alert rules as Prometheus keeps them, and where each stands: pending until `for` is over, then firing. Pure: told the
samples and the time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.local.promql import UNITS, Expression, parse
from infra.local.promql_samples import NAME, Labels, Samples
from tasks.domain.errors import InputRejected

RULES = Path(__file__).parents[1] / "alerts" / "freshrank.yml"


@dataclass(frozen=True)
class Rule:
    name: str
    expression: Expression
    for_s: float
    labels: dict[str, str]
    annotations: dict[str, str]


@dataclass(frozen=True)
class Alert:
    """One rule on one set of labels. Fires once `since` is `for` ago."""

    rule: Rule
    labels: dict[str, str]
    value: float
    since: float
    firing: bool

    @property
    def annotations(self) -> dict[str, str]:
        return {name: rendered(text, self.labels, self.value) for name, text in self.rule.annotations.items()}


def read_rules(path: Path = RULES) -> list[Rule]:
    """Raises InputRejected for an expression that cannot be evaluated here."""
    groups: list[dict[str, Any]] = yaml.safe_load(path.read_text())["groups"]
    return [
        Rule(
            name=one["alert"],
            expression=parse(one["expr"]),
            for_s=seconds(one.get("for", "0s")),
            labels=one.get("labels", {}),
            annotations=one.get("annotations", {}),
        )
        for group in groups
        for one in group["rules"]
    ]


@dataclass
class Standing:
    """Which alerts are pending or firing. Forgets at a restart: a `for` then begins anew, as in Prometheus without a disk."""

    rules: list[Rule]
    since: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def evaluate(self, samples: Samples, at: float) -> list[Alert]:
        """All that hold now; what no longer holds is resolved at once."""
        alerts, still = [], dict[tuple[str, Labels], float]()
        for rule in self.rules:
            for labels, value in rule.expression.at(samples, at).items():
                key = (rule.name, labels)
                still[key] = since = self.since.get(key, at)
                told = {name: text for name, text in labels if name != NAME} | rule.labels
                alerts.append(Alert(rule, told, value, since, at - since >= rule.for_s))
        self.since = still
        return alerts


def seconds(duration: str) -> float:
    parts = re.findall(r"(\d+)(ms|[smhdw])", duration)
    if "".join(number + unit for number, unit in parts) != duration:
        raise InputRejected(f"{duration!r} is no duration; write it as 1m or 1h30m")
    return sum(int(number) * UNITS[unit] for number, unit in parts)


PLACE = re.compile(r"\{\{\s*(?:\$labels\.(\w+)|\$value)\s*(?:\|\s*(\w+)\s*)?\}\}")


def rendered(text: str, labels: Mapping[str, str], value: float) -> str:
    """The places that our rules use: a label, the value, and three ways to write the value for people."""

    def put(found: re.Match[str]) -> str:
        label, way = found.groups()
        if label:
            return labels.get(label, "")
        ways = {None: _plain, "humanize": _plain, "humanizePercentage": _percent, "humanizeDuration": _duration}
        if way not in ways:
            raise InputRejected(
                f"{way} is no way to write a value here; ways: humanize, humanizePercentage, humanizeDuration"
            )
        return ways[way](value)

    return PLACE.sub(put, text)


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{value * 100:.4g}%"


def _duration(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return _plain(value)
    whole, parts = abs(int(value)), list[str]()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= size or parts:
            parts.append(f"{whole // size}{unit}")
            whole %= size
    return ("-" if value < 0 else "") + " ".join([*parts, f"{whole}s"])
