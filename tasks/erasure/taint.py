"""Which runs, releases and views were made from rows of a user: what names the user, and what was built from that.

A dataset names its users, so whatever was built from it is found by lineage. Weights name nobody: they are called tainted.
"""

from __future__ import annotations

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import polars as pl
from pydantic import ValidationError

from tasks.adapters.erasures import DONE, ERASED, erasures
from tasks.adapters.releases import release_description
from tasks.adapters.store import Store
from tasks.domain.erasure import Erased, Tainted, descendants
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Manifest
from tasks.erasure.view_without import holds, view_digests

RUN = re.compile(r"(?P<run>runs/(?P<step>[a-z_]+)/(?P<partition>[0-9-]{10})/[0-9a-f]{24})(?P<rest>\.json|/.+)")
DATASET = "build_dataset"
PAGES = (".html", ".md")  # show the first eight digits
NAMING = (".json", ".parquet", *PAGES)  # kinds of files that can name a user; the numbers of .safetensors mean nobody
READERS = 8


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
    runs = _runs(store, since) if since else {}
    objects: list[str] = []
    datasets: list[str] = []
    with ThreadPoolExecutor(READERS) as pool:
        read = zip(runs, pool.map(lambda run: _manifest(store, run), runs), strict=True)
        manifests = {run: manifest for run, manifest in read if manifest}
        for run, keys in runs.items():
            named = [
                key for key, does in zip(keys, pool.map(lambda k: names(store, k, user), keys), strict=True) if does
            ]
            if named and f"/{DATASET}/" in run:  # its other files are the rows of the users that it names
                datasets.append(run)
                named = keys
            objects += named
    later = descendants({run: _parents(store, manifest) for run, manifest in manifests.items()}, datasets)
    packaged = [manifests[run].summary for run in later if manifests[run].step == "package"]
    views = [view for view in view_digests(store) if holds(store, view, {user})]
    tainted_views = {*views, *(str(summary["view"]) for summary in packaged)}
    releases = {str(summary["release"]) for summary in packaged}
    weights = set()
    for release, told in _published(store).items():
        if told.get("view") in tainted_views or release in releases:
            releases.add(release)
            if (
                told.get("kind") != "state"
            ):  # else the weights are older, and were tainted with the release they came with
                weights.add(str(told.get("weights_digest")))
    tainted = Tainted(
        datasets=tuple(f"{run}.json" for run in sorted(datasets)),
        runs=tuple(f"{run}.json" for run in later),
        releases=tuple(sorted(releases)),
        views=tuple(sorted(tainted_views)),
        weights=tuple(sorted(weights)),
    )
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


def _runs(store: Store, since: str) -> dict[str, list[str]]:
    """Run -> the keys of its outputs, those of attempts without a manifest included."""
    runs: dict[str, list[str]] = {}
    for key in store.list("runs/"):
        found = RUN.fullmatch(key)
        if found and found["partition"] >= since:
            outputs = runs.setdefault(found["run"], [])
            if found["rest"] != ".json":
                outputs.append(key)
    return runs


def _manifest(store: Store, run: str) -> Manifest | None:
    try:
        return Manifest.model_validate_json(store.get(f"{run}.json"))
    except InputRejected:
        return None  # a run that never completed
    except ValidationError as err:
        raise InputRejected(f"{run}.json is not a step manifest: {err.errors()[0]['msg']}") from err


def _parents(store: Store, manifest: Manifest) -> set[str]:
    return {store.key(uri).removesuffix(".json") for uri in manifest.inputs.values()}


def _published(store: Store) -> dict[str, dict[str, object]]:
    digests = [key[9:-5] for key in store.list("releases/") if "/" not in key[9:] and len(key) == 9 + 69]
    found = {}
    for digest in digests:
        try:
            found[digest] = release_description(store, digest)
        except (InputRejected, json.JSONDecodeError):
            continue  # half published, or damaged: it cannot be pulled either
    return found
