"""Accepted partitions -> a dataset: slates split by time, training rows of each day, and the state of the next morning.

The last days are holdout: how many is fixed here, from slate counts; their slates are judged by evaluate and seen by
nothing else. Every feature of a day is made from earlier days only. Rows of a day are cached: the next day's run makes
only the new days.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json, partition_date
from tasks.domain.recipe import Augmentation, Recipe, Search
from tasks.evaluation.labels import save_label_kinds
from tasks.progress import Progress
from tasks.ranker.arrays import Ints, epoch_day, iso_day
from tasks.ranker.augment import augmented
from tasks.ranker.build import NO_TEXTS, StateBuilder, TextTable
from tasks.ranker.dataset import Split, save_builder, text_table
from tasks.ranker.days import day_keys
from tasks.ranker.log import EventLog, Plans, read_log, read_plans
from tasks.ranker.parts import Parts
from tasks.ranker.rows import Sampling
from tasks.ranker.search.dataset import read_catalogue, read_lists, write_search
from tasks.ranker.shown import read_shown
from tasks.ranker.split import Days, split_days
from tasks.ranker.state import save_view
from tasks.ranker.tables import POLARS, Tables, partition_day
from tasks.ranker.text import encode_texts, encoder_digest, text_digest
from tasks.training_set import judged, made_rows

SEED = 20170701
PLAN_DAYS = 8  # how far back a morning looks at plans: its own, and that of a week before


def build_dataset(
    accepted: list[Path],
    plans: list[Path],
    catalogue: Path,
    partition: str,
    recipe: Recipe,
    cache: Path,
    out: Path,
    champion: Path | None,
    tables: Tables = POLARS,
) -> dict[str, Any]:
    """Write the dataset of `partition` under `out`.

    Args:
        accepted, plans: one file a day, in directories dt=DAY; files of later days than `partition` are not read.
        champion: view directory of the release that serves (its users.json holds the selected users). None makes the
            dataset of a first champion: users are chosen anew and there is no holdout.
        tables: who reads and reduces the events; the dataset is the same.

    Raises:
        InputRejected: a day, the champion's users or the recipe cannot work with these data.
    """
    last = epoch_day(partition_date(partition))
    accepted, plans = _until(accepted, last), _until(plans, last)
    data, exposure = recipe.data, recipe.exposure
    log = read_log(accepted, catalogue, data.goal, tables)
    users = chosen_users(log, champion) if champion else most_trips(log, last, data.users)
    counting = StateBuilder(log, Plans({}), users, NO_TEXTS)
    days = split_days(partition, recipe, counting.slate_count if champion else None)

    planned = read_plans([path for path in plans if partition_day(path) >= days.train[0] - PLAN_DAYS], log)
    texts, digests = _texts(counting, days, recipe.augmentation, cache)
    shown, left_out = (
        (None, {}) if exposure.slates == "bought" else read_shown(accepted, log, data.label_delay_days, tables)
    )
    builder = StateBuilder(log, planned, users, texts, shown=shown, knowledge=data.knowledge)
    known_items = counting.sold(days.train[0], days.train_end)
    save_builder(out, builder, digests, known_items, days.train_end, days.validation[-1])
    judged_on = [path for path in accepted if partition_day(path) in days.holdout]
    save_label_kinds(judged_on, log, users, data.goal, out, tables)
    sampling = _sampling(recipe)
    names = [log.user_ids[user] for user in users.tolist()]
    options = [names, encoder_digest(), asdict(sampling), data.knowledge, data.goal, data.label_delay_days]
    keys = day_keys(accepted, plans, catalogue, days.train[0], last, options)
    if shown is not None:  # what came of a day's lists is known some days later
        keys = {day: keys[min(day + data.label_delay_days, last)] for day in keys}
    with ThreadPoolExecutor(1) as aside:  # the workers make rows; meanwhile, the state
        made = aside.submit(made_rows, out, days, keys, sampling, cache)
        morning = builder.morning(last + 1)
        morning.items.save(out / "items")
        save_view(out / "view", morning.items, {log.user_ids[user]: one for user, one in morning.histories.items()})
        files = made.result()
    parts = judged(out, files, builder, days, exposure)
    split = Split(
        partition=partition,
        train_days=tuple(map(iso_day, days.train)),
        validation_days=tuple(map(iso_day, days.validation)),
        holdout_days=tuple(map(iso_day, days.holdout)),
        holdout_slates=tuple(map(counting.slate_count, days.holdout)),
        label_delay_days=data.label_delay_days,
        train_end=iso_day(days.train_end),
        recipe=recipe.digest,
        seed=SEED,
        slates=parts.parts["train"].slates,
        rows=parts.parts["train"].rows,
        log_digest=keys[last],
    )
    (out / "dataset.json").write_bytes(canonical_json(split.model_dump(mode="json")))
    searched = _searched(accepted, catalogue, recipe.search, days, out) if recipe.search else {}
    counts = {"users": len(users), "events": len(log.day), "catalogue": morning.items.size, "texts": len(texts.vectors)}
    return counts | _summary(split, parts) | left_out | searched


def _searched(accepted: list[Path], catalogue: Path, plan: Search, days: Days, out: Path) -> dict[str, int]:
    """The judged lists of searches by all users, split by the days that split the slates."""
    documents = read_catalogue(catalogue, plan.fields)
    parts = {"train": days.train, "validation": days.validation, "holdout": days.holdout}
    read = {
        name: read_lists((path for path in accepted if partition_day(path) in set(part)), documents)
        for name, part in parts.items()
    }
    users = {user for _, searched in read.values() for user in searched}
    return write_search(out, documents, {name: lists for name, (lists, _) in read.items()}, users)


def _sampling(recipe: Recipe) -> Sampling:
    data, exposure = recipe.data, recipe.exposure
    return Sampling(
        keep_bought=data.keep_bought,
        keep_other=data.keep_other,
        barely_known=data.barely_known,
        seed=SEED,
        hard_negatives=data.hard_negatives,
        slates=exposure.slates,
        keep_unseen=exposure.keep_unseen,
    )


def _summary(split: Split, parts: Parts) -> dict[str, Any]:
    feature, shift = parts.worst
    return {
        "train_days": len(split.train_days),
        "train_slates": split.slates,
        "train_rows": split.rows,
        "train_end": split.train_end,
        "validation_days": len(split.validation_days),
        "holdout_days": len(split.holdout_days),
        "holdout_slates": sum(split.holdout_slates),
        "holdout_first_day": split.holdout_days[0] if split.holdout_days else None,
        "state_through": split.partition,
        "data_digest": split.log_digest,
        "train_holdout_drift": round(shift.psi, 4),
        "train_holdout_drift_of": feature,
        "class_balance": round(parts.balance_shift, 4),
        "positive_share": {name: round(part.positive_share, 6) for name, part in parts.parts.items()},
    }


def most_trips(log: EventLog, last: int, count: int) -> Ints:
    """The users with most shopping days up to `last`, ties by first purchase."""
    before = log.before(last + 1)
    trips = np.unique(log.user[:before].astype(np.int64) * 100_000 + log.day[:before]) // 100_000
    counts = np.bincount(trips, minlength=len(log.user_ids))
    if (counts > 0).sum() < 2:
        raise InputRejected(f"the log up to {iso_day(last)} holds fewer than two users; there is nothing to train on")
    best = np.argsort(-counts, kind="stable")[:count]
    return np.sort(best[counts[best] > 0]).astype(np.int32)


def chosen_users(log: EventLog, view: Path) -> Ints:
    """The users of the champion's view. Users that were erased since are left out."""
    path = view / "users.json"
    if not path.exists():
        raise InputRejected(f"{view} holds no users.json; build_dataset needs the view directory of the champion")
    number = {user: n for n, user in enumerate(log.user_ids)}
    found = [number[user] for user in json.loads(path.read_bytes())["users"] if user in number]
    if not found:
        raise InputRejected(f"none of the users of {path} is in the log; was the pseudonym key changed?")
    if len(found) < 2:
        raise InputRejected(f"only one user of {path} is in the log; nothing can be learnt from one user")
    return np.sort(np.array(found, np.int32))


def _until(paths: list[Path], last: int) -> list[Path]:
    return sorted(path for path in paths if partition_day(path) <= last)


def _texts(counting: StateBuilder, days: Days, plan: Augmentation, cache: Path) -> tuple[TextTable, NDArray[np.uint8]]:
    """Vectors of every text that is in the catalogue of some day, of other ways to write it, and their digests."""
    items = counting.log.items
    wanted = counting.sold(days.train[0], days.last + 1)
    with Progress("encode item texts", 0, "texts") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.advance(done - bar.done)

        rows, vectors = encode_texts((items.texts[item] for item in wanted.tolist()), cache, progress)
        written = {rows[text_digest(text)]: text for text in (items.texts[item] for item in wanted.tolist())}
        texts, views = [written[row] for row in range(len(vectors))], []
        for seed in range(plan.views):
            ways = [augmented(text, plan, SEED + seed) for text in texts]
            known, encoded = encode_texts(ways, cache, progress)
            views.append(encoded[[known[text_digest(way)] for way in ways]])
    ordered = sorted(rows, key=lambda digest: rows[digest])
    digests = np.frombuffer(b"".join(ordered), np.uint8).reshape(-1, 16)
    return text_table(items, wanted, rows, vectors, np.stack(views) if views else None), digests
