"""The log -> what is known on the morning of any day. Reads only events of earlier days: the tests hold it to that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tasks.ranker.arrays import Floats, Halves, Ints, weekday
from tasks.ranker.co_purchases import Graph, among, bought_together, counted_on
from tasks.ranker.features import STATIC
from tasks.ranker.knowledge import OF_ITEM
from tasks.ranker.log import EventLog, Plans
from tasks.ranker.neighbours import Neighbours
from tasks.ranker.retrieve import sales_votes
from tasks.ranker.shown import Shown
from tasks.ranker.state import ItemState, UserHistory

CATALOGUE_DAYS, CATALOGUE_EVENTS = 90, 5
WEEKDAY_DAYS = 56
STORE_TRIPS = 15  # the user's store is where most of the lines of the last trips were bought
OLDEST = 90.0
PLAN_LASTS = 7  # days, at most: a plan that changed earlier says nothing new


@dataclass(frozen=True)
class TextTable:
    """Vector of each distinct item text; `row` gives each item of the log its row, -1 where none was encoded."""

    row: Ints
    vectors: Halves
    views: Halves | None = None  # [views, texts, width]: other ways to write each text, for training


NO_TEXTS = TextTable(np.zeros(0, np.int32), np.zeros((0, 0), np.float16))


@dataclass(frozen=True)
class Morning:
    """Everything that is known on one morning: the item state and a way to make any user's history."""

    items: ItemState
    row_of: Ints  # item of the log -> row of the state
    histories: Mapping[int, UserHistory]


class StateBuilder:
    """Makes the state of any morning from one log. Holds what is the same for all mornings."""

    def __init__(
        self,
        log: EventLog,
        plans: Plans,
        users: Ints,
        texts: TextTable,
        *,
        shown: Shown | None = None,
        knowledge: bool = False,
    ) -> None:
        """knowledge: also count taxonomy and co-purchases, see knowledge.py."""
        self.log, self.plans, self.users, self.texts = log, plans, users, texts
        self.shown, self.knowledge = shown, knowledge
        self._graph: tuple[int, Graph] | None = None

    def morning(self, day: int, users: Ints | None = None) -> Morning:
        """State of `day`, with the histories of `users` (default: all selected)."""
        return self.with_histories(*self.items(day), self.users if users is None else users)

    def with_histories(self, items: ItemState, row_of: Ints, users: Ints) -> Morning:
        similar = self._neighbours.of(users, items.day, row_of, items.size)
        histories = {int(u): self._history(int(u), items.day, row_of, similar[n]) for n, u in enumerate(users)}
        return Morning(items, row_of, histories)

    def catalogue(self, day: int) -> Ints:
        """Items of the log that may be ranked on `day`, ascending."""
        part = self._part(day - CATALOGUE_DAYS, day)
        return np.flatnonzero(self._count(part) >= CATALOGUE_EVENTS).astype(np.int32)

    def sold(self, first: int, last: int) -> Ints:
        """Items of the log that may be ranked on some day from `first` to `last`, ascending."""
        return np.unique(np.concatenate([self.catalogue(day) for day in range(first, last + 1)]))

    def slate_count(self, day: int) -> int:
        """Selected users who bought of the catalogue on `day`: as many slates does the day make."""
        part = self._part(day, day + 1)
        known = np.isin(self.log.item[part], self.catalogue(day)) & np.isin(self.log.user[part], self.users)
        return len(np.unique(self.log.user[part][known]))

    @cached_property
    def _neighbours(self) -> Neighbours:
        return Neighbours(self.log, self.users, more=self.knowledge)

    @cached_property
    def _by_user(self) -> tuple[Ints, Ints]:
        order = np.argsort(self.log.user, kind="stable").astype(np.int32)
        ptr = np.searchsorted(self.log.user[order], np.arange(len(self.log.user_ids) + 1)).astype(np.int32)
        return order, ptr

    @cached_property
    def previous(self) -> Ints:
        """Day of the same user's previous purchase of the same item, -1 where there is none; one for each event."""
        log = self.log
        order = np.lexsort((log.day, log.item, log.user))
        same = (log.user[order][1:] == log.user[order][:-1]) & (log.item[order][1:] == log.item[order][:-1])
        previous = np.full(len(log.day), -1, np.int32)
        previous[order[1:][same]] = log.day[order[:-1][same]]
        return previous

    @cached_property
    def _first_sale(self) -> Ints:
        first = np.full(len(self.log.items.ids), np.iinfo(np.int32).max, np.int32)
        np.minimum.at(first, self.log.item, self.log.day)
        return first

    def _part(self, first: int, after: int) -> slice:
        return slice(self.log.before(first), self.log.before(after))

    def _count(self, part: slice, weights: Floats | None = None) -> Floats:
        weight = None if weights is None else weights[part]
        return np.bincount(self.log.item[part], weight, minlength=len(self.log.items.ids)).astype(np.float32)

    def items(self, day: int) -> tuple[ItemState, Ints]:
        """Counters of the morning of `day`, and the row of each item of the log (-1: not sold before)."""
        log, known = self.log, self.log.items
        catalogue = self.catalogue(day)
        others = np.setdiff1d(np.flatnonzero(self._first_sale < day), catalogue, assume_unique=True)
        rows = np.concatenate([catalogue, others]).astype(np.int32)
        row_of = np.full(len(known.ids), -1, np.int32)
        row_of[rows] = np.arange(len(rows), dtype=np.int32)
        static, raw = self._static(day, catalogue)
        stores = self._stores(day, row_of, len(catalogue))
        text = self.texts.row[rows]
        text[len(catalogue) :] = -1  # else a text encoded for a later catalogue would change this morning
        used, numbered = np.unique(text, return_inverse=True)  # -1, where present, becomes row 0
        missing = int(len(used) > 0 and used[0] < 0)
        return ItemState(
            day=day,
            size=len(catalogue),
            ids=[known.ids[i] for i in rows],
            type=known.type[rows],
            category=known.category[rows],
            brand=known.brand[rows],
            text=(numbered - missing).astype(np.int32),
            text_vectors=self.texts.vectors[used[missing:]],
            static=static,
            sales_votes=sales_votes(raw["sales7"], raw["discount7"]),
            store_ids=log.store_ids,
            **raw,
            **stores,
            **(self._knowledge(day, rows, row_of, len(catalogue)) if self.knowledge else {}),
        ), row_of

    def _static(self, day: int, catalogue: Ints) -> tuple[Floats, dict[str, Any]]:
        log = self.log
        parts = {days: self._part(day - days, day) for days in (2, 7, 28, 90)}
        sales = {days: self._count(part) for days, part in parts.items()}
        month, quarter = parts[28], parts[90]
        first_time = (self.previous < 0).astype(np.float32)
        buyers = self._count(quarter, (self.previous < day - 90).astype(np.float32))
        new7, new28 = self._count(parts[7], first_time), self._count(month, first_time)
        discounted = (log.discount > 0).astype(np.float32)
        cut7, cut28 = self._count(parts[7], discounted), self._count(month, discounted)
        price90 = self._price(quarter, None)
        price28 = self._price(month, price90)
        price7 = self._price(parts[7], price28)
        level = self._price_level(price28, sales[90])
        types = log.items.type
        type_sales = np.bincount(types, sales[28]).astype(np.float32)[types]
        share = sales[28] / np.maximum(type_sales, 1)
        display, mailer = self._promoted(day)
        display_before, mailer_before = self._promoted(day - 7)
        weeks = self._part(day - WEEKDAY_DAYS, day)
        same_weekday = np.equal(weekday(log.day), weekday(day)).astype(np.float32)
        expected = self._count(weeks) / 7
        columns = {
            "sales_2d": np.log1p(sales[2]),
            "sales_7d": np.log1p(sales[7]),
            "sales_28d": np.log1p(sales[28]),
            "sales_90d": np.log1p(sales[90]),
            "sales_trend": np.log((sales[7] + 1) / (sales[28] / 4 + 1)),
            "sales_trend_2d": np.log((sales[2] + 0.5) / (sales[7] * 2 / 7 + 0.5)),
            "buyers_90d": np.log1p(buyers),
            "rebuys_per_buyer": np.log(np.maximum(sales[90], 1) / np.maximum(buyers, 1)),
            "first_time_sales_7d": np.log1p(new7),
            "first_time_share_28d": (new28 + 1) / (sales[28] + 2),
            "age": np.log1p(np.clip(day - self._first_sale, 0, OLDEST)),
            "price": np.log(np.maximum(price28, 0.01)),
            "price_in_type": level,
            "price_change": np.log(np.maximum(price7, 0.01) / np.maximum(price28, 0.01)),
            "discounted_7d": (cut7 + 0.1) / (sales[7] + 1),
            "discounted_28d": (cut28 + 0.1) / (sales[28] + 1),
            "display": display,
            "mailer": mailer,
            "display_change": display - display_before,
            "mailer_change": mailer - mailer_before,
            "type_sales_28d": np.log1p(type_sales),
            "share_in_type": np.log(share + 1e-3),
            "weekday_lift": np.log((self._count(weeks, same_weekday) + 1) / (expected + 1)),
        }
        static = np.stack([np.asarray(columns[name])[catalogue] for name in STATIC], axis=1).astype(np.float32)
        raw: dict[str, Any] = {
            "sales7": sales[7],
            "sales28": sales[28],
            "price": price28,
            "price_level": level,
            "mailer": mailer,
            "discount7": cut7 / np.maximum(sales[7], 1),
            "type_share": share,
        }
        return static, {name: np.asarray(values)[catalogue].astype(np.float32) for name, values in raw.items()}

    def _knowledge(self, day: int, rows: Ints, row_of: Ints, size: int) -> dict[str, Any]:
        """Taxonomy counters and the week's co-purchases, see knowledge.py."""
        monday, items, catalogue = counted_on(day), self.log.items, rows[:size]
        if self._graph is None or self._graph[0] != monday:
            self._graph = (monday, bought_together(self.log, monday))
        graph = among(self._graph[1], catalogue, row_of, size)
        month = self._count(self._part(day - 28, day))
        category = np.bincount(items.category, month).astype(np.float32)[items.category]
        quarter = self._part(day - 90, day)
        types = items.type[self.log.item[quarter]]
        pairs = np.unique(self.log.user[quarter].astype(np.int64) * (int(items.type.max()) + 1) + types)
        buyers = np.bincount(pairs % (int(items.type.max()) + 1), minlength=int(items.type.max()) + 1)
        rebuys = np.bincount(types, minlength=len(buyers)) / np.maximum(buyers, 1)
        columns = {
            "category_sales_28d": np.log1p(category),
            "share_in_category": np.log(month / np.maximum(category, 1) + 1e-4),
            "type_rebuys_per_buyer": np.log(np.maximum(rebuys, 1))[items.type],
            **self._this_plan(day, month),
        }
        return {
            "department": self._departments[rows],
            "taxonomy": np.stack([columns[name][catalogue] for name in OF_ITEM], axis=1).astype(np.float32),
            "graph_ptr": graph.ptr,
            "graph_row": graph.target,
            "graph_weight": graph.weight,
        }

    def _this_plan(self, day: int, month: Floats) -> dict[str, Floats]:
        """Sales, money off and price since the promotions of `day` began; `month` are the sales of 28 days."""
        began = day
        while began > day - PLAN_LASTS and self.plans.same(began, began - 1):
            began -= 1
        part = self._part(began, day)
        sales, cut = self._count(part), self._count(part, (self.log.discount > 0).astype(np.float32))
        usual = self._price(self._part(day - 28, day), None)
        price = self._price(part, usual)
        return {
            "plan_age": np.full(len(sales), day - began, np.float32),
            "plan_sales": np.log1p(sales),
            "plan_discounted": (cut + 0.1) / (sales + 1),
            "plan_price": np.log(np.maximum(price, 0.01) / np.maximum(usual, 0.01)),
            "plan_lift": np.log((sales + 1) / (month * (day - began) / 28 + 1)),
        }

    @cached_property
    def _departments(self) -> Ints:
        return np.unique(self.log.items.level(1), return_inverse=True)[1].astype(np.int32)

    def _price(self, part: slice, fallback: Floats | None) -> Floats:
        value, pieces = self._count(part, self.log.value), self._count(part, self.log.quantity)
        price = np.divide(value, np.maximum(pieces, 1e-6), dtype=np.float32)
        return price if fallback is None else np.where(pieces > 0, price, fallback)

    def _price_level(self, price: Floats, sales: Floats) -> Floats:
        """Log price against the mean log price of what sells in the type."""
        types, log_price = self.log.items.type, np.log(np.maximum(price, 0.01))
        weight = sales * (price > 0)
        mean = np.bincount(types, weight * log_price) / np.maximum(np.bincount(types, weight), 1e-6)
        return np.where(weight > 0, log_price - mean[types], 0).astype(np.float32)

    def _promoted(self, day: int) -> tuple[Floats, Floats]:
        shares = np.zeros((2, len(self.log.items.ids)), np.float32)
        item, display, mailer = self.plans.on(day)
        shares[0, item], shares[1, item] = display, mailer
        return shares[0], shares[1]

    def _stores(self, day: int, row_of: Ints, size: int) -> dict[str, Any]:
        part = self._part(day - 28, day)
        row, store, days = row_of[self.log.item[part]], self.log.store[part], self.log.day[part]
        kept = (row < size) & (store >= 0)
        key = store[kept].astype(np.int64) * size + row[kept]
        keys, at = np.unique(key, return_inverse=True)
        month = np.bincount(at, minlength=len(keys)).astype(np.float32)
        week = np.bincount(at, days[kept] >= day - 7, minlength=len(keys)).astype(np.float32)
        ptr = np.searchsorted(keys, np.arange(len(self.log.store_ids) + 1) * size)
        return {
            "store_ptr": ptr.astype(np.int32),
            "store_item": (keys % max(size, 1)).astype(np.int32),
            "store_sales7": week,
            "store_sales28": month,
        }

    def _history(self, user: int, day: int, row_of: Ints, similar: tuple[Ints, Floats]) -> UserHistory:
        log = self.log
        order, ptr = self._by_user
        events = order[ptr[user] : ptr[user + 1]]
        events = events[: np.searchsorted(log.day[events], day)]
        rows, days = row_of[log.item[events]], log.day[events]
        sort = np.lexsort((rows, days))
        events, rows, days = events[sort], rows[sort], days[sort]
        return UserHistory(
            rows=rows,
            days=days,
            quantity=log.quantity[events],
            price=np.divide(log.value[events], np.maximum(log.quantity[events], 1e-6), dtype=np.float32),
            discounted=(log.discount[events] > 0).astype(np.float32),
            store=np.array([self._store(log.store[events], days)], np.int32),
            cf_rows=similar[0],
            cf_scores=similar[1],
        )

    def _store(self, stores: Ints, days: Ints) -> int:
        trips = np.unique(days)
        recent = stores[days >= trips[-STORE_TRIPS:][0]] if len(trips) else stores
        recent = recent[recent >= 0]
        return int(np.bincount(recent).argmax()) if len(recent) else -1
