"""Which day of behaviour data a scheduled run is about: the replay clock, or the calendar.

A stack that replays a recorded source keeps its anchor in the store: on the UTC day `wall` the newest day is `data`,
and from there both count whole days. A stack on live data has no anchor: its newest complete day is yesterday.
"""

from __future__ import annotations

import json

from pydantic import ValidationError

from tasks.adapters.store import Store
from tasks.domain.behaviour import next_day
from tasks.domain.errors import Conflict, InputRejected
from tasks.domain.manifest import Record, canonical_json, partition_date

ANCHOR = "control/anchor.json"


class Anchor(Record):
    """The UTC day on which the replay began, and the partition that it began with."""

    wall: str
    data: str


def drop_anchor(store: Store, wall: str, data: str) -> Anchor:
    """Start the replay clock, once: the anchor that is there already stays and is returned."""
    partition_date(wall), partition_date(data)
    try:
        store.put_new(ANCHOR, canonical_json(Anchor(wall=wall, data=data).model_dump()))
    except Conflict:
        pass
    return read_anchor(store) or Anchor(wall=wall, data=data)


def read_anchor(store: Store) -> Anchor | None:
    if not store.exists(ANCHOR):
        return None
    try:
        anchor = Anchor.model_validate(json.loads(store.get(ANCHOR)))
        partition_date(anchor.wall), partition_date(anchor.data)
    except (ValidationError, ValueError, InputRejected) as err:
        raise InputRejected(f"{store.uri(ANCHOR)} is not a replay anchor: {err}") from err
    return anchor


def newest_partition(store: Store, wall_day: str) -> str:
    """The partition that a run of the UTC day `wall_day` is about. Whether the source has it is the source's to say."""
    anchor = read_anchor(store)
    if anchor is None:
        return next_day(wall_day, -1)
    return next_day(anchor.data, (partition_date(wall_day) - partition_date(anchor.wall)).days)
