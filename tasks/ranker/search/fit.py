"""The search part of a dataset -> a trained search ranker: the tower and the product head, and what each is worth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json
from tasks.domain.recipe import Search
from tasks.ranker.search.dataset import DIRECTORY, load_lists
from tasks.ranker.search.documents import DOCUMENTS, Documents, load_documents, save_documents
from tasks.ranker.search.encoder import SentenceEncoder, base_encoder, vectors_of
from tasks.ranker.search.head import ProductHead, fit_head, head_scores
from tasks.ranker.search.inputs import Inputs, columns_of, hardness, make_inputs
from tasks.ranker.search.judge import ndcg
from tasks.ranker.search.lists import Lists
from tasks.ranker.search.match import TextMatch
from tasks.ranker.search.mix import fit_mix
from tasks.ranker.search.past import PAST, past_of
from tasks.ranker.search.ranker import CONFIG, HEAD, TREES, VECTORS
from tasks.ranker.search.training import Progress, Run, Texts, Towers
from tasks.ranker.search.trees import fit_trees, tree_scores
from tasks.ranker.search.vectors import save_vectors

ENCODER = "encoder"  # the tuned weights, for compress


def fit_search(
    dataset: Path,
    plan: Search,
    workdir: Path,
    out: Path,
    seed: int,
    progress: Progress = lambda step, steps, told: None,
) -> dict[str, Any]:
    """Train on the lists of the training days and write the ranker under `out`; encoders are exported by compress.

    The weights of the score are fitted on validation. A killed run goes on from its checkpoint in `workdir`.

    Raises:
        InputRejected: the days hold no list that can teach, or none to validate on.
    """
    documents = load_documents(dataset / DIRECTORY / DOCUMENTS)
    train, validation = (load_lists(dataset, part) for part in ("train", "validation"))
    train, validation = train.take(train.teach()), validation.take(validation.teach())
    if not len(train) or not len(validation):
        raise InputRejected(
            f"search has {len(train)} training and {len(validation)} validation lists with both a positive and another "
            f"item; at least one of each is needed. Take the section `search` out of the recipe, or give more days"
        )
    encoder, match = SentenceEncoder(base_encoder(plan.encoder)), TextMatch(documents)
    title, written = _items(encoder, documents, plan)
    past = past_of(train, len(documents)) if plan.past else None
    inputs = {
        name: make_inputs(
            match,
            lists,
            vectors_of(encoder, lists.queries, plan.query_tokens),
            title,
            written,
            past,
            own=lists is train,
        )
        for name, lists in (("train", train), ("validation", validation))
    }
    head = None
    if plan.joint:
        torch.manual_seed(seed)
        head = ProductHead(inputs["train"].features, encoder.width)
        head.standardise(inputs["train"].x)
    if plan.lora_rank:
        encoder.adapt(plan.lora_rank, seed)
    texts = Texts(encoder.words(train.queries, plan.query_tokens), encoder.words(documents.written, plan.item_tokens))
    towers = Towers(encoder, head)
    run = Run(towers, inputs["train"], texts, hardness(match, inputs["train"]), plan, seed)
    which = json.dumps([plan.model_dump(mode="json"), train.digest, seed])
    identity = hashlib.sha256(which.encode()).hexdigest()
    losses = run.train(workdir / "search.safetensors", identity, progress)
    if plan.lora_rank:
        encoder.merge()
    if head is None:
        head, _ = fit_head(inputs["train"], inputs["validation"], plan.head_epochs, seed)
    tuned = vectors_of(encoder, [*documents.written, ""], plan.item_tokens)
    members = _members(encoder, head, inputs["validation"], tuned, plan)
    trees = None
    if plan.trees:
        trees = fit_trees(train, inputs["train"].x, validation, inputs["validation"].x, seed)
        members["trees"] = tree_scores(trees, inputs["validation"].x)
    mix = fit_mix(validation, members)
    columns = columns_of(match, past)
    weights = dict(zip(mix.members, np.divide(mix.weights, mix.deviations).tolist(), strict=True))
    quality = {
        "all": _mean(validation, mix.scores(members)),
        "untrained": _mean(validation, inputs["validation"].x[:, columns.index("cosine_written")]),
    } | {name: _mean(validation, scores) for name, scores in members.items()}
    out.mkdir(parents=True, exist_ok=True)
    encoder.save(out / ENCODER)
    save_documents(out / DOCUMENTS, documents)
    save_file({name: value.numpy() for name, value in head.state_dict().items()}, out / HEAD)
    vectors = {"title": title, "written": written, "tuned": tuned}
    save_vectors(out / VECTORS, {name: of[:-1] for name, of in vectors.items()})
    config = {
        "features": list(columns),
        "query_tokens": plan.query_tokens,
        "item_tokens": plan.item_tokens,
        "weights": weights,
        "plan": plan.model_dump(mode="json", exclude={"encoder"}),  # a path of this machine is nobody's business
        "lists": {"train": train.digest, "validation": validation.digest},
        "seed": seed,
    }
    if past is not None:
        past.save(out / PAST)
    if trees is not None:  # LightGBM's own text, in a file of a kind that a release may hold
        told = {"lightgbm": trees.model_to_string(num_iteration=trees.best_iteration)}
        (out / TREES).write_bytes(canonical_json(told))
    (out / CONFIG).write_bytes(canonical_json(config))
    (out / "curves.json").write_text(json.dumps({"loss": losses, "validation": quality}, indent=1))
    return {
        "search_train_lists": len(train),
        "search_validation_lists": len(validation),
        "search_steps": run.steps,
        "search_loss": round(float(np.mean(losses[-20:])), 5),
    } | {f"search_validation.{name}": round(value, 5) for name, value in quality.items()}


def _items(encoder: SentenceEncoder, documents: Documents, plan: Search) -> tuple[np.ndarray, np.ndarray]:
    """Vector tables of titles and of the whole texts; the last row, zeros, is the unknown item."""
    texts = documents.titles, documents.written
    title, written = (vectors_of(encoder, [*of, ""], plan.item_tokens) for of in texts)
    return title, written


def _members(
    encoder: SentenceEncoder, head: ProductHead, inputs: Inputs, tuned: np.ndarray, plan: Search
) -> dict[str, np.ndarray]:
    query = vectors_of(encoder, inputs.lists.queries, plan.query_tokens)
    cosine = np.einsum("ij,ij->i", query[inputs.lists.owner], tuned[inputs.lists.rows])
    return {"head": head_scores(head, inputs), "cosine": cosine}


def _mean(lists: Lists, scores: np.ndarray) -> float:
    return float(ndcg(lists, scores).mean())
