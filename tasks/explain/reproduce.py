"""Train a run's model again from its own dataset, recipe and seed, and compare the weights byte by byte.

Nothing is published: the run stays what it was.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tasks.adapters.store import Store
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import Manifest
from tasks.domain.recipe import load_recipe
from tasks.explain.story import made_by
from tasks.finetune import finetune
from tasks.run import code_version, lock_digest, materialise, read_manifest
from tasks.settings import Settings


def reproduce(store: Store, uri: str, settings: Settings) -> dict[str, Any]:
    """{reproduced, recorded, again, differs, sentence}; `differs` names what is not as it was: code, lock, device.

    Args:
        uri: the manifest of the run's gate, or of any step after finetune.

    Raises:
        InputRejected: the run trained nothing, its dataset is gone, or its recipe has changed.
    """
    made = made_by(store, uri)
    if "finetune" not in made:
        raise InputRejected(f"{uri} rests on no training, so there are no weights to make again")
    if "build_dataset" not in made:
        raise InputRejected(f"the dataset of {uri} was deleted since; its training cannot be repeated")
    manifest = made["finetune"][1]
    recipe = load_recipe(str(manifest.params["recipe"]))
    if not recipe.digest.startswith(str(manifest.params["recipe_digest"])):
        raise InputRejected(
            f"recipe {recipe.name} is {recipe.digest[:16]} now and was {manifest.params['recipe_digest']}: put it back as it was"
        )
    dataset = materialise(store, made["build_dataset"][1], settings)
    with tempfile.TemporaryDirectory(dir=settings.data, prefix="reproduce-") as folder:
        work, out = Path(folder) / "work", Path(folder) / "out"
        work.mkdir()
        out.mkdir()
        again = finetune(
            dataset, recipe, work, out, manifest.seed, settings.threads, _champion(store, manifest, settings)
        )
    recorded = str(manifest.summary["weights_digest"])
    differs = {
        name: f"{was} -> {now}"
        for name, was, now in (
            ("code", manifest.code_version, code_version()),
            ("lock", manifest.lock_digest, lock_digest()),
            ("device", manifest.summary["device"], again["device"]),
        )
        if was != now
    }
    same = recorded == again["weights_digest"]
    about = (
        f" What is not as it was: {', '.join(f'{name} {told}' for name, told in differs.items())}." if differs else ""
    )
    sentence = (
        f"the same weights, byte for byte: {recorded[:12]}.{about}"
        if same
        else f"other weights: {recorded[:12]} was trained and is {again['weights_digest'][:12]} now; validation "
        f"{_quality(manifest.summary)} was, {_quality(again)} is.{about}"
    )
    return {
        "reproduced": same,
        "recorded": recorded,
        "again": again["weights_digest"],
        "seed": manifest.seed,
        "differs": differs,
        "sentence": sentence,
    }


def _champion(store: Store, manifest: Manifest, settings: Settings) -> Path | None:
    """The model that the training went on from, where it did."""
    if "started_from" not in manifest.summary:
        return None
    from tasks.domain.champion import read_champion
    from tasks.steps import release_of

    pinned = read_champion(materialise(store, read_manifest(store, manifest.inputs["resolve_champion"]), settings))
    return release_of(store, pinned.release, settings) / "release" / "model"


def _quality(summary: dict[str, Any]) -> str:
    return f"NDCG@10 {summary['validation'].get('ndcg_at_10[all]', float('nan')):.4f}"
