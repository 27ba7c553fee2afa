"""Which runs, releases and views were made from rows of a user: what names the user, and what was built from that.

A dataset names its users, so whatever was built from it is found by lineage. Weights name nobody: they are called tainted.
Slates say what a numbered user bought and which groups the user is of, so they go with the dataset that numbers users.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import polars as pl

from tasks.adapters.erasures import DONE, ERASED, erasures
from tasks.adapters.releases import release_description
from tasks.adapters.store import Store
from tasks.domain.erasure import Erased, Tainted
from tasks.domain.errors import InputRejected
from tasks.erasure.view_without import holds, view_digests
from tasks.lineage import DATASET, READERS, built_on, manifests_of, runs_since

PAGES = (".html", ".md")  # show the first eight digits
BY_NUMBER = "slates.parquet"  # a row for each slate: the user's number in the dataset, groups, metrics
NAMING = (".json", ".parquet", *PAGES)  # kinds of files that can name a user; the numbers of .safetensors mean nobody


@dataclass(frozen=True, slots=True)
class Built:
    """What names the user in the store, by object key, and what was built from it."""

    objects: list[str]
    outputs: list[
        str
    ]  # sha256 of outputs that are among `objects`, or were deleted before: machines keep copies of them
    views: list[str]
    tainted: Tainted


def built_from(store: Store, user: str, since: str | None) -> Built:
    """Look through the runs of partitions from `since` on, and through all views. `since` None: no day held the user."""
    runs = runs_since(store, since) if since else {}
    objects: list[str] = []
    datasets: list[str] = []
    manifests = manifests_of(store, runs)
    with ThreadPoolExecutor(READERS) as pool:
        for run, keys in runs.items():
            named = [
                key for key, does in zip(keys, pool.map(lambda k: names(store, k, user), keys), strict=True) if does
            ]
            if named and f"/{DATASET}/" in run:  # its other files are the rows of the users that it names
                datasets.append(run)
                named = keys
            objects += named
    views = [view for view in view_digests(store) if holds(store, view, {user})]
    tainted = built_on(store, manifests, datasets, views)
    # first of all: once the dataset is gone, nothing leads to them any more
    numbered = [key for run in tainted.runs for key in runs[run.removesuffix(".json")] if key.endswith(f"/{BY_NUMBER}")]
    objects = [*numbered, *(key for key in objects if key not in numbered)]
    there = {key for keys in runs.values() for key in keys}.difference(objects)
    kept = (artifact for manifest in manifests.values() for artifact in manifest.outputs.values())
    outputs = {artifact.sha256 for artifact in kept if store.key(artifact.uri) not in there}
    return Built(objects, sorted(outputs), views, tainted)


def tainted_by(store: Store, release: str) -> list[str]:
    """Why a release counts as built from erased rows, one sentence for each erasure; empty where it does not."""
    weights = str(release_description(store, release).get("weights_digest"))
    sentences = []
    for name, erasure in erasures(store).items():
        tainted = erasure.tainted
        if store.exists(f"{ERASED}{name}{DONE}"):
            tainted = tainted.joined(Erased.model_validate_json(store.get(f"{ERASED}{name}{DONE}")).tainted)
        what = "state and weights" if release in tainted.releases else "weights" if weights in tainted.weights else None
        if what:
            sentences.append(f"erasure {name} of {erasure.when}: its {what} were made from days that held the user")
    return sentences


def names(store: Store, key: str, user: str) -> bool:
    """Whether an object names the user, in full or as a page shows users. An object that is gone does not."""
    suffix = PurePosixPath(key).suffix
    if suffix not in NAMING:
        return False
    try:
        return body_names(suffix, store.get(key), user)
    except InputRejected:
        return False


def body_names(suffix: str, body: bytes, user: str) -> bool:
    if suffix != ".parquet":
        return (user[:8] if suffix in PAGES else user).encode() in body
    try:
        table = pl.read_parquet(io.BytesIO(body))
    except (pl.exceptions.PolarsError, OSError):
        return True  # who knows
    texts = [column.cast(pl.String) for column in table if column.dtype in (pl.String, pl.Categorical, pl.Enum)]
    return any((column == user).any() for column in texts)
