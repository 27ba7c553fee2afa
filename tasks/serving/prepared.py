"""What was worked out about a user and holds until the history changes: counts, retrieved candidates, a recommendation.

Belongs to one process, which serves one release and one view for as long as it lives: nothing in here can survive a
rollback. An entry is good for the very history object that it was made of, and for no other.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from tasks.ranker.arrays import Ints
from tasks.ranker.profile import Profile
from tasks.ranker.rank import Ranking
from tasks.ranker.retrieve import candidates_of
from tasks.ranker.state import NOBODY, ItemState, UserHistory
from tasks.serving.merchandise import Merchandiser
from tasks.serving.metrics import Metrics

KEPT_USERS = 1_024  # about 100 KB each with a history of 700 lines


@dataclass(slots=True)
class Prepared:
    """A profile, and what was asked of it so far. `ranking` is a whole one: no deadline cut it short.

    `told` holds answers made of it, by length, as the merchandising rules `told_by` have them; the event loop's thread alone
    writes there.
    """

    profile: Profile
    retrieved: Ints | None = None
    ranking: Ranking | None = None
    told: dict[int, Any] = field(default_factory=dict)
    told_by: Merchandiser | None = None

    def candidates(self) -> Ints:
        if self.retrieved is None:
            self.retrieved = candidates_of(self.profile)
        return self.retrieved


class PreparedUsers:
    """The latest users, the least recently asked for forgotten first. Used by one thread."""

    def __init__(self, items: ItemState, size: int = KEPT_USERS) -> None:
        self._items, self._size = items, size
        self._kept: OrderedDict[str, Prepared] = OrderedDict()
        self._nobody = Prepared(Profile(items, NOBODY, items.day))

    def __len__(self) -> int:
        return len(self._kept)

    def in_memory(self, pseudonym: str, user: UserHistory) -> Prepared | None:
        """The entry of this very history, for any thread."""
        kept = self._kept.get(pseudonym)
        return kept if kept is not None and kept.profile.user is user else None

    def of(self, pseudonym: str | None, user: UserHistory | None, metrics: Metrics | None = None) -> Prepared:
        """The user's entry, made anew when the history is another object than the one it was made of."""
        if user is None or not len(user.rows):
            return self._nobody if user is None else Prepared(Profile(self._items, user, self._items.day))
        if pseudonym is None:  # a history that came with the request
            return Prepared(Profile(self._items, user, self._items.day))
        kept = self._kept.get(pseudonym)
        hit = kept is not None and kept.profile.user is user
        if metrics is not None:
            metrics.cached("profile", hit)
        if kept is None or not hit:
            kept = self._kept[pseudonym] = Prepared(Profile(self._items, user, self._items.day))
        self._kept.move_to_end(pseudonym)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return kept
