"""Send one damaged day through the public doors, and say what happened to it.

    source -> Poisoned -> tasks.ingest -> objects bent -> tasks.validate_data -> Judged

Nothing here knows a rule: what counts is whether the day, or the rows that were damaged, went through.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expectations.suites import SUITES
from tasks.adapters.store import Store
from tasks.domain.data_policy import DataPolicy
from tasks.domain.errors import InputRejected
from tasks.ingest import ingest
from tasks.red_team.overlay import Overlay
from tasks.red_team.poison import Poisoned, Window
from tasks.red_team.scene import OUTCOMES, Kind, Landing, Outcome
from tasks.sources import Source
from tasks.validate_data import validate_data

ENOUGH = 0.8  # of the damaged rows that must be caught, where rows and not the day are what is caught
SOUND = Kind("sound", "Nothing.", "none", 0.0, (), "pass")
DAY_OUTCOME: dict[str, Outcome] = {"pass": "pass", "empty": "empty", "hold": "held", "refuse": "refused"}
DOORS = {"ingest", "reader"}  # what they refuse comes to no rule, and no policy can let it in
STOPPED = re.compile(r"(hold|refuse): (?P<rule>\w+)")
EXPECTATIONS = {expectation.name for suite in SUITES for expectation in suite.expectations}


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a day. Expectations have names of their own; here, as in the policy, all of them are `contract`."""

    outcome: Outcome
    stopped_by: tuple[str, ...]  # the doors or rules that held, refused or rejected the day
    caught: dict[str, int]  # rule -> rows that it quarantined or marked
    quarantined: int
    sentences: tuple[str, ...]
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One day of a source, and the accepted days before it in a store that is never written to."""

    source: Source
    past: Store
    landing: Landing
    policy: DataPolicy

    def judge(self, kind: Kind, strength: float, seed: int, out: Path) -> Judged:
        """Reports lie under `out`, unless the day never came as far as validation."""
        day = self.landing.day
        store = Overlay(self.past, hidden=lambda key: _is_of(key, day))
        poisoned = Poisoned(self.source, day, kind, strength, seed)
        told = kind.landing(self.landing, strength) if kind.landing else self.landing
        door = "ingest"
        try:
            ingest(poisoned, store, told.day, told.key, told.key_id)
            door = "reader"
            if kind.objects:
                kind.objects(store, poisoned.scene(), strength)
            summary = validate_data([day], store, self.policy, out)
        except InputRejected as err:
            return Judged("rejected", (door,), {}, 0, (str(err),), {})
        return _read(summary, day)

    def changed(self, kind: Kind, strength: float, seed: int) -> int:
        return Poisoned(self.source, self.landing.day, kind, strength, seed).changed()


def is_detected(kind: Kind, clean: Judged, judged: Judged, changed: int) -> bool:
    """Whether the day fared as badly as promised, and worse than when it is clean; or enough damaged rows are caught.

    Args:
        changed: how many rows the damage made or changed.
    """
    if 0 < ENOUGH * changed <= judged.quarantined - clean.quarantined:
        return True
    worse = OUTCOMES.index(judged.outcome) > OUTCOMES.index(clean.outcome)
    return worse and OUTCOMES.index(judged.outcome) >= OUTCOMES.index(kind.outcome)


def caught_by(clean: Judged, judged: Judged) -> tuple[str, ...]:
    """What stopped the day; where nothing did, the rules that caught more rows than on the clean day."""
    more = (rule for rule, rows in judged.caught.items() if rows > clean.caught.get(rule, 0))
    return judged.stopped_by or tuple(sorted(more))


def without(policy: DataPolicy, rules: Iterable[str]) -> DataPolicy:
    """The policy with some rules off."""
    left, off = policy.model_copy(deep=True), set(rules)
    for name in off & set(left.rows):
        left.rows[name] = left.rows[name].model_copy(update={"action": "off"})
    for section in (left.days, left.tables):
        for name in off & set(section):
            section[name] = section[name].model_copy(update={"action": "off"})
    return left


def accept_days(
    source: Source, first: str, last: str, store: Store, landing: Landing, policy: DataPolicy, out: Path
) -> None:
    """Land and validate the days `first` to `last` as they are, so that there is a past to judge by."""
    window = Window(source, first, last)
    ingest(window, store, last, landing.key, landing.key_id)
    validate_data(window.days(), store, policy, out)


def _is_of(key: str, day: str) -> bool:
    """Whether an object belongs to `day` or a later one: none of that is known on the morning after `day`."""
    found = re.search(r"/dt=(\d{4}-\d{2}-\d{2})/|^control/released/(\d{4}-\d{2}-\d{2})", key)
    return found is not None and (found[1] or found[2]) >= day


def _read(summary: dict[str, Any], day: str) -> Judged:
    sentences = tuple(summary["reasons"].get(day, ()))
    stopped = [_rule(found["rule"]) for sentence in sentences if (found := STOPPED.match(sentence))]
    caught: Counter[str] = Counter()
    for by_rule in (summary["quarantined_by_rule"], summary["marked_by_rule"]):
        for name, rows in by_rule.items():
            caught[_rule(name)] += rows
    return Judged(
        outcome=DAY_OUTCOME[summary["verdict"]],
        stopped_by=tuple(dict.fromkeys(stopped)),
        caught=dict(caught),
        quarantined=int(summary["quarantined"]),
        sentences=sentences,
        summary=summary,
    )


def _rule(name: str) -> str:
    return "contract" if name in EXPECTATIONS else name
