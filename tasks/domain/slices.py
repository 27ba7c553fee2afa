"""The slices of a holdout, declared once, each with its reason. A slice is a yes or no about a slate before it is ranked.

Repeat against new purchases is no slice but a task of its own (metric[new], metric[repeat]): it splits the purchases of
one slate, not the slates. Departments and user groups come from the data: one slice for each that has enough slates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

NEW_USER_TRIPS, HEAVY_TRIPS = 5, 40
NEW_ITEM_DAYS = 28
LEAST_SLATES, MOST_DEPARTMENTS = 20, 12
PREFIX = "slice."


@dataclass(frozen=True, slots=True)
class SlateFacts:
    """What slices may know about one slate. Sales places are in [0, 1): the share of sales by better-selling items."""

    trips: float  # of the user, before this day; NaN, as for all numbers here: unknown, in no slice of it
    surface: str  # recommendation or search
    newest_item_days: float  # since the first sale of the newest thing bought
    sales_place: float  # of the median thing bought
    department: str  # of most of what was bought, "" where unknown
    groups: Mapping[str, str] = field(default_factory=dict)  # attribute of the user -> value


@dataclass(frozen=True, slots=True)
class Declared:
    name: str
    holds: Callable[[SlateFacts], bool]
    reason: str


SLICES = (
    Declared(
        "new_users",
        lambda one: one.trips < NEW_USER_TRIPS,
        f"fewer than {NEW_USER_TRIPS} trips: little history, so the model leans on what sells; a first impression is made",
    ),
    Declared("light_users", lambda one: one.trips < HEAVY_TRIPS, f"fewer than {HEAVY_TRIPS} trips"),
    Declared(
        "heavy_users",
        lambda one: one.trips >= HEAVY_TRIPS,
        f"at least {HEAVY_TRIPS} trips: they make most of the slates, and a gain for them can hide a loss for others",
    ),
    Declared(
        "new_items",
        lambda one: one.newest_item_days <= NEW_ITEM_DAYS,
        f"something first sold at most {NEW_ITEM_DAYS} days ago was bought: counters know it badly",
    ),
    Declared("head_items", lambda one: one.sales_place < 1 / 3, "bought mostly best sellers, the first third of sales"),
    Declared(
        "torso_items", lambda one: 1 / 3 <= one.sales_place < 2 / 3, "bought mostly from the second third of sales"
    ),
    Declared(
        "tail_items",
        lambda one: one.sales_place >= 2 / 3,
        "bought mostly from the last third of sales: where popularity bias does its harm",
    ),
    Declared("surface_recommendation", lambda one: one.surface == "recommendation", "no query was asked"),
    Declared("surface_search", lambda one: one.surface == "search", "a query was asked: text decides, not habit"),
)
DEPARTMENT = "the department of most of the basket: a broken feed of one department shows here first"
FAIRNESS = "a fairness slice: nobody's group may pay for the average"


def members(facts: Sequence[SlateFacts]) -> dict[str, list[bool]]:
    """Each slice with its answer for every slate; the declared ones always, departments and groups where large enough."""
    told = {one.name: [one.holds(slate) for slate in facts] for one in SLICES}
    departments = Counter(one.department for one in facts if one.department)
    for name, count in departments.most_common(MOST_DEPARTMENTS):
        if count >= LEAST_SLATES:
            told[f"department_{plain(name)}"] = [one.department == name for one in facts]
    groups = Counter((attribute, value) for one in facts for attribute, value in one.groups.items())
    for (attribute, value), count in sorted(groups.items()):
        if count >= LEAST_SLATES:
            told[f"group_{plain(attribute)}_{plain(value)}"] = [one.groups.get(attribute) == value for one in facts]
    return told


def reason_of(name: str) -> str:
    """Why a slice is looked at."""
    if name.startswith("department_"):
        return DEPARTMENT
    if name.startswith("group_"):
        return FAIRNESS
    return next(one.reason for one in SLICES if one.name == name)


def plain(name: str) -> str:
    """A name that can stand in a column's: lower case, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "blank"
