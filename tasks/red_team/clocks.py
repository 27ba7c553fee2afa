"""When it happened and whether it arrived: lost hours, wrong clocks, rows that come twice, late or again."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from tasks.domain.behaviour import next_day
from tasks.domain.manifest import partition_date
from tasks.red_team.scene import Kind, Scene, added, numbered

TIME = pl.col("event_time")
SHARE_OF_DAY = "share of the day's rows"


def _dropped_hour(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """One of the four hours with most visits on the days before: without an hour that is quiet anyway a day looks sound."""
    before = pl.concat([scene.earlier(days) for days in (1, 2, 3)])
    visits = before.select(hour=TIME.dt.hour().cast(pl.String), session="session_id").unique()
    busy = scene.largest(visits, "hour", 4)
    inside = events.select(TIME.dt.hour() == int(scene.one_of(busy))).to_series()
    return events.filter(~(inside & scene.mask(len(events), strength)))


def _lost_evening(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """Everything after a moment is missing: the upload broke off."""
    end = partition_date(next_day(scene.day))
    cut = pl.lit(end).cast(pl.Datetime("us", "UTC")) - pl.duration(seconds=round(86_400 * strength))
    return events.filter(pl.col("event_time") < cut)


def _lost_parts(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """Logs are sharded by visit: a lost shard takes whole visits, at every hour."""
    visits = events["session_id"].unique().sort(nulls_last=True)
    lost = visits.filter(scene.mask(len(visits), strength))
    return events.filter(~pl.col("session_id").is_in(lost.implode()).fill_null(False))


def _one_row(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return events.filter(~scene.mask(len(events), strength * (1 - 1 / max(len(events), 1))))


def _empty(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return events.clear() if strength > 0 else events


def _duplicated_file(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return pl.concat([events, scene.some(events, strength)])


def _retry_storm(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    again = scene.some(events.filter(TIME.dt.hour() < 23), strength)
    wait = pl.lit(pl.Series(scene.draws.integers(1_000, 6_000, len(again))))
    again = again.with_columns(TIME + pl.duration(milliseconds=wait), event_id=pl.col("event_id") + "-retry")
    return pl.concat([events, again])


def _double_logging(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    again = scene.some(events, strength).with_columns(event_id=pl.col("event_id") + "-second-logger")
    return pl.concat([events, again])


def _clock_ahead(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return events.with_columns(TIME + timedelta(hours=strength))


def _clock_behind(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return events.with_columns(TIME - timedelta(hours=strength))


def _wrapped_clock(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """Each row keeps its date: a zone was lost in a job that then sorted rows into days by their own date."""
    midnight = TIME.dt.truncate("1d")
    second = (TIME - midnight + timedelta(hours=strength)).dt.total_microseconds() % (86_400 * 10**6)
    return events.with_columns(event_time=midnight + pl.duration(microseconds=second))


def _tomorrow(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, TIME + timedelta(days=1))


def _yesterday(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, TIME - timedelta(days=1))


def _next_year(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, TIME + timedelta(days=365))


def _epoch(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.lit(0).cast(pl.Datetime("us", "UTC")).alias("event_time"))


def _replayed_day(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """Rows of the day before, as they were, in place of as many of today's."""
    kept = events.filter(~scene.mask(len(events), strength))
    return pl.concat([kept, _drawn(scene, len(events) - len(kept))])


def _copied_day(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """The day before once more: new event ids, and every clock moved on by a day."""
    kept = events.filter(~scene.mask(len(events), strength))
    copied = _drawn(scene, len(events) - len(kept))
    days = partition_date(scene.day) - TIME.dt.date()
    return pl.concat([kept, copied.with_columns(TIME + days, event_id=pl.col("event_id") + "-copy")])


def _drawn(scene: Scene, rows: int) -> pl.DataFrame:
    yesterday = scene.earlier()
    return scene.several(yesterday, min(rows, len(yesterday)))


def _late_burst(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """What a phone kept while it was offline: never seen before, and two days old."""
    rows = added(len(events), strength)
    late = scene.several(scene.earlier(2), rows).with_columns(
        scene.within_the_hour(rows), pl.col("session_id") + "-late", event_id=numbered("late", rows)
    )
    return pl.concat([events, late])


# fmt: off
KINDS = (
    Kind("dropped_hour", "The log file of one busy hour never arrives.",
         "share of the hour's rows", 1.0, ("hours",), "held", events=_dropped_hour),
    Kind("lost_evening", "The upload breaks off and nobody notices: everything after a moment is missing.",
         "share of the 24 hours", 0.25, ("watermark", "row_count", "visits", "hours", "clock_shift"), "held",
         events=_lost_evening),
    Kind("lost_parts", "Half of the log's shards are lost: every hour is there, half of the visits are not.",
         "share of the visits", 0.5, ("visits", "row_count"), "held", events=_lost_parts),
    Kind("almost_empty", "The export stops after its first row.",
         "share of the rows that are lost, but for one", 1.0, ("too_few", "row_count", "hours", "watermark",
         "clock_shift", "concentration", "drift"), "refused", events=_one_row),
    Kind("empty_day", "The export writes a file with a header and no row.",
         "any number above 0: no row is left", 1.0, (), "empty", events=_empty),
    Kind("duplicated_file", "One of the day's files is delivered twice.",
         SHARE_OF_DAY, 0.1, ("duplicate",), "quarantined", events=_duplicated_file),
    Kind("retry_storm", "Clients send an event again within seconds and make a new event id each time.",
         SHARE_OF_DAY, 0.05, ("retry",), "quarantined", events=_retry_storm),
    Kind("double_logging", "Two loggers write the same moment, each under an event id of its own.",
         SHARE_OF_DAY, 0.05, ("same_moment",), "held", events=_double_logging),
    Kind("clock_ahead", "The shop's clocks are set to another zone: everything seems to happen later.",
         "hours", 2.0, ("wrong_day", "clock_shift"), "refused", events=_clock_ahead),
    Kind("clock_behind", "The shop's clocks are set to another zone: everything seems to happen earlier.",
         "hours", 2.0, ("late", "clock_shift"), "held", events=_clock_behind),
    Kind("wrapped_clock", "A job loses the time zone and still sorts every row into its day: hours turn, dates do not.",
         "hours", 4.0, ("clock_shift", "hours"), "held", events=_wrapped_clock),
    Kind("clock_next_day", "The date of some tills is one day ahead.",
         SHARE_OF_DAY, 0.05, ("wrong_day",), "refused", events=_tomorrow),
    Kind("clock_last_day", "The date of some tills is one day behind.",
         SHARE_OF_DAY, 0.1, ("late",), "held", events=_yesterday),
    Kind("future_times", "A client's year is wrong: some rows are of next year.",
         SHARE_OF_DAY, 0.005, ("wrong_day",), "quarantined", events=_next_year),
    Kind("clock_reset", "Devices without a battery begin at 1970 again.",
         SHARE_OF_DAY, 0.005, ("stale", "contract"), "quarantined", events=_epoch),
    Kind("replayed_day", "A job that runs again delivers rows of the day before under today.",
         SHARE_OF_DAY, 0.1, ("replayed", "late", "copied_day"), "quarantined", events=_replayed_day),
    Kind("copied_day", "The day before is delivered again under new event ids and with today's date.",
         SHARE_OF_DAY, 1.0, ("copied_day",), "held", events=_copied_day),
    Kind("late_burst", "Phones that were offline deliver what happened two days ago, all at once.",
         SHARE_OF_DAY, 0.1, ("late",), "held", events=_late_burst),
)
# fmt: on
