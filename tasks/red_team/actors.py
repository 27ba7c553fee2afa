"""Who acts: bots, farms, pushed items, turned labels."""

from __future__ import annotations

import polars as pl

from tasks.red_team.scene import Kind, Scene, added, numbered

CLICKED, BOUGHT = (pl.col("event_type") == kind for kind in ("click", "purchase"))


def _flipped(events: pl.DataFrame, where: pl.Expr, scene: Scene, strength: float) -> pl.DataFrame:
    """Of `strength` of the shown items: what was clicked was not, what was not clicked was."""
    shown = events.filter((pl.col("event_type") == "impression") & where)
    chosen = scene.some(shown, strength)
    of = ["request_id", "item_id"]
    clicks = events.filter(CLICKED).select(of).unique()
    wrong = chosen.join(clicks, on=of, how="anti", maintain_order="left")
    forged = wrong.with_columns(
        event_id=pl.col("event_id") + "-flipped",
        event_type=pl.lit("click"),
        event_time=pl.col("event_time") + pl.duration(seconds=5 + pl.int_range(pl.len()) % 55),
    )
    lost = chosen.join(clicks, on=of, how="semi").select(*of, event_type=pl.lit("click"))
    return pl.concat([events.join(lost, on=[*of, "event_type"], how="anti", maintain_order="left"), forged])


def _label_flip_surface(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    surface = scene.one_of(pl.Series(["recommendation", "search"]))
    return _flipped(events, pl.col("surface") == surface, scene, strength)


def _label_flip_store(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """The victim is a large store: a corner shop, or one that rarely shows up, has too few labels to turn."""
    shown = events.filter(pl.col("event_type") == "impression").drop_nulls("store_id")
    for days in (1, 2, 3):
        shown = shown.join(scene.earlier(days), on="store_id", how="semi", maintain_order="left")
    return _flipped(events, pl.col("store_id") == scene.one_of(scene.largest(shown, "store_id", 5)), scene, strength)


def _bot_flood(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    rows = added(len(events), strength)
    bot = scene.several(events.filter(BOUGHT), rows).with_columns(
        scene.within_the_hour(rows),
        event_id=numbered("bot", rows),
        user_id=pl.lit("bot"),
        session_id=pl.format("bot-visit-{}", pl.col("event_time").dt.hour()),
    )
    return pl.concat([events, bot])


def _bot_farm(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """A hundred accounts a second, all on the same item; none of them does anything else."""
    rows = added(len(events), strength)
    target = scene.several(events.filter(BOUGHT & (pl.col("event_time").dt.hour() < 23)), 1)
    farm = scene.several(target, rows).with_columns(
        event_id=numbered("farm", rows),
        user_id=numbered("farm-user", rows),
        session_id=numbered("farm-visit", rows),
        event_time=pl.col("event_time") + pl.duration(seconds=pl.int_range(pl.len()) // 100),
    )
    return pl.concat([events, farm])


def _boosted_item(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """Real customers, human times, one item that was nobody's favourite the day before."""
    rows = added(len(events), strength)
    bought = events.filter(BOUGHT)
    item = scene.one_of(bought["item_id"].unique().sort())
    like = bought.filter(pl.col("item_id") == item).head(1)
    pushed = scene.several(bought, rows).with_columns(
        scene.within_the_hour(rows),
        event_id=numbered("pushed", rows),
        item_id=pl.lit(item),
        value=pl.lit(like["value"].item()),
        quantity=pl.lit(like["quantity"].item()),
        discount=pl.lit(like["discount"].item()),
    )
    return pl.concat([events, pushed])


FARM_LISTS, FARM_GAP_MS = 3, 150


def _click_farm(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    """Each account is shown the items of three real lists at once and clicks all of them, 150 ms apart."""
    shown = events.filter((pl.col("event_type") == "impression") & (pl.col("surface") == "recommendation"))
    lists = shown["request_id"].unique().sort()
    rows, farm, account = added(len(events), strength), events.clear(), 0
    while len(farm) < rows:
        mine = shown.filter(pl.col("request_id").is_in(lists.gather(scene.draws.permutation(len(lists))[:FARM_LISTS])))
        mine = mine.unique("item_id", maintain_order=True).with_columns(
            pl.col("event_time").min(),
            event_id=numbered(f"farm-{account}", mine["item_id"].n_unique()),
            user_id=pl.lit(f"clicker-{account}"),
            session_id=pl.lit(f"clicker-visit-{account}"),
            request_id=pl.lit(f"farm-list-{account}"),
        )
        clicks = mine.with_columns(
            pl.col("event_time") + pl.duration(milliseconds=(pl.int_range(pl.len()) + 1) * FARM_GAP_MS),
            event_id=pl.col("event_id") + "-click",
            event_type=pl.lit("click"),
        )
        farm, account = pl.concat([farm, mine, clicks]), account + 1
    return pl.concat([events, farm])


def _rekeyed_users(events: pl.DataFrame, scene: Scene, strength: float) -> pl.DataFrame:
    users = events["user_id"].unique().sort()
    moved = users.filter(scene.mask(len(users), strength))
    hit = pl.col("user_id").is_in(moved.implode())
    return events.with_columns(pl.when(hit).then("re" + pl.col("user_id")).otherwise("user_id").alias("user_id"))


SHARE_OF_DAY = "share of the day's rows"
# fmt: off
KINDS = (
    Kind("label_flip_surface",
         "The click log of one surface is joined to the wrong rows: what was clicked was not, what was not clicked was.",
         "share of the surface's impressions", 0.2, ("label_rate", "logging_change"), "held", "exposure",
         events=_label_flip_surface),
    Kind("label_flip_store",
         "Somebody forges the labels of one store: its clicks turn round, every other store is sound.",
         "share of the store's impressions", 0.3, ("label_rate",), "held", "exposure", events=_label_flip_store),
    Kind("bot_flood", "One script buys all day long under one account.",
         SHARE_OF_DAY, 0.2, ("user_flood", "concentration"), "quarantined", events=_bot_flood),
    Kind("bot_farm", "Hundreds of fresh accounts buy one item within the same seconds.",
         SHARE_OF_DAY, 0.05, ("boosted_item", "hours"), "held", events=_bot_farm),
    Kind("boosted_item", "A seller pays real customers to buy one item, spread over the day.",
         SHARE_OF_DAY, 0.05, ("boosted_item",), "held", events=_boosted_item),
    Kind("click_farm", "A few accounts click everything they are shown, faster than a hand can move.",
         SHARE_OF_DAY, 0.05, ("superhuman", "label_rate", "logging_change"), "quarantined", "exposure",
         events=_click_farm),
    Kind("users_renamed",
         "The key of the pseudonyms, or the account system, changed overnight: everybody is a stranger.",
         "share of the users", 1.0, ("strangers",), "held", events=_rekeyed_users),
)
# fmt: on
