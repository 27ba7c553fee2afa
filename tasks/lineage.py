"""What was made from what: a walk over the manifests of steps, from a release back to its days and from a day forward.

Erasure asks the same question (tasks.erasure.taint) and walks the same way. Only the store is read; nothing is guessed: a
manifest that is gone is named as gone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from tasks.adapters.releases import release_description
from tasks.adapters.store import Store
from tasks.domain.erasure import Tainted, descendants
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Manifest, partition_date

RUN = re.compile(r"(?P<run>runs/(?P<step>[a-z_]+)/(?P<partition>[0-9-]{10})/[0-9a-f]{24})(?P<rest>\.json|/.+)")
DATASET = "build_dataset"
PARTITIONS_JSON = "partitions.json"  # of a dataset: day -> digest of the rows that were read
READERS = 8


def runs_since(store: Store, since: str = "") -> dict[str, list[str]]:
    """Run -> the keys of its outputs, those of attempts without a manifest included."""
    runs: dict[str, list[str]] = {}
    for key in store.list("runs/"):
        found = RUN.fullmatch(key)
        if found and found["partition"] >= since:
            outputs = runs.setdefault(found["run"], [])
            if found["rest"] != ".json":
                outputs.append(key)
    return runs


def manifests_of(store: Store, runs: Iterable[str]) -> dict[str, Manifest]:
    """Run -> manifest, of those that were completed."""
    wanted = list(runs)
    with ThreadPoolExecutor(READERS) as pool:
        read = zip(wanted, pool.map(lambda run: read_run(store, run), wanted), strict=True)
        return {run: manifest for run, manifest in read if manifest}


def read_run(store: Store, run: str) -> Manifest | None:
    """None for a run that never completed, or was deleted."""
    try:
        return Manifest.model_validate_json(store.get(f"{run}.json"))
    except InputRejected:
        return None
    except ValidationError as err:
        raise InputRejected(f"{run}.json is not a step manifest: {err.errors()[0]['msg']}") from err


def parents(store: Store, manifest: Manifest) -> dict[str, str]:
    """Name of an input -> the run that made it."""
    return {name: store.key(uri).removesuffix(".json") for name, uri in manifest.inputs.items()}


def published(store: Store) -> dict[str, dict[str, Any]]:
    """Release -> its release.json. One that is half published or damaged cannot be pulled, and is left out."""
    digests = [key[9:-5] for key in store.list("releases/") if "/" not in key[9:] and len(key) == 9 + 69]
    found = {}
    for digest in digests:
        try:
            found[digest] = release_description(store, digest)
        except (InputRejected, json.JSONDecodeError):
            continue
    return found


def built_on(
    store: Store, manifests: Mapping[str, Manifest], datasets: Collection[str], views: Collection[str] = ()
) -> Tainted:
    """Everything that was made from these datasets (runs of build_dataset), or serves one of these views."""
    lines = _lines(store, manifests)
    later = descendants(lines, datasets)
    packaged = [manifests[run].summary for run in later if manifests[run].step == "package"]
    made = {str(summary["release"]) for summary in packaged}
    theirs = {*views, *(str(summary["view"]) for summary in packaged)}
    weights = set()
    for release, told in published(store).items():
        if told.get("view") in theirs or release in made:
            made.add(release)
            if told.get("kind") != "state":  # else the weights are older, and came with an earlier release
                weights.add(str(told.get("weights_digest")))
    return Tainted(
        datasets=tuple(f"{run}.json" for run in sorted(datasets)),
        runs=tuple(f"{run}.json" for run in later),
        releases=tuple(sorted(made)),
        views=tuple(sorted(theirs)),
        weights=tuple(sorted(weights)),
    )


def _lines(store: Store, manifests: Mapping[str, Manifest]) -> dict[str, set[str]]:
    """Run -> the runs that it was made from. Weights that a training went on from came with a release, and count too."""
    lines = {run: set(parents(store, manifest).values()) for run, manifest in manifests.items()}
    trained = {one.summary.get("weights_digest"): run for run, one in manifests.items() if one.step == "finetune"}
    for run, manifest in manifests.items():
        before = trained.get(manifest.summary.get("started_from", ""))
        if before:
            lines[run].add(before)
    return lines


def package_of(store: Store, release: str) -> Manifest | None:
    """The manifest of the step that packaged a release; None for one that was made by hand."""
    found = _package_run(store, release)
    return found[1] if found else None


def of_release(store: Store, release: str) -> dict[str, Any]:
    """Where a release comes from: its own provenance, and every step that led to it, the last one first."""
    described = release_description(store, release)
    packaged = _package_run(store, release)
    steps, missing = _ancestors(store, packaged[0]) if packaged else ([], [])
    return {
        "release": release,
        **{name: described.get(name) for name in ("kind", "partition", "train_end", "state_through", "weights_digest")},
        "view": described.get("view"),
        "signed_by": [key.split(".")[1] for key in store.list(f"releases/{release}.") if key.endswith(".sig.json")],
        "provenance": provenance_of(store, release),
        "weights_from": _weights_from(store, release, described),
        "steps": steps,
        "missing": missing,
    }


def of_partition(store: Store, day: str) -> dict[str, Any]:
    """What was made from one day: datasets, then models, gates and releases, and where the weights went after that."""
    from tasks.adapters.partitions import accepted_revisions, landed_revisions, read_accepted_manifest

    partition_date(day)
    landed, accepted = landed_revisions(store).get(day), accepted_revisions(store).get(day)
    manifests = manifests_of(store, runs_since(store, day))
    datasets = {run: how for run, one in manifests.items() if (how := _reads(store, one, day))}
    built, told = built_on(store, manifests, datasets), published(store)
    later = {r for r, one in told.items() if one.get("weights_digest") in built.weights} - {*built.releases}

    def made_by(*steps: str) -> list[dict[str, Any]]:
        after = {key: manifests[key.removesuffix(".json")] for key in built.runs}
        return [_named(store, key, one) for key, one in after.items() if one.step in steps]

    return {
        "partition": day,
        "landed": {"revision": landed} if landed else None,
        "accepted": _accepted(read_accepted_manifest(store, day, accepted)) if accepted else None,
        "datasets": [_named(store, f"{run}.json", manifests[run]) | how for run, how in datasets.items()],
        "models": made_by("finetune", "compress"),
        "decisions": made_by("gate"),
        "releases": [_short(release, told[release]) for release in built.releases if release in told],
        "releases_with_its_weights": [_short(release, told[release]) for release in sorted(later)],
    }


def find_release(store: Store, named: str) -> str:
    """A release by its digest, or by the first characters of it."""
    if not re.fullmatch(r"[0-9a-f]{6,64}", named):
        raise InputRejected(
            f"{named!r} is neither a day nor a release; give YYYY-MM-DD or 6 to 64 digits of its digest"
        )
    keys = store.list(f"releases/{named}")
    found = sorted({key[9:73] for key in keys if len(key) == 9 + 69 and key.endswith(".json")})
    if len(found) != 1:
        several = f"{len(found)} releases begin with" if found else "no release is published that begins with"
        raise InputRejected(f"{several} {named}{': ' + ', '.join(one[:16] for one in found[:5]) if found else ''}")
    return found[0]


def _package_run(store: Store, release: str) -> tuple[str, Manifest] | None:
    try:
        day = str(release_description(store, release)["partition"])
    except (InputRejected, KeyError):
        return None
    runs = [key.removesuffix(".json") for key in store.list(f"runs/package/{day}/") if key.count("/") == 3]
    found = manifests_of(store, runs)
    made = {run: one for run, one in found.items() if one.summary.get("release") == release}
    return min(made.items(), key=lambda item: item[1].started_at, default=None)


def _ancestors(store: Store, run: str) -> tuple[list[dict[str, Any]], list[str]]:
    """(steps, those whose manifests are gone), breadth first."""
    steps, missing, waiting, seen = [], [], [run], {run}
    while waiting:
        key = waiting.pop(0)
        manifest = read_run(store, key)
        if manifest is None:
            missing.append(store.uri(f"{key}.json"))
            continue
        above = parents(store, manifest)
        steps.append(_named(store, f"{key}.json", manifest) | {"inputs": dict(manifest.inputs)})
        waiting += [one for one in above.values() if one not in seen]
        seen.update(above.values())
    return steps, missing


def _named(store: Store, key: str, manifest: Manifest) -> dict[str, Any]:
    sentence = manifest.summary.get("sentence") or manifest.summary.get("reason")
    return {
        "step": manifest.step,
        "partition": manifest.partition,
        "manifest": store.uri(key),
        "code": manifest.code_version,
        "lock": manifest.lock_digest,
        "seed": manifest.seed,
        "started_at": manifest.started_at,
        "outputs": len(manifest.outputs),
        **({"said": sentence} if isinstance(sentence, str) else {}),
    }


def _reads(store: Store, manifest: Manifest, day: str) -> dict[str, str] | None:
    """How a dataset read a day: by which digest, or, of a dataset that does not say, because the day is not after it."""
    if manifest.step != DATASET or manifest.partition < day:
        return None
    listed = manifest.outputs.get(PARTITIONS_JSON)
    if listed is None:
        return {"digest": "", "known_by": "its date"}
    try:
        digest = json.loads(store.get(store.key(listed.uri))).get(day)
    except InputRejected:
        return {"digest": "", "known_by": "its date"}  # erased with the dataset
    return {"digest": digest, "known_by": "its list of days"} if digest else None


def _accepted(manifest: Any) -> dict[str, Any]:
    told = manifest.model_dump(mode="json")
    return {
        name: told[name] for name in ("revision", "verdict", "rows", "landed_rows", "quarantined", "partition_digest")
    }


def _weights_from(store: Store, release: str, described: Mapping[str, Any]) -> list[str]:
    """The releases that first carried these weights, where this one has only a new state."""
    if described.get("kind") != "state":
        return []
    digest = described.get("weights_digest")
    return sorted(
        one
        for one, told in published(store).items()
        if told.get("weights_digest") == digest and told.get("kind") != "state"
    )


def provenance_of(store: Store, release: str) -> dict[str, Any] | None:
    """What the release itself says of its making."""
    try:
        told: dict[str, Any] = json.loads(store.get(f"releases/{release}/release/provenance.json"))
    except InputRejected:
        return None  # of before releases said so
    return told


def _short(release: str, told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "release": release,
        **{name: told.get(name) for name in ("kind", "partition", "train_end", "weights_digest")},
    }
