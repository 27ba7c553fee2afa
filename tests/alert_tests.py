"""promtool's unit-test format for alert rules, as far as infra/alerts/tests.yml uses it, on our own evaluator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from infra.local.alert_rules import Standing, read_rules, seconds
from infra.local.promql_samples import NAME, STALE, Samples

SERIES = re.compile(r"(\w+)(?:\{(.*)\})?")
LABEL = re.compile(r'(\w+)="([^"]*)"')
VALUES = re.compile(r"(?P<first>-?[\d.]+(?:e\d+)?)(?:(?P<step>[+-][\d.]+)?x(?P<times>\d+))?")


def labels_of(series: str) -> dict[str, str]:
    found = SERIES.fullmatch(series)
    assert found, series
    return {NAME: found[1], **dict(LABEL.findall(found[2] or ""))}


def values_of(notation: str) -> Iterator[float | str | None]:
    """`1+2x3` is 1 3 5 7, `5x2` is 5 5 5, `_x3` three times nothing, `stale` the end of the series."""
    for part in notation.split():
        if part.startswith("_"):
            yield from [None] * int(part.removeprefix("_").removeprefix("x") or 1)
        elif part == "stale":
            yield "stale"
        else:
            found = VALUES.fullmatch(part)
            assert found, part
            for place in range(int(found["times"] or 0) + 1):
                yield float(found["first"]) + place * float(found["step"] or 0)


def cases(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())["tests"]
    return found


def loaded(case: dict[str, Any]) -> Samples:
    samples, interval = Samples(), seconds(case["interval"])
    for one in case["input_series"]:
        labels = labels_of(one["series"])
        for place, value in enumerate(values_of(one["values"])):
            if value is not None:
                samples.add(labels, place * interval, STALE if value == "stale" else float(value))
    return samples


def firing_at(case: dict[str, Any], rules: Path, every_s: float = 15.0) -> Iterator[tuple[str, Any, Any]]:
    """(which, expected, found) of each question of one test group: sets of (labels, annotations)."""
    samples, standing = loaded(case), Standing(read_rules(rules))
    asked = sorted(case["alert_rule_test"], key=lambda one: seconds(one["eval_time"]))
    at, alerts = -every_s, []
    for one in asked:
        until = seconds(one["eval_time"])
        while at + every_s <= until:
            at += every_s
            alerts = standing.evaluate(samples, at)
        found = [
            (alert.labels, alert.annotations)
            for alert in alerts
            if alert.firing and alert.rule.name == one["alertname"]
        ]
        expected = [(exp["exp_labels"], exp.get("exp_annotations", {})) for exp in one["exp_alerts"]]
        yield f"{one['alertname']} at {one['eval_time']}", _sorted(expected), _sorted(found)


def _sorted(alerts: list[tuple[dict[str, str], dict[str, str]]]) -> list[Any]:
    return sorted((sorted(labels.items()), sorted(said.items())) for labels, said in alerts)
