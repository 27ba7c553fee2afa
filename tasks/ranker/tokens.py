"""The purchase history behind a candidate, as the transformer reads it: at most 20 events of 12 numbers each.

Three streams: purchases of the item itself, of other items of its type, and days on which its type was bought. Order is
carried by ages and gaps, not by position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.ranker.arrays import Floats, Groups, Ints, spread, weekday
from tasks.ranker.profile import Profile

ITEM_TOKENS, TYPE_TOKENS, DAY_TOKENS = 6, 8, 6
MAX_TOKENS = ITEM_TOKENS + TYPE_TOKENS + DAY_TOKENS
TOKEN = (
    "age", "trips_since", "gap", "due", "same_weekday", "quantity", "discounted", "price_change",
    "same_brand_or_lines", "basket", "of_type", "of_type_day",
)  # fmt: skip
TOKEN_WIDTH = len(TOKEN)
AGE, GAP, DUE, PRICE, BRAND = (
    TOKEN.index(name) for name in ("age", "gap", "due", "price_change", "same_brand_or_lines")
)
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Lines:
    """What there is to gather from: numbers that do not depend on the candidate are ready in `tokens`."""

    age: Floats
    log_price: Floats  # -inf where unknown
    brand: Ints
    tokens: Floats  # [events, TOKEN_WIDTH]


def tokenise(profile: Profile, candidates: Ints) -> tuple[Floats, Floats]:
    """([n, MAX_TOKENS, TOKEN_WIDTH], [n, MAX_TOKENS]) with the valid tokens in front; the mask is 1 for those."""
    n = len(candidates)
    if not len(profile.user.rows):
        return np.zeros((n, MAX_TOKENS, TOKEN_WIDTH), np.float32), np.zeros((n, MAX_TOKENS), np.float32)
    items = profile.items
    with np.errstate(divide="ignore"):
        price = np.log(items.price[candidates])
    brand, types = items.brand[candidates], items.type[candidates]

    lines = _lines(profile)
    days, by_type_day = _type_days(profile, lines)
    of_item, item_ok = _last(profile.by_item, candidates, ITEM_TOKENS)
    of_type, type_ok = _last(profile.by_type, types, TYPE_TOKENS)
    type_ok &= profile.user.rows[of_type] != candidates[:, None]
    close_ranks = np.argsort(type_ok, axis=1, kind="stable")  # the gap is to the previous event that is kept
    of_type, type_ok = np.take_along_axis(of_type, close_ranks, 1), np.take_along_axis(type_ok, close_ranks, 1)
    of_day, day_ok = _last(by_type_day, types, DAY_TOKENS)
    tokens = np.concatenate(
        [
            _stream(lines, of_item, item_ok, price, brand),
            _stream(lines, of_type, type_ok, price, brand, flag="of_type"),
            _stream(days, of_day, day_ok, price, None, flag="of_type_day"),
        ],
        axis=1,
    )
    mask = np.concatenate([item_ok, type_ok, day_ok], axis=1)
    front = np.argsort(~mask, axis=1, kind="stable")
    return np.take_along_axis(tokens, front[:, :, None], 1), np.take_along_axis(mask, front, 1).astype(np.float32)


def _lines(profile: Profile) -> Lines:
    user = profile.user
    tokens = np.zeros((len(user.rows), TOKEN_WIDTH), np.float32)
    tokens[:, AGE] = np.log1p(profile.age) / 2
    tokens[:, TOKEN.index("trips_since")] = np.log1p(profile.trips_since) / 2
    tokens[:, TOKEN.index("same_weekday")] = weekday(user.days) == weekday(profile.day)
    tokens[:, TOKEN.index("quantity")] = np.log1p(user.quantity)
    tokens[:, TOKEN.index("discounted")] = user.discounted
    tokens[:, TOKEN.index("basket")] = np.log1p(profile.basket) / 3
    return Lines(profile.age, _log(user.price), profile.brand, tokens)


def _type_days(profile: Profile, line: Lines) -> tuple[Lines, Groups]:
    """Lines summed by (type, day), and their groups by type."""
    order = profile.by_type.order  # (type, day, row)
    types, days = profile.type[order], profile.user.days[order]
    new = np.ones(len(order), bool)
    new[1:] = (types[1:] != types[:-1]) | (days[1:] != days[:-1])
    starts = np.flatnonzero(new)
    count = np.diff(np.append(starts, len(order))).astype(np.float32)
    tokens = line.tokens[order[starts]]  # age, trips, weekday and basket are those of the day
    total = np.add.reduceat(profile.user.quantity[order], starts)
    tokens[:, TOKEN.index("quantity")] = np.log1p(total)
    tokens[:, TOKEN.index("discounted")] = np.add.reduceat(profile.user.discounted[order], starts) / count
    tokens[:, BRAND] = np.log1p(count)
    price = np.divide(np.add.reduceat(profile.user.price[order], starts), count, dtype=np.float32)
    return Lines(profile.age[order[starts]], _log(price), profile.brand[order[starts]], tokens), Groups(types[starts])


def _last(groups: Groups, codes: Ints, k: int) -> tuple[NDArray[np.intp], Flags]:
    """Indices of the last k members of each code's group, oldest first, and which of them exist."""
    at = groups.lookup(codes)
    end, start = spread(groups.ends, at), spread(groups.starts, at)
    position = end[:, None] + np.arange(-k, 0)
    return groups.order[np.maximum(position, 0)], position >= start[:, None]


def _stream(
    lines: Lines, at: NDArray[np.intp], ok: Flags, price: Floats, brand: Ints | None, flag: str | None = None
) -> Floats:
    tokens = lines.tokens[at]
    age = lines.age[at]
    paired = ok[:, 1:] & ok[:, :-1]
    gap = np.where(paired, age[:, :-1] - age[:, 1:], 0.0)
    tokens[:, 1:, GAP] = np.log1p(gap) / 2
    tokens[:, 1:, DUE] = np.where(paired, np.log((age[:, -1:] + 0.5) / (gap + 0.5)), 0.0)
    with np.errstate(invalid="ignore"):
        change = lines.log_price[at] - price[:, None]
    tokens[:, :, PRICE] = np.where(np.isfinite(change), np.clip(change, -2, 2), 0.0)
    if brand is not None:
        tokens[:, :, BRAND] = lines.brand[at] == brand[:, None]
    if flag:
        tokens[:, :, TOKEN.index(flag)] = 1.0
    tokens *= ok[:, :, None]
    return tokens


def _log(price: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(price)
