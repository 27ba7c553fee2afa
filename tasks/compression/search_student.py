"""One small encoder in place of both that search reads a query by, shipped where validation cannot tell it from its parent.

Cut from the untrained encoder, with a shorter vocabulary, distilled from its vectors and then from the tuned encoder's scores;
head and weights are fitted anew to what the student reads. Chosen and judged on validation, never on the holdout. The numbers
behind the defaults: benchmarks/full_stack.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tasks.compression.distil import Student, distil, distil_lists
from tasks.compression.item_vectors import small_vectors
from tasks.compression.low_rank import with_factorised_words
from tasks.compression.prune import (
    important_heads,
    spread_layers,
    with_feed_forward,
    with_heads,
    with_layers,
    with_one_layer,
)
from tasks.compression.search_encoders import KEPT, export_encoder
from tasks.compression.vocabulary import with_vocabulary
from tasks.copies import in_use
from tasks.domain.manifest import canonical_json
from tasks.domain.recipe import Search, SearchStudent
from tasks.domain.statistics import paired_difference
from tasks.ranker import checkpoint
from tasks.ranker.arrays import Floats
from tasks.ranker.runtime import compiled
from tasks.ranker.search.dataset import load_lists
from tasks.ranker.search.documents import DOCUMENTS, load_documents
from tasks.ranker.search.encoder import SentenceEncoder, base_encoder, vectors_of
from tasks.ranker.search.fit import ENCODER
from tasks.ranker.search.head import fit_head, head_scores
from tasks.ranker.search.inputs import Inputs, hardness, make_inputs
from tasks.ranker.search.judge import ndcg
from tasks.ranker.search.lists import Lists
from tasks.ranker.search.match import TextMatch
from tasks.ranker.search.mix import fit_mix
from tasks.ranker.search.past import past_of
from tasks.ranker.search.ranker import CONFIG, HEAD, STUDENT, TREES, VECTORS, SearchRanker
from tasks.ranker.search.training import SCALE
from tasks.ranker.search.trees import fit_trees, tree_scores
from tasks.ranker.search.vectors import SmallVectors, load_vectors, save_vectors, with_nothing
from tasks.ranker.text import encode_rows

log = logging.getLogger("freshrank.compress")
Words = list[list[int]]
TABLES = "title", "written", "tuned"


@dataclass(frozen=True)
class Teachers:
    """What the untrained encoder and the tuned one make of the catalogue and of the training lists, made once.

    title, written: [items + 1, width], the last row, zeros, is the unknown item; query: [lists, width]; all by the untrained one.
    scores: [pairs] by the tuned one, on the scale that its softmax was trained with. hardness: [pairs] of `inputs.hardness`.
    """

    title: Floats
    written: Floats
    query: Floats
    scores: Floats
    hardness: Floats


def cut_encoder(base: SentenceEncoder, shape: SearchStudent, words: Words, folder: Path) -> Student:
    """An untaught student with two maps, its weights and vocabulary under `folder`. words: of the texts that count."""
    layers = spread_layers(len(base.body.encoder.layer), min(shape.layers, len(base.body.encoder.layer)))
    width = min(shape.feed_forward, int(base.body.config.intermediate_size))
    pieces = with_vocabulary(with_feed_forward(with_layers(base, layers), width, words), words, shape.pieces, folder)
    log.info("student of search: layers %s, feed-forward %d, %d word pieces", layers, width, pieces)
    return Student(SentenceEncoder(folder), 2)


def narrow(student: Student, shape: SearchStudent, words: Words) -> None:
    """Take out heads that the student has learned to do without, share weights of layers, make word vectors thin.

    It must learn again.
    """
    if shape.heads:
        heads = important_heads(student.encoder, shape.heads, words)
        student.encoder = with_heads(student.encoder, heads)
        log.info("student of search: heads %s", heads)
    if shape.one_layer:
        student.encoder = with_one_layer(student.encoder)
    if shape.piece_width:
        student.encoder, kept = with_factorised_words(student.encoder, shape.piece_width)
        log.info("student of search: word pieces in %d numbers, %.0f %% of their energy", shape.piece_width, 100 * kept)


def graph_vectors(folder: Path, texts: Sequence[str], most: int) -> Floats:
    """[texts, 2, width] by encoder.xml and tokenizer.json of a student; zeros for a text of blanks."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    request = compiled(folder / "encoder.xml", 1).create_infer_request()
    told = encode_rows(request, [one.ids for one in tokenizer.encode_batch(list(texts))])
    told[[n for n, text in enumerate(texts) if not text.strip()]] = 0
    return told


def ship_student(
    trained: Path, dataset: Path, plan: Search, calibration: int, seed: int, cache: Path, workdir: Path, out: Path
) -> dict[str, Any]:
    """Make the student; where it is not worse than its fp32 parent by more than the margin, put it into `out`.

    Args:
        trained: as fit_search left it. out: as export_search left it; unchanged where the student is refused.
        cache: where the weights after each pass of distillation lie; a step that was killed goes on from them.
    """
    shape = plan.student or SearchStudent()
    documents = load_documents(trained / DOCUMENTS)
    parts = {name: load_lists(dataset, name) for name in ("train", "validation")}
    lists = {name: of.take(of.teach()) for name, of in parts.items()}
    base, tuned = SentenceEncoder(base_encoder(plan.encoder)), SentenceEncoder(trained / ENCODER)
    match = TextMatch(documents)
    titles = documents.titles
    teachers = make_teachers(trained, base, tuned, lists["train"], match, plan)
    student = taught(base, teachers, titles, documents.written, lists["train"], plan, shape, seed, cache, workdir)
    folder = workdir / STUDENT
    learn = calibration_words(student, documents.written, lists["train"], plan, calibration)
    export_encoder(student, student.encoder.tokenizer, learn, folder)
    tables = _item_tables(folder, titles, documents.written, plan, shape)
    title, written, learned = (with_nothing(tables[name].restored()) for name in TABLES)
    query = {name: graph_vectors(folder, of.queries, plan.query_tokens) for name, of in lists.items()}
    past = past_of(lists["train"], len(documents)) if plan.past else None
    inputs = {
        name: make_inputs(match, of, query[name][:, 0], title, written, past, own=name == "train")
        for name, of in lists.items()
    }
    head, _ = fit_head(inputs["train"], inputs["validation"], plan.head_epochs, seed)
    members = {"head": head_scores(head, inputs["validation"]), "cosine": _cosines(lists["validation"], query, learned)}
    trees = None
    if plan.trees:
        trees = fit_trees(lists["train"], inputs["train"].x, lists["validation"], inputs["validation"].x, seed)
        members["trees"] = tree_scores(trees, inputs["validation"].x)
    mix = fit_mix(lists["validation"], members)
    ours, parents = (
        ndcg(lists["validation"], mix.scores(members)),
        _of_parent(trained, plan, lists["validation"], workdir),
    )
    paired = paired_difference(np.arange(len(ours)), parents, ours, seed=0)
    ships = paired.lower >= -shape.margin
    log.info(
        "student of search: NDCG@10 %.4f on validation, parent %.4f, lower bound %+.4f, allowed %+.4f: %s",
        ours.mean(), parents.mean(), paired.lower, -shape.margin, "ships" if ships else "refused",
    )  # fmt: skip
    if ships:
        for name in ("base", "tuned"):
            shutil.rmtree(out / name)
        shutil.copytree(folder, out / STUDENT)
        save_file({name: value.numpy() for name, value in head.state_dict().items()}, out / HEAD)
        save_vectors(out / VECTORS, tables)
        config = json.loads((out / CONFIG).read_bytes())
        config["weights"] = dict(zip(mix.members, np.divide(mix.weights, mix.deviations).tolist(), strict=True))
        (out / CONFIG).write_bytes(canonical_json(config))
        if trees is not None:
            told = {"lightgbm": trees.model_to_string(num_iteration=trees.best_iteration)}
            (out / TREES).write_bytes(canonical_json(told))
    return {
        "search_student": "ships" if ships else "refused",
        "search_student_ndcg_at_10": round(float(ours.mean()), 5),
        "search_parent_ndcg_at_10": round(float(parents.mean()), 5),
        "search_student_bound": round(paired.lower, 5),
        "search_student_bytes": (folder / "encoder.bin").stat().st_size,
        "search_vectors_bytes": sum(table.nbytes for table in tables.values()),
    }


def make_teachers(
    trained: Path, base: SentenceEncoder, tuned: SentenceEncoder, train: Lists, match: TextMatch, plan: Search
) -> Teachers:
    """The catalogue's vectors as training kept them; those of the queries are made here."""
    title, written, items = (with_nothing(load_vectors(trained / VECTORS, name)) for name in TABLES)
    query, asked = (vectors_of(one, train.queries, plan.query_tokens) for one in (base, tuned))
    scores = np.float32(SCALE) * np.einsum("ij,ij->i", asked[train.owner], items[train.rows])
    return Teachers(title, written, query, scores, hardness(match, make_inputs(match, train, query, title, written)))


def taught(
    base: SentenceEncoder,
    teachers: Teachers,
    titles: list[str],
    written: list[str],
    train: Lists,
    plan: Search,
    shape: SearchStudent,
    seed: int,
    cache: Path,
    workdir: Path,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Student:
    """The student after two passes: it has the untrained encoder's vectors, and orders lists as the tuned one does.

    Heads and word vectors are cut between the two, when it is known what the student needs; the second pass recovers them.

    Args:
        train: lists that can teach. titles, written: of the catalogue.
        cache: where the weights after each pass lie; the same call goes on from those that it finds there. Of two different
            calls at once the later one's stay, and the other starts over if it is killed.
    """
    torch.manual_seed(seed)
    item, query = base.words(written, plan.item_tokens), base.words(train.queries, plan.query_tokens)
    student = cut_encoder(base, shape, [*item, *query], workdir / "cut")
    title, item, query = (
        student.encoder.words(of, most)
        for of, most in ((titles, plan.item_tokens), (written, plan.item_tokens), (train.queries, plan.query_tokens))
    )
    vectors = np.concatenate([teachers.written[:-1], teachers.title[:-1], teachers.query])
    known = np.flatnonzero(np.abs(vectors).sum(1) > 0)  # a text without a word has no vector to learn
    words, targets = [*item, *title, *query], np.repeat(vectors[known][:, None], 2, 1)
    lists = Inputs(train, np.zeros((len(train.rows), 0), np.float32), teachers.query, teachers.written)
    scores, hard, at_once = teachers.scores, teachers.hardness, plan.queries_a_step
    passes: dict[str, Callable[[], Any]] = {
        "vectors": lambda: distil(student, [words[n] for n in known.tolist()], targets, shape.epochs, seed, progress),
        "lists": lambda: distil_lists(student, query, item, lists, scores, hard, at_once, seed, progress),
    }
    told = [shape.model_dump(), seed, train.digest, titles, written, plan.item_tokens, plan.query_tokens, at_once]
    digest = hashlib.sha256(canonical_json(told))
    for part in vars(teachers).values():
        digest.update(np.ascontiguousarray(part).tobytes())
    for name, teach in passes.items():
        path, identity = cache / f"{name}.safetensors", f"{name} {digest.hexdigest()}"
        kept = checkpoint.load(path, identity) if in_use(path, cache) else None
        if kept is None:
            teach()
            weights = student.state_dict()  # a file holds no tensor twice, and layers may share theirs
            checkpoint.save(path, identity, {of: value.clone() for of, value in weights.items()}, {})
        else:
            student.load_state_dict(kept[0])
        if name == "vectors":
            narrow(student, shape, words)
    return student.eval()


def calibration_words(student: Student, written: list[str], train: Lists, plan: Search, count: int) -> Words:
    """Word pieces of `count` texts, evenly spread over items and training queries."""
    encoder = student.encoder
    words = [*encoder.words(written, plan.item_tokens), *encoder.words(train.queries, plan.query_tokens)]
    return [words[n] for n in np.unique(np.linspace(0, len(words) - 1, count).astype(int)).tolist()]


def _cosines(lists: Lists, query: dict[str, Floats], learned: Floats) -> Floats:
    """[pairs] by the map that learned the tuned encoder's scores."""
    told: Floats = np.einsum("ij,ij->i", query["validation"][lists.owner, 1], learned[lists.rows])
    return told


def _item_tables(
    folder: Path, titles: list[str], texts: list[str], plan: Search, shape: SearchStudent
) -> dict[str, SmallVectors]:
    """The student's vectors of the catalogue as the release will hold them: head and weights are fitted to these."""
    title, written = (graph_vectors(folder, of, plan.item_tokens) for of in (titles, texts))
    tables = {"title": title[:, 0], "written": written[:, 0], "tuned": written[:, 1]}
    return {name: small_vectors(of, shape.directions) for name, of in tables.items()}


def parent_ranker(trained: Path, plan: Search, workdir: Path) -> SearchRanker:
    """What was trained as a ranker, its encoders unquantised; its files lie in `workdir`."""
    workdir.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (trained / name).exists():
            shutil.copyfile(trained / name, workdir / name)
    for name, of in (("base", base_encoder(plan.encoder)), ("tuned", trained / ENCODER)):
        encoder = SentenceEncoder(of)
        export_encoder(encoder, encoder.tokenizer, [], workdir / name)
    return SearchRanker.open(workdir)


def _of_parent(trained: Path, plan: Search, validation: Lists, workdir: Path) -> NDArray[np.float64]:
    """NDCG@10 of each list by what was trained, its encoders unquantised."""
    return of_lists(parent_ranker(trained, plan, workdir / "parent"), validation)


def of_lists(ranker: SearchRanker, lists: Lists) -> NDArray[np.float64]:
    """NDCG@10 of each list."""
    ends = zip(lists.ptr[:-1], lists.ptr[1:], strict=True)
    scores = [ranker.scores(lists.queries[n], lists.rows[a:b]) for n, (a, b) in enumerate(ends)]
    return ndcg(lists, np.concatenate(scores))
