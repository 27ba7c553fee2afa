"""The purchase history behind a candidate, as the transformer reads it: at most 20 events of 12 numbers each.

Three streams: purchases of the item itself, of other items of its type, and days on which its type was bought. Order is
carried by ages and gaps, not by position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.ranker.arrays import Floats, Groups, Ints, ranges, spread, weekday
from tasks.ranker.crowd import Crowd, Owners
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


@dataclass(frozen=True, slots=True)
class Lines:
    """What there is to gather from: numbers that do not depend on the candidate are ready in `tokens`."""

    age: Floats
    log_price: Floats  # -inf where unknown
    brand: Ints
    tokens: Floats  # [events, TOKEN_WIDTH]


def tokenise(profile: Profile, candidates: Ints) -> tuple[Floats, Floats]:
    """([n, MAX_TOKENS, TOKEN_WIDTH], [n, MAX_TOKENS]) with the valid tokens in front; the mask is 1 for those."""
    return padded_tokens(Crowd((profile,)), candidates, np.zeros(len(candidates), np.intp))


def padded_tokens(crowd: Crowd, candidates: Ints, owner: Owners) -> tuple[Floats, Floats]:
    """The same for candidates of several profiles."""
    tokens, lengths = packed_tokens(crowd, candidates, owner)
    padded = np.zeros((len(candidates), MAX_TOKENS, TOKEN_WIDTH), np.float32)
    mask = np.arange(MAX_TOKENS) < lengths[:, None]
    padded[mask] = tokens
    return padded, mask.astype(np.float32)


def packed_tokens(crowd: Crowd, candidates: Ints, owner: Owners) -> tuple[Floats, NDArray[np.intp]]:
    """(valid tokens of all candidates behind each other, how many each has)."""
    n, items = len(candidates), crowd.items
    with np.errstate(divide="ignore"):
        price = np.log(items.price[candidates])
    of_type = crowd.key(items.type[candidates], owner)
    lines = _lines(crowd)
    days, by_type_day = _type_days(crowd, lines)
    events, row = _last(crowd.by_item, crowd.key(candidates, owner), ITEM_TOKENS)
    same = _stream(lines, events, row, price, items.brand[candidates])
    events, row_type = _last(crowd.by_type, of_type, TYPE_TOKENS)
    others = crowd.rows[events] != candidates[row_type]  # the gap is to the previous event that is kept
    events, row_type = events[others], row_type[others]
    kind = _stream(lines, events, row_type, price, items.brand[candidates], flag="of_type")
    events, row_day = _last(by_type_day, of_type, DAY_TOKENS)
    day = _stream(days, events, row_day, price, None, flag="of_type_day")
    rows = np.concatenate([row, row_type, row_day])
    order = np.argsort(rows, kind="stable")
    return np.concatenate([same, kind, day])[order], np.bincount(rows, minlength=n)


def _lines(crowd: Crowd) -> Lines:
    tokens = np.zeros((len(crowd.rows), TOKEN_WIDTH), np.float32)
    tokens[:, AGE] = np.log1p(crowd.age) / 2
    tokens[:, TOKEN.index("trips_since")] = np.log1p(crowd.trips_since) / 2
    tokens[:, TOKEN.index("same_weekday")] = weekday(crowd.days) == weekday(crowd.day)
    tokens[:, TOKEN.index("quantity")] = np.log1p(crowd.quantity)
    tokens[:, TOKEN.index("discounted")] = crowd.discounted
    tokens[:, TOKEN.index("basket")] = np.log1p(crowd.basket) / 3
    return Lines(crowd.age, _log(crowd.price), crowd.brand, tokens)


def _type_days(crowd: Crowd, line: Lines) -> tuple[Lines, Groups]:
    """Lines summed by (type, day), and their groups by type."""
    order = crowd.by_type.order  # (member, type, day, row)
    types = np.repeat(crowd.by_type.keys, crowd.by_type.ends - crowd.by_type.starts)
    days = crowd.days[order]
    new = np.ones(len(order), bool)
    new[1:] = (types[1:] != types[:-1]) | (days[1:] != days[:-1])
    starts = np.flatnonzero(new)
    if not len(starts):
        return line, crowd.by_type
    count = np.diff(np.append(starts, len(order))).astype(np.float32)
    tokens = line.tokens[order[starts]]  # age, trips, weekday and basket are those of the day
    total = np.add.reduceat(crowd.quantity[order], starts)
    tokens[:, TOKEN.index("quantity")] = np.log1p(total)
    tokens[:, TOKEN.index("discounted")] = np.add.reduceat(crowd.discounted[order], starts) / count
    tokens[:, BRAND] = np.log1p(count)
    price = np.divide(np.add.reduceat(crowd.price[order], starts), count, dtype=np.float32)
    return Lines(crowd.age[order[starts]], _log(price), crowd.brand[order[starts]], tokens), Groups(types[starts])


def _last(groups: Groups, codes: NDArray[Any], k: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the last k members of each code's group, oldest first, and the place of the code of each."""
    at = groups.lookup(codes)
    end, start = spread(groups.ends, at), spread(groups.starts, at)
    counts = np.minimum(end - start, k)
    return groups.order[ranges(end - counts, counts)], np.repeat(np.arange(len(codes)), counts)


def _stream(
    lines: Lines,
    at: NDArray[np.intp],
    row: NDArray[np.intp],
    price: Floats,
    brand: Ints | None,
    flag: str | None = None,
) -> Floats:
    """Tokens of events `at`, each of the candidate `row`; those of one candidate are together, oldest first."""
    tokens = lines.tokens[at]
    tokens[:, GAP], tokens[:, DUE] = rhythm(lines.age[at], row)
    with np.errstate(invalid="ignore"):
        change = lines.log_price[at] - price[row]
    tokens[:, PRICE] = np.where(np.isfinite(change), np.clip(change, -2, 2), 0.0)
    if brand is not None:
        tokens[:, BRAND] = lines.brand[at] == brand[row]
    if flag:
        tokens[:, TOKEN.index(flag)] = 1.0
    return tokens


def rhythm(age: NDArray[Any], row: NDArray[Any]) -> tuple[Floats, Floats]:
    """Columns (gap, due) of events `age` days old; those of one `row` are together, oldest first."""
    paired = np.zeros(len(age), bool)
    paired[1:] = row[1:] == row[:-1]
    gap = np.where(paired, np.append(0, age[:-1]).astype(np.float32) - age, np.float32(0)) if len(age) else age
    last = age[np.flatnonzero(np.append(~paired[1:], True))][np.cumsum(~paired) - 1] if len(age) else age
    due = np.where(paired, np.log((last + 0.5) / (gap + 0.5)), 0.0)
    return _single(np.log1p(gap) / 2), _single(due)


def _single(values: NDArray[Any]) -> Floats:
    return values.astype(np.float32)


def _log(price: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(price)
