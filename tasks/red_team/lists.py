"""What is shown and answered: lost lists, clicks that nobody could make, places that moved, queries of no alphabet."""

from __future__ import annotations

import polars as pl

from tasks.red_team.scene import Kind, Scene

CLICKED = pl.col("event_type") == "click"
BROKEN = ("\0", "\ufffd", "\u0085")


def _garbled_queries(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """Of searches only. The accent and the double encoding are valid text: what must be caught is what no person types."""
    rubbish = pl.lit(pl.Series([BROKEN[n] for n in scene.draws.integers(0, len(BROKEN), len(events))]))
    return scene.change(events, strength, pl.col("query") + rubbish, where=pl.col("query").is_not_null())


def _orphan_clicks(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    own = ("client-" + pl.col("event_id")).alias("request_id")
    return scene.change(events, strength, own, where=CLICKED)


def _early_clicks(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.col("event_time") - pl.duration(hours=1), where=CLICKED)


def _of_lists(events: pl.DataFrame, scene: Scene, strength: float) -> pl.Expr:
    """Rows of `strength` of the lists: a new build serves some lists, and all of such a list."""
    lists = events["request_id"].drop_nulls().unique().sort()
    return pl.col("request_id").is_in(lists.filter(scene.mask(len(lists), strength)).implode())


def _lost_impressions(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    lost = (pl.col("event_type") == "impression") & _of_lists(events, scene, strength)
    return events.filter(~lost.fill_null(False))


def _propensity_in_percent(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, strength, pl.col("propensity") * 100)


def _positions_from_one(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, 1, pl.col("position") + 1, where=_of_lists(events, scene, strength))


def _positions_zero(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    return scene.change(events, 1, pl.col("position") * 0, where=_of_lists(events, scene, strength))


SHARE_OF_DAY = "share of the day's rows"
# fmt: off
KINDS = (
    Kind("garbled_queries", "What people typed passes through a wrong encoding: control characters and broken bytes.",
         SHARE_OF_DAY, 0.1, ("contract",), "quarantined", "exposure", events=_garbled_queries),
    Kind("orphan_clicks", "A client makes its own request ids: its clicks answer lists that nobody was shown.",
         "share of the clicks", 0.2, ("orphan_click",), "quarantined", "exposure", events=_orphan_clicks),
    Kind("lost_impressions", "Half of the impression log is lost: its clicks arrive, what was shown does not.",
         "share of the lists", 0.5, ("orphan_click", "label_rate", "logging_change", "missing", "drift"), "held",
         "exposure", events=_lost_impressions),
    Kind("propensity_in_percent", "A new server logs propensities in percent.",
         SHARE_OF_DAY, 0.5, ("contract",), "refused", "exposure", events=_propensity_in_percent),
    Kind("early_clicks", "Some clients' clocks are an hour slow: they click before the list is shown.",
         "share of the clicks", 0.2, ("click_before_impression",), "quarantined", "exposure", events=_early_clicks),
    Kind("positions_from_one", "A new build counts positions from one.",
         "share of the lists", 0.5, ("logging_change",), "held", "exposure", events=_positions_from_one),
    Kind("positions_zero", "A new build forgets the position: every item is first.",
         "share of the lists", 0.2, ("logging_change",), "held", "exposure", events=_positions_zero),
)
# fmt: on
