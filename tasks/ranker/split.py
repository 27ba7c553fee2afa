"""Which day is for what: decided from the recipe and from counts of slates, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import partition_date
from tasks.domain.recipe import MOST_HOLDOUT_DAYS, Data, Recipe
from tasks.ranker.arrays import epoch_day, iso_day


@dataclass(frozen=True, slots=True)
class Days:
    """Which day is for what, as day numbers; `last` is the partition.

    Where labels come late, the days before the holdout whose labels may lie in it belong to no part, and neither do the
    last days, whose labels are not all there yet.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    holdout: tuple[int, ...]
    train_end: int  # the last day that training may read, labels included
    last: int


def split_days(partition: str, recipe: Recipe, slate_count: Callable[[int], int] | None) -> Days:
    """Holdout last, validation before it, training before that.

    Args:
        slate_count: slates of a day; they decide how long the holdout is. None for a first champion: it meets no one,
            so nothing is held out.
    """
    last, data = epoch_day(partition_date(partition)), recipe.data
    mature = last - data.label_delay_days
    held_out = holdout_length(map(slate_count, range(mature, 0, -1)), data) if slate_count else 0
    train_end = mature - held_out if held_out else last
    start_holdout, end = mature + 1 - held_out, train_end + 1 - data.label_delay_days
    start_validation = end - data.validation_days
    start = max(epoch_day(data.train_from), start_validation - data.train_days)
    if start >= start_validation:
        raise InputRejected(
            f"recipe {recipe.name} trains from {data.train_from}, but validation for {partition} starts on "
            f"{iso_day(start_validation)}; choose a later partition or an earlier train_from"
        )
    return Days(
        train=tuple(range(start, start_validation)),
        validation=tuple(range(start_validation, end)),
        holdout=tuple(range(start_holdout, mature + 1)),
        train_end=train_end,
        last=last,
    )


def holdout_length(slates: Iterable[int], data: Data) -> int:
    """Fewest days, from the newest back, that hold enough slates: at least the recipe's, at most 14.

    Counts of slates decide, and nothing that was trained: a length chosen after a look at results would choose them.
    """
    total = 0
    for days, more in enumerate(slates, start=1):
        total += more
        if days == MOST_HOLDOUT_DAYS or (days >= data.holdout_days and total >= data.holdout_slates):
            return days
    return data.holdout_days
