"""What a replica served lately, in memory: for the judge, and to join feedback to its slate."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")
SLATE_WEIGHT = 10  # items that take about as much memory as what surrounds a list
MAX_PAGE = 1_000
NO_USER, USER_BUCKETS = -1, 4_096


class Served(Struct, frozen=True):
    """One answered rank request. `scores` belong to `items`, the best 20; a refused request has neither."""

    n: int
    request_id: str
    at: float
    status: int
    latency_ms: float
    users_known: bool
    items: list[str]
    scores: list[float]
    stage: str
    shadow: bool
    kept: bool = False  # the list was worked out for an earlier request
    cut_short: bool = False  # the deadline left a stage out
    explored: bool = False  # near ties changed places
    user: int = NO_USER  # which of USER_BUCKETS the user is in: enough to count different users, too little to know one


def user_bucket(pseudonym: str | None) -> int:
    """pseudonym: hex digits."""
    return NO_USER if pseudonym is None else int(pseudonym[:12], 16) % USER_BUCKETS


class FeedbackSeen(Struct, frozen=True):
    n: int
    request_id: str
    item_ids: list[str]
    event_types: list[str]
    at: float


class Ring(Generic[T]):
    """The last `size` records, numbered from 1 without gaps; a number is never given twice by one process."""

    def __init__(self, size: int) -> None:
        self._records: deque[tuple[int, T]] = deque(maxlen=size)
        self._next = 1

    @property
    def next_number(self) -> int:
        return self._next

    def append(self, record: T) -> None:
        self._records.append((self._next, record))
        self._next += 1

    def after(self, number: int, limit: int = MAX_PAGE) -> list[T]:
        """The oldest `limit` records with a higher number. A gap to `number` means that the reader was too slow."""
        if number >= self._next - 1 or not self._records:
            return []
        first = self._records[0][0]
        start = max(0, number + 1 - first)
        return [self._records[i][1] for i in range(start, min(start + limit, len(self._records)))]


class Slate(Struct, frozen=True):
    """What feedback is joined to; `items` in the order shown."""

    surface: str
    query: str | None
    pseudonym: str | None
    items: list[str]

    def position(self, item_id: str) -> int | None:
        return self.items.index(item_id) if item_id in self.items else None


class Slates:
    """Slates by request id, the newest that weigh `size` items together: neither long lists nor many short ones may take the
    memory of others.

    Safe for one writer and one reader on different threads.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0
        self._slates: OrderedDict[str, Slate] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, request_id: str, slate: Slate) -> None:
        with self._lock:
            before = self._slates.pop(request_id, None)
            self._held += _weight(slate) - (_weight(before) if before else 0)
            self._slates[request_id] = slate
            while self._held > self._size:
                _, forgotten = self._slates.popitem(last=False)
                self._held -= _weight(forgotten)

    def find(self, request_id: str) -> Slate | None:
        return self._slates.get(request_id)


def _weight(slate: Slate) -> int:
    return SLATE_WEIGHT + len(slate.items)
