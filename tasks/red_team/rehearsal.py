"""`freshrank replay --inject KIND`: damage one real day, judge it against the days before it, and change nothing.

The live store is read through an overlay: what a rehearsal lands and publishes exists in memory only. Where no stack is
up, or the damage needs impressions, which a log of purchases does not have, a past is made in memory first.
"""

from __future__ import annotations

import secrets as random_secrets
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from tasks.adapters.partitions import accepted_days
from tasks.adapters.store import MemoryStore, open_store
from tasks.domain.behaviour import next_day
from tasks.domain.data_policy import DataPolicy
from tasks.domain.errors import InputRejected, Unavailable
from tasks.red_team import kind_named
from tasks.red_team.exposed import Exposed
from tasks.red_team.scene import Kind, Landing
from tasks.red_team.trial import SOUND, Trial, accept_days, caught_by, is_detected
from tasks.settings import Settings
from tasks.sources import Source, open_source, require_day
from tasks.validate_data import load_policy

PAST_DAYS = 36  # five of each weekday, and more than the 28 that a day is compared with
SEED = 20170701


def rehearse(settings: Settings, day: str, kind: str, strength: float | None, out: Path) -> dict[str, Any]:
    """Judge `day` of the configured source with damage of one kind. The report lies under `out`.

    Args:
        strength: default: the one at which detection is promised; 0 leaves the day as it is.

    Raises:
        InputRejected: there is no such kind or day, or too few days lie before it.
    """
    chosen, policy = kind_named(kind), load_policy()
    strength = chosen.published if strength is None else strength
    if not 0 <= strength < float("inf"):
        raise InputRejected(f"a strength of {strength} means nothing; it is 0 or more, here: {chosen.strength}")
    source = open_source(settings.source)
    require_day(source, day)
    if not source.events(day).num_rows:
        raise InputRejected(f"{day} has no event in {source.title}, so there is nothing to damage; choose another day")
    trial, against = _trial(settings, source, day, chosen, policy, out / "past")
    clean = trial.judge(SOUND, 0, SEED, out / "clean")
    judged = trial.judge(chosen, strength, SEED, out)
    report = out / "report.html"
    return {
        "kind": chosen.name,
        "what": chosen.what,
        "strength": strength,
        "partition": day,
        "against": against,
        "outcome": judged.outcome,
        "clean_outcome": clean.outcome,
        "detected": is_detected(chosen, clean, judged, trial.changed(chosen, strength, SEED)),
        "caught_by": list(caught_by(clean, judged)),
        "sentences": list(judged.sentences),
        "rows": judged.summary.get("rows", 0),
        "quarantined": judged.quarantined,
        "quarantined_by_rule": judged.summary.get("quarantined_by_rule", {}),
        "marked_by_rule": judged.summary.get("marked_by_rule", {}),
        "report": str(report) if judged.summary else None,
    }


def as_text(told: dict[str, Any]) -> str:
    """What `rehearse` found, for a terminal."""
    caught = [
        f"  {rule}: {count:,} of {told['rows']:,} rows {what}"
        for what in ("quarantined", "marked")
        for rule, count in told[f"{what}_by_rule"].items()
    ]
    by = f"detected by {', '.join(told['caught_by']) or 'the verdict itself'}" if told["detected"] else "NOT detected"
    of_rows = ("quarantine: ", "mark: ")
    return "\n".join(
        [
            f"{told['partition']} with {told['kind']} at {told['strength']:g}: {told['what']}",
            f"{told['outcome']} (without the damage: {told['clean_outcome']}), {by}",
            *(f"  {sentence}" for sentence in told["sentences"] if not sentence.startswith(of_rows)),
            *caught,
            f"judged against {told['against']}; nothing was landed or published",
            f"report: {told['report']}" if told["report"] else "no report: the day did not get as far as validation",
        ]
    )


def _trial(
    settings: Settings, source: Source, day: str, kind: Kind, policy: DataPolicy, out: Path
) -> tuple[Trial, str]:
    """The stack's own accepted days where there are enough, else days that are made now; and which of the two."""
    before = next_day(day, -policy.reference_days)
    secrets_file = settings.home / "secrets.json"
    plant = kind.base == "exposure" and not _has_impressions(source, day)
    if not plant and (secrets_file.exists() or settings.store_endpoint):
        store = open_store(settings)
        try:
            known = [accepted for accepted in accepted_days(store) if before <= accepted < day]
        except Unavailable:
            known = []
        if len(known) >= policy.reference_days:
            keys = settings.secrets
            landing = Landing(day, bytes.fromhex(keys.pseudonym_key), keys.pseudonym_key_id)
            return Trial(source, store, landing, policy), f"the {len(known)} days before it in {store.uri('accepted')}"
    first = max(source.first_day, next_day(day, -PAST_DAYS))
    if first > before:
        raise InputRejected(
            f"{day} has fewer than {policy.reference_days} days before it in {source.title}; rehearse "
            f"{next_day(source.first_day, policy.reference_days)} or a later day"
        )
    past = Exposed(source) if plant else source
    memory, landing = MemoryStore(), Landing(day, random_secrets.token_bytes(32), "rehearsal")
    accept_days(past, first, next_day(day, -1), memory, landing, policy, out)
    planted = " with planted impressions" if plant else ""
    return Trial(past, memory, landing, policy), f"the days from {first} on{planted}, made in memory"


def _has_impressions(source: Source, day: str) -> bool:
    return pc.any(pc.equal(source.events(day)["event_type"], "impression")).as_py() is True
