"""Rules about a day as a whole, against the days accepted before it. Each says why, and what broke it, with numbers.

Bands follow the reference itself, median +- k robust deviations, never narrower than a floor: a shop whose days differ
much is not held every week, and one whose days are alike is not let off. Actions and numbers: tasks/policies/data.yaml.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expectations.day import CheckDay, Day, Settings
from expectations.reference import ACTS, distance, shift_hours, summed
from expectations.row_rules import NUMBERS
from tasks.domain.data_policy import DayCounts, band, spread
from tasks.domain.manifest import partition_date

NAMED = 3  # buckets that a sentence names


def _too_few(day: Day, settings: Settings) -> str | None:
    rows = len(day.events)
    if rows < settings["rows"]:
        return f"{rows} rows, fewer than the {settings['rows']:.0f} that any real day has"
    return None


def _row_count(day: Day, settings: Settings) -> str | None:
    usual = usual_rows(day.day, day.past.rows, settings)
    if usual is None or usual[0] <= len(day.events) <= usual[1]:
        return None
    return f"{len(day.events)} rows, outside {usual[0]:.0f} to {usual[1]:.0f}, the band of earlier days like this one"


def usual_rows(day: str, rows_before: Mapping[str, int], settings: Settings) -> tuple[float, float] | None:
    """The band for this weekday, else for any of the last days, else none: too little past to judge by."""
    date, at_least = partition_date(day), settings["at_least"]
    past = [(date - timedelta(weeks=week)).isoformat() for week in range(1, int(settings["weeks"]) + 1)]
    history = [rows_before[one] for one in past if rows_before.get(one)]
    if len(history) < at_least:
        history = [rows for one, rows in sorted(rows_before.items()) if one < day and rows][-14:]
        at_least = settings["at_least_days"]
    if len(history) < at_least:
        return None
    return band(history, settings["mads"], settings["below"], settings["above"])


def all_null(events: pl.DataFrame, inputs: Sequence[str]) -> list[str]:
    """Columns without a single value; NaN is none."""
    nan = [pl.col(name).fill_nan(None) if name in NUMBERS else pl.col(name) for name in inputs]
    return [name for name, count in events.select(nan).count().row(0, named=True).items() if count == 0]


def _all_null(day: Day, settings: Settings) -> str | None:
    empty = all_null(day.events, day.model_inputs)
    return f"no value at all in {', '.join(empty)}" if empty else None


def _missing(day: Day, settings: Settings) -> str | None:
    def share(counts: DayCounts, column: str) -> float:
        return counts.nulls.get(column, 0) / counts.rows

    broken = []
    for column in day.counts.nulls if _enough(day, settings) and day.counts.rows else ():
        history = [share(past, column) for past in day.reference]
        usual, now = statistics.median(history), share(day.counts, column)
        if abs(now - usual) > max(spread(history, settings["mads"]), settings["share"]):
            broken.append(f"{column}: {usual:.1%} -> {now:.1%}")
    return f"rows without a value: {_some(broken)}" if broken else None


def _hours(day: Day, settings: Settings) -> str | None:
    """Visits of each hour against its usual share of the day, where the days before let expect enough of them."""
    if not _enough(day, settings) or not day.counts.rows:
        return None
    today, usual = _hourly(day.counts), usual_visits(day)
    judged = usual >= settings["at_least_visits"]
    odd = judged & ((today < settings["below"] * usual) | (today > settings["above"] * usual))
    told = [f"{hour:02d}h: {today[hour]:.0f} instead of {usual[hour]:.0f}" for hour in np.flatnonzero(odd)]
    return f"visits by hour: {_some(told)}" if told else None


def _visits(day: Day, settings: Settings) -> str | None:
    """Visits of the day against the same weekdays of the reference: far steadier than rows, which come in clumps."""
    weekday = partition_date(day.day).weekday()
    alike = [
        _hourly(past).sum()
        for past_day, past in day.past.dated(day.day)
        if partition_date(past_day).weekday() == weekday
    ]
    if len(alike) < settings["at_least_weeks"]:
        return None
    usual, now = statistics.median(alike), _hourly(day.counts).sum()
    if (1 - settings["below"]) * usual <= now <= (1 + settings["above"]) * usual:
        return None
    return f"{now:.0f} visits, the same weekdays before had about {usual:.0f}"


def _copied_day(day: Day, settings: Settings) -> str | None:
    share = day.copied_share
    if share is None or share <= settings["share"]:
        return None
    return f"{share:.1%} of the rows repeat the user, item, act and time of day of a row of an earlier day"


def usual_visits(day: Day) -> NDArray[np.float64]:
    """[24] visits of each hour that the days before let expect of a day of this size; zeros where there are none."""
    if not day.reference:
        return np.zeros(24)
    shares = np.array([_hourly(past) / max(_hourly(past).sum(), 1) for past in day.reference])
    share, today = np.median(shares, axis=0), _hourly(day.counts)
    # from the other hours, so that a lost hour does not lower what is expected of it
    usual: NDArray[np.float64] = share / np.maximum(1 - share, 1e-9) * (today.sum() - today)
    return usual


def _hourly(counts: DayCounts) -> NDArray[np.float64]:
    return np.array([counts.visits.get(str(hour), 0) for hour in range(24)], float)


def _watermark(day: Day, settings: Settings) -> str | None:
    last = [past.last_second for past in day.reference if past.last_second is not None]
    now = day.counts.last_second
    if not _enough(day, settings) or now is None:
        return None
    usual = statistics.median(last)
    if now >= usual - max(spread(last, settings["mads"]), settings["hours"] * 3600):
        return None
    return f"the last event is of {_clock(now)}, usually of {_clock(usual)}: the end of the day is not there"


def _freshness(day: Day, settings: Settings) -> str | None:
    """Days before this one that nobody has accepted. The wait for today's own file is the schedule's: dags/model_refresh.py."""
    before = sorted(known for known in day.past.rows if known < day.day)
    if len(before) < settings["at_least_days"]:
        return None
    missing = (partition_date(day.day) - partition_date(before[-1])).days - 1
    if missing <= settings["days"]:
        return None
    return f"none of the {missing} days before it was accepted, the last one was {before[-1]}"


def _clock_shift(day: Day, settings: Settings) -> str | None:
    if not _enough(day, settings) or not day.counts.rows:
        return None
    ahead, as_it_is, moved = shift_hours(day.counts.visits, summed(past.visits for past in day.reference))
    if abs(ahead) < settings["hours"] or as_it_is - moved < settings["js"]:
        return None
    return f"the clock seems {ahead:+d} h off; moved back, the divergence from the past falls from {as_it_is:.3f} to {moved:.3f}"


def _concentration(day: Day, settings: Settings) -> str | None:
    if not _enough(day, settings):
        return None
    broken = []
    for name, what in (("top_item_share", "the top item has"), ("top_user_share", "the top user has")):
        history = [getattr(past, name) for past in day.reference]
        limit = statistics.median(history) + max(spread(history, settings["mads"]), settings["share"])
        if (now := getattr(day.counts, name)) > limit:
            broken.append(f"{what} {now:.1%} of the rows, expected up to {limit:.1%}")
    for name, what in (("item_evenness", "items"), ("user_evenness", "users")):
        history = [getattr(past, name) for past in day.reference]
        limit = statistics.median(history) - max(spread(history, settings["mads"]), settings["evenness"])
        if (now := getattr(day.counts, name)) < limit:
            broken.append(f"evenness over {what} {now:.3f}, expected from {limit:.3f}")
    return _some(broken) if broken else None


def _boosted_item(day: Day, settings: Settings) -> str | None:
    """An item whose share of the day leaps: paid clicks, a review ring, or a broken carousel."""
    if not _enough(day, settings) or not day.counts.rows:
        return None
    total = sum(past.rows for past in day.reference)
    before = day.items_before.select("item_id", pl.col("rows").alias("before"))
    leaps = (
        day.items.drop_nulls("item_id")
        .filter(pl.col("rows") >= settings["at_least_rows"])
        .join(before, on="item_id", how="left")
        .with_columns(now=pl.col("rows") / day.counts.rows, usual=pl.col("before").fill_null(0) / total)
        .filter(
            (pl.col("now") - pl.col("usual") > settings["share"])
            & (pl.col("now") > settings["times"] * pl.col("usual"))
        )
        .sort("now", descending=True)
    )
    odd = [
        f"{item}: {usual:.2%} -> {now:.2%} of the rows"
        for item, now, usual in leaps.select("item_id", "now", "usual").iter_rows()
    ]
    return _some(odd) if odd else None


def _label_rate(day: Day, settings: Settings) -> str | None:
    odd = [*_rates(day, "surface", settings), *_rates(day, "store", settings)] if _enough(day, settings) else []
    return f"acts per impression: {_some(odd)}" if odd else None


def _logging_change(day: Day, settings: Settings) -> str | None:
    """Positions that move, or rates by position that jump, are a change of the page or of its logging, not of taste."""
    if not _enough(day, settings):
        return None
    odd = list(_rates(day, "position", settings))
    today, usual = _impressions(day.counts), [_impressions(past) for past in day.reference]
    if sum(today.values()) and (total := summed(usual)):
        now = distance(today, total)
        history = [distance(one, total).js for one in usual if one]
        if now.js > statistics.median(history) + max(spread(history, settings["mads"]), settings["js"]):
            odd.append(f"impressions by position (divergence {now.js:.3f}; {now.most})")
    vanished = [
        kind
        for kind, rows in summed(past.counts["event_type"] for past in day.reference).items()
        if rows >= settings["share"] * sum(past.rows for past in day.reference)
        and not day.counts.counts["event_type"].get(kind)
    ]
    odd += [f"no {kind} at all" for kind in vanished]
    return _some(odd) if odd else None


def _rates(day: Day, dimension: str, settings: Settings) -> Iterator[str]:
    """Slices in which an act per impression left what the reference days, and chance, allow; each act by itself."""
    for bucket, kinds in day.counts.rates.get(dimension, {}).items():
        before = [past.rates[dimension].get(bucket, {}) for past in day.reference]
        shown, total = kinds.get("impression", 0), summed(before)
        known = min(shown, total.get("impression", 0)) >= settings["at_least_rows"]
        if not known or sum(map(bool, before)) < settings["at_least_days"]:
            continue
        for act in ACTS:
            now, usual = kinds.get(act, 0) / shown, total.get(act, 0) / total["impression"]
            chance = settings["sigmas"] * (max(usual, 1 / total["impression"]) / shown) ** 0.5
            history = [
                one.get(act, 0) / n for one in before if (n := one.get("impression", 0)) >= settings["at_least_rows"]
            ]
            if abs(now - usual) > max(spread(history or [usual], settings["mads"]), settings["change"] * usual, chance):
                yield f"{dimension} {bucket}: {act} {usual:.2%} -> {now:.2%}"


def _impressions(counts: DayCounts) -> dict[str, int]:
    return {bucket: kinds.get("impression", 0) for bucket, kinds in counts.rates["position"].items()}


def _drift(day: Day, settings: Settings) -> str | None:
    """Against a 28-day reference; the band is what earlier days had as their own distance."""
    odd = []
    for name, limits in drift_limits(day, settings).items():
        now = day.counts.distances[name]
        for measure, limit in zip(("js", "psi"), limits, strict=True):
            if (value := getattr(now, measure)) > limit:
                odd.append(f"{name} ({measure} {value:.3f}, allowed {limit:.3f}; {now.most})")
                break
    return f"not distributed as the days before: {_some(odd)}" if odd else None


def drift_limits(day: Day, settings: Settings) -> dict[str, tuple[float, float]]:
    """Dimension -> the Jensen-Shannon divergence and the stability index that are allowed; only where enough is known."""
    limits = {}
    for name in day.counts.distances if _enough(day, settings) else ():
        earlier = [past.distances[name] for past in day.reference if name in past.distances]
        if len(earlier) >= settings["at_least_days"]:
            js, psi = [one.js for one in earlier], [one.psi for one in earlier]
            limits[name] = (_limit(js, "js", settings), _limit(psi, "psi", settings))
    return limits


def _limit(history: Sequence[float], measure: str, settings: Settings) -> float:
    return max(settings[measure], statistics.median(history) + spread(history, settings["mads"]))


def _strangers(day: Day, settings: Settings) -> str | None:
    """Users nobody has seen: ids that changed their spelling, another shop's file, or a farm of new accounts."""
    if not _enough(day, settings):
        return None
    history = [past.stranger_share for past in day.reference]
    limit = statistics.median(history) + max(spread(history, settings["mads"]), settings["share"])
    if day.counts.stranger_share <= limit:
        return None
    return f"{day.counts.stranger_share:.1%} of the rows are of users whom no reference day has seen, expected up to {limit:.1%}"


def _enough(day: Day, settings: Settings) -> bool:
    return len(day.reference) >= settings["at_least_days"]


def _some(broken: Sequence[str]) -> str:
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    return "; ".join(broken[:NAMED]) + more


def _clock(second: float) -> str:
    return f"{int(second) // 3600:02d}:{int(second) % 3600 // 60:02d}"


DAY_RULES = (
    CheckDay("too_few", "a handful of rows is a broken delivery, not a day", _too_few),
    CheckDay("row_count", "half a day or a doubled file moves the count before it moves anything else", _row_count),
    CheckDay("all_null", "a not-null check on other columns passes on a column that is empty throughout", _all_null),
    CheckDay(
        "missing", "values that were always there and now are not: a field was renamed or a client broke", _missing
    ),
    CheckDay("visits", "half of the visitors are missing, or came twice, though the rows look like enough", _visits),
    CheckDay(
        "copied_day", "an old file under a new date: nobody does the same things at the same second again", _copied_day
    ),
    CheckDay("hours", "a lost hour is a lost log file; a doubled one was sent twice", _hours),
    CheckDay("watermark", "what comes after the last event is missing, and nobody knows what it was", _watermark),
    CheckDay(
        "freshness",
        "histories and counters would jump over the days that are missing, and nobody would know",
        _freshness,
    ),
    CheckDay("clock_shift", "a clock in the wrong zone moves what happened before to after", _clock_shift),
    CheckDay(
        "concentration",
        "few actors or few items make the day: whoever can do that decides what is learnt",
        _concentration,
    ),
    CheckDay(
        "boosted_item", "one item leaps ahead of its past: somebody pushes it, or a page is broken", _boosted_item
    ),
    CheckDay("label_rate", "labels of one source turned: forged, flipped, or joined to the wrong rows", _label_rate),
    CheckDay(
        "logging_change",
        "the page or its logging changed; what was learnt of positions no longer holds",
        _logging_change,
    ),
    CheckDay("drift", "the day is of another distribution than the days that the model is proven on", _drift),
    CheckDay("strangers", "a ranker that knows nobody of today cannot be judged on today", _strangers),
)
