"""What the service itself heard, as a source: FRESHRANK_SOURCE=none, when no adapter brings behaviour data in.

Its users are pseudonyms already. A day is what had arrived when it was landed; what arrives later, up to a week, goes to the
next day that lands. An event counts once, however often it was sent.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.adapters.partitions import landed_days, landed_key, read_catalogue, read_landed_manifest
from tasks.adapters.releases import release_description
from tasks.adapters.store import Store
from tasks.adapters.tables import READERS, read_table
from tasks.conform import conform, frame_of
from tasks.domain.behaviour import next_day
from tasks.domain.contract import EVENT, PLAN, PSEUDONYM, arrow_schema
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import partition_date
from tasks.sources import Trip

SEGMENT = re.compile(r"feedback/dt=[0-9-]{10}/(?P<release>[0-9a-f]{12})-[^/]+\.parquet")
ITEMS = "catalogue/items.parquet"  # a team puts its item table here
OF_SERVING = ("release", "score")  # of an impression, for whoever asks what was served; training does not read them
LATE_DAYS = 7  # later than that is too stale to train on, see tasks/policies/data.yaml
MOST_MISSED = 30  # days that one run lands at most: a client's clock must not make a thousand empty ones


class Feedback:
    """Days of feedback/ in the store, up to the day `through`, which must be over."""

    name, title = "feedback", "The feedback of this service"

    def __init__(self, store: Store, through: str, key_id: str, today: str) -> None:
        partition_date(through)
        if through >= today:
            raise InputRejected(
                f"{through} is not over in UTC; the service's feedback is landed when a day is complete"
            )
        self._store, self._key_id = store, key_id
        self._releases: dict[str, str | None] = {}
        self._landed_ids: dict[str, pl.Series] = {}
        oldest = next_day(through, 1 - MOST_MISSED)
        landed = [day for day in landed_days(store) if day < through]
        heard = sorted({key[12:22] for key in store.list("feedback/dt=") if oldest <= key[12:22] <= through})
        first = next_day(landed[-1]) if landed else (heard or [through])[0]
        self.first_day, self.last_day = max(first, oldest), through

    def days(self) -> list[str]:
        count = (partition_date(self.last_day) - partition_date(self.first_day)).days + 1
        return [next_day(self.first_day, n) for n in range(count)]

    def events(self, day: str) -> pa.Table:
        before = [next_day(day, -n) for n in range(LATE_DAYS, 0, -1)]
        landed = set(landed_days(self._store))
        known = pl.concat([pl.Series([], dtype=pl.String), *(self._ids(one) for one in before if one in landed)])
        late = pl.concat([self._heard(one) for one in before]).filter(~pl.col("event_id").is_in(known.implode()))
        heard = pl.concat([late, self._heard(day)])
        # a caller may send an impression too: the service's, which knows its propensity, counts
        known_first = heard.sort("propensity", nulls_last=True, maintain_order=True)
        return known_first.unique("event_id", keep="first", maintain_order=True).to_arrow()

    def plan(self, day: str) -> pa.Table:
        return arrow_schema(PLAN).empty_table()

    def items(self) -> pa.Table:
        if self._store.exists(ITEMS):
            return _parquet(self._store, ITEMS)
        days = landed_days(self._store)
        if not days:
            raise InputRejected(
                f"there is no item table: put one at {self._store.uri(ITEMS)} (docs/data-contract.md lists its columns), "
                f"or land a day through an adapter first"
            )
        return read_catalogue(self._store, read_landed_manifest(self._store, days[-1]).catalogue)

    def users(self) -> None:
        return None

    def trips(self, day: str) -> list[Trip]:
        return []

    def _ids(self, day: str) -> pl.Series:
        if day not in self._landed_ids:
            file = read_landed_manifest(self._store, day).file("events")
            table = read_table(self._store, landed_key(day, file.name), file, EVENT, columns=["event_id"])
            self._landed_ids[day] = frame_of(table)["event_id"].drop_nulls()
        return self._landed_ids[day]

    def _heard(self, day: str) -> pl.DataFrame:
        keys = [key for key in self._store.list(f"feedback/dt={day}/") if key.endswith(".parquet")]
        with ThreadPoolExecutor(READERS) as pool:
            frames = list(pool.map(self._segment, keys))
        return pl.concat([frame_of(arrow_schema(EVENT).empty_table()), *frames])

    def _segment(self, key: str) -> pl.DataFrame:
        uri = self._store.uri(key)
        sent = _parquet(self._store, key)
        known = [name for name in sent.column_names if name not in OF_SERVING]
        table, _ = conform(sent.select(known), EVENT, uri)
        frame = frame_of(table)
        named = SEGMENT.fullmatch(key)
        if named is None or not frame["user_id"].drop_nulls().str.contains(PSEUDONYM).all():
            raise InputRejected(
                f"{uri} was not written by the service: its name or its user ids are not what the service writes. Raw ids "
                f"must not lie there: delete it, and send such rows through an adapter"
            )
        found = self._key_of(named["release"])
        if found not in (None, self._key_id):
            raise InputRejected(
                f"{uri} was hashed with key {found}, this stack has key {self._key_id}: the users would not join. Restore "
                f"secrets.json of the stack that served then, or delete the segment"
            )
        return frame

    def _key_of(self, release: str) -> str | None:
        """The key id of a release, by the first digits of its digest; None where it is not published any more."""
        if release not in self._releases:
            digests = {key[9:73] for key in self._store.list(f"releases/{release}") if key.endswith(".json")}
            told = [release_description(self._store, digest).get("key_id") for digest in sorted(digests)[:1]]
            self._releases[release] = told[0] if told else None
        return self._releases[release]


def _parquet(store: Store, key: str) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(store.get(key)))
    except (pa.ArrowException, OSError) as err:
        raise InputRejected(f"{store.uri(key)} is no readable Parquet file; delete it, or write it again") from err
