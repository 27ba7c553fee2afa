"""Several profiles of one morning behind each other, so that numpy counts them all at once; a request is a crowd of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.ranker.arrays import Floats, Groups, Ints
from tasks.ranker.profile import Profile
from tasks.ranker.state import ItemState

STRIDE = 1 << 24  # between the codes of two members: no code is larger
Owners = NDArray[np.intp]


@dataclass(frozen=True)
class Crowd:
    """Events of member m are followed by those of member m + 1; codes of groups are apart by member."""

    members: Sequence[Profile]

    @property
    def items(self) -> ItemState:
        return self.members[0].items

    @property
    def day(self) -> int:
        return self.members[0].day

    @cached_property
    def sizes(self) -> list[int]:
        """Events of each member."""
        return [len(member.user.rows) for member in self.members]

    def key(self, codes: Ints, owner: Owners) -> NDArray[Any]:
        """The codes by which each owner's groups are looked up."""
        return codes if len(self.members) == 1 else codes + owner * STRIDE

    def together(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @cached_property
    def rows(self) -> Ints:
        return self.together([member.user.rows for member in self.members])

    @cached_property
    def days(self) -> Ints:
        return self.together([member.user.days for member in self.members])

    @cached_property
    def quantity(self) -> Floats:
        return self.together([member.user.quantity for member in self.members])

    @cached_property
    def price(self) -> Floats:
        return self.together([member.user.price for member in self.members])

    @cached_property
    def discounted(self) -> Floats:
        return self.together([member.user.discounted for member in self.members])

    @cached_property
    def age(self) -> Floats:
        return self.together([member.age for member in self.members])

    @cached_property
    def trips_since(self) -> Floats:
        return self.together([member.trips_since for member in self.members])

    @cached_property
    def trip_decay(self) -> Floats:
        return self.together([member.trip_decay for member in self.members])

    @cached_property
    def basket(self) -> Floats:
        return self.together([member.basket for member in self.members])

    @cached_property
    def type_days(self) -> Floats:
        return self.together([member.type_days for member in self.members])

    @cached_property
    def brand(self) -> Ints:
        return self.items.brand[self.rows]

    @cached_property
    def by_item(self) -> Groups:
        return Groups.joined([member.by_item for member in self.members], self.sizes, STRIDE)

    @cached_property
    def by_type(self) -> Groups:
        return Groups.joined([member.by_type for member in self.members], self.sizes, STRIDE)

    @cached_property
    def by_category(self) -> Groups:
        return Groups.joined([member.by_category for member in self.members], self.sizes, STRIDE)

    @cached_property
    def by_brand(self) -> Groups:
        return Groups.joined([member.by_brand for member in self.members], self.sizes, STRIDE)

    @cached_property
    def _decays(self) -> dict[float, Floats]:
        return {}

    def decay(self, days: float) -> Floats:
        if days not in self._decays:
            self._decays[days] = np.exp(self.age * (-1.0 / days)).astype(np.float32)
        return self._decays[days]
