"""What the rules caught of a day, and how a person lets it pass: by name, with a reason that is kept for ever.

Rows are released rule by rule: what `unknown_item` quarantined comes back, what `duplicate` caught stays. A held or refused
day is released by letting the rules pass that stopped it. Nothing is rewritten: the day gets its next revision, and every
step that reads it gets a new key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expectations.verdicts import all_rules
from tasks.adapters.partitions import accepted_revisions, landed_days
from tasks.adapters.store import Store
from tasks.domain.data_policy import DataPolicy
from tasks.domain.errors import InputRejected
from tasks.validate_data import RELEASED, releases, validate_data

LONGEST_REASON = 500


def look(store: Store, day: str, policy: DataPolicy, out: Path) -> dict[str, Any]:
    """Judge one landed day again, change nothing, and write report.html, report.md and quarantine.parquet under `out`."""
    _require_landed(store, day)
    told = validate_data([day], store, policy, out, publish=False)
    return told | {"revision": accepted_revisions(store).get(day, 0), "released": releases(store).get(day, {})}


def release(
    store: Store, day: str, rules: Sequence[str], actor: str, reason: str, policy: DataPolicy, out: Path
) -> dict[str, Any]:
    """Let `rules` pass for `day` and judge it again; what they catch is marked from now on.

    Raises:
        InputRejected: the day is not landed, a rule does not exist or caught nothing, or there is no reason.
    """
    _require_landed(store, day)
    reason = " ".join(reason.split())
    if not reason or len(reason) > LONGEST_REASON:
        raise InputRejected(f"say in up to {LONGEST_REASON} characters why {', '.join(rules) or 'this'} may pass")
    unknown = sorted(set(rules) - set(all_rules()))
    if unknown or not rules:
        raise InputRejected(
            f"there is no rule {', '.join(unknown) or 'named'}; the rules are {', '.join(sorted(all_rules()))}"
        )
    before = validate_data([day], store, policy, out, publish=False)
    idle = [rule for rule in rules if rule not in _spoke(before, day)]
    if idle:
        raise InputRejected(
            f"{', '.join(idle)} found nothing in {day}, so there is nothing to release; what did: "
            f"{', '.join(_spoke(before, day)) or 'no rule'}"
        )
    told = f"{actor} at {datetime.now(UTC).isoformat(timespec='seconds')}: {reason}"
    allowed = releases(store).get(day, {}) | dict.fromkeys(rules, told)
    store.replace(f"{RELEASED}{day}.json", json.dumps(allowed, indent=1, sort_keys=True).encode())
    return validate_data([day], store, policy, out) | {"released": allowed}


def _spoke(summary: dict[str, Any], day: str) -> list[str]:
    """Rules that marked, quarantined, held or refused something."""
    stopped = [reason.split(": ", 2)[1] for reason in summary["reasons"].get(day, ())]
    return sorted({*summary["quarantined_by_rule"], *summary["marked_by_rule"], *stopped})


def _require_landed(store: Store, day: str) -> None:
    if day not in landed_days(store):
        raise InputRejected(f"{day} is not landed, so nothing of it can be in quarantine")
