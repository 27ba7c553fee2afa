"""The demo's datasets of any days, for benchmarks of training: landed once in a folder, rows of a day made once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks._gate_models import landed
from tasks.domain.recipe import Recipe, load_recipe


def demo(**changed: int) -> Recipe:
    """The demo recipe, with other numbers of days where told."""
    recipe = load_recipe("demo")
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changed)}) if changed else recipe


def dataset(work: Path, recipe: Recipe, partition: str, champion: Path | None = None) -> Path:
    """What build_dataset makes of `partition`: with a holdout where a champion's dataset names the households."""
    out = work / f"dataset-{recipe.digest[:8]}-{partition}-{'refresh' if champion else 'first'}"
    if (out / "dataset.json").exists():
        return out
    from tasks.build_dataset import build_dataset

    files = landed(work)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    view = champion / "view" if champion else None
    build_dataset(files["events"], files["plans"], files["catalogue"][0], partition, recipe, work / "cache", out, view)
    return out


def users_of(work: Path, count: int, partition: str) -> Path:
    """A directory whose view/ names the households with most trips up to `partition`, as a first champion would."""
    from tasks.build_dataset import most_trips
    from tasks.ranker.arrays import epoch_day
    from tasks.ranker.log import read_log

    out = work / f"users-{count}-{partition}"
    if not (out / "view" / "users.json").exists():
        files = landed(work)
        log = read_log(files["events"], files["catalogue"][0], ("purchase",))
        users = most_trips(log, epoch_day(partition), count)
        (out / "view").mkdir(parents=True, exist_ok=True)
        names = [log.user_ids[user] for user in users.tolist()]
        (out / "view" / "users.json").write_text(json.dumps({"users": names}))
    return out
