"""One slate under two systems, and the table of them that the gate reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.domain.errors import InputRejected
from tasks.domain.slices import HEAVY_TRIPS, PREFIX, SlateFacts, members, reason_of
from tasks.ranker.judge import Row

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Compared:
    """One slate: who and when, what slices may know of it, and the metrics of either system."""

    day: str
    user: int
    facts: SlateFacts
    candidate: Row
    champion: Row
    rivals: Mapping[str, Row] = field(default_factory=dict)


def require_each_once(kind: str, compared: Sequence[Compared]) -> None:
    """Raises InputRejected: a user has two slates of one day, so that one would count twice."""
    times = Counter((one.day, one.user) for one in compared)
    twice = [key for key, count in times.items() if count > 1]
    if twice:
        day, user = twice[0]
        raise InputRejected(
            f"{len(twice)} slates of {kind} come more than once, the first is user {user}'s of {day}; a slate that counts "
            f"twice makes the bounds too narrow. Build the dataset again"
        )


def write_slates(compared: dict[str, list[Compared]], path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(slate_table(compared), path)


def slate_table(compared: dict[str, list[Compared]]) -> pa.Table:
    """One row for each slate of each kind of candidate.

    Columns: kind, slate (its number within the kind), day, user, heavy, `slice.NAME` bool for each slice that any kind
    has (tasks/domain/slices.py says why it is looked at), `candidate.METRIC[TASK]` and `champion.METRIC[TASK]` float64
    for each metric of tasks/domain/ranking_metrics.py and each TASK of all, new, repeat. A metric is null where a slate
    has none (nothing new was bought, say). Of the metrics only logloss is better when it is lower. And
    `rival.NAME.METRIC[all]` of what stands beside the candidate.
    """
    import pyarrow as pa

    rows = [(kind, number, one) for kind, part in compared.items() for number, one in enumerate(part)]
    columns: dict[str, Any] = {
        "kind": pa.array([kind for kind, _, _ in rows], pa.string()),
        "slate": pa.array([number for _, number, _ in rows], pa.int64()),
        "day": pa.array([one.day for _, _, one in rows], pa.string()),
        "user": pa.array([one.user for _, _, one in rows], pa.int64()),
        "heavy": pa.array([one.facts.trips >= HEAVY_TRIPS for _, _, one in rows], pa.bool_()),
    }
    inside = {kind: members([one.facts for one in part]) for kind, part in compared.items()}
    for name in sorted({name for told in inside.values() for name in told}):
        told = [inside[kind].get(name, [False] * len(part)) for kind, part in compared.items()]
        columns[f"{PREFIX}{name}"] = pa.array([yes for part in told for yes in part], pa.bool_())
    for name in sorted({name for _, _, one in rows for name in (*one.candidate, *one.champion)}):
        columns[f"candidate.{name}"] = pa.array([one.candidate.get(name) for _, _, one in rows], pa.float64())
        columns[f"champion.{name}"] = pa.array([one.champion.get(name) for _, _, one in rows], pa.float64())
    beside = {(rival, name) for _, _, one in rows for rival, row in one.rivals.items() for name in row}
    for rival, name in sorted(pair for pair in beside if pair[1].endswith("[all]")):
        values = [one.rivals.get(rival, {}).get(name) for _, _, one in rows]
        columns[f"rival.{rival}.{name}"] = pa.array(values, pa.float64())
    return pa.table(columns)


def slice_report(compared: Sequence[Compared]) -> dict[str, dict[str, Any]]:
    """Each slice with how many slates it has and why it is looked at."""
    told = members([one.facts for one in compared])
    return {name: {"slates": sum(inside), "reason": reason_of(name)} for name, inside in told.items()}
