"""What each further cut of search's student saves and loses, on MS1's validation queries: which of them a recipe should ask for.

    make bench NAME=student_steps     # 6 minutes of one core, kept by part; it goes on from the folder of `cascade --student`

Every variant goes the way of `search_student`: the same first pass of distillation, the cut, a third of the second pass, int8. It
is held against the student that is cut no further, by the tower alone (the map that learned to order lists), so that no head hides
what an encoder lost. What needs no training (fewer tokens, fewer directions of the item vectors) is measured on that student.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch

from benchmarks._table import Row, publish
from benchmarks.cascade import CALIBRATION, FOLDER, PLAN, SEED
from benchmarks.full_stack import paired, progress
from tasks.compression.distil import distil_lists
from tasks.compression.item_vectors import small_vectors
from tasks.compression.search_encoders import export_encoder
from tasks.compression.search_student import (
    Teachers,
    calibration_words,
    cut_encoder,
    graph_vectors,
    make_teachers,
    narrow,
)
from tasks.domain.recipe import SearchStudent
from tasks.ranker.arrays import Floats
from tasks.ranker.runtime import compiled
from tasks.ranker.search.dataset import load_lists
from tasks.ranker.search.documents import DOCUMENTS, load_documents
from tasks.ranker.search.encoder import SentenceEncoder, base_encoder
from tasks.ranker.search.fit import ENCODER
from tasks.ranker.search.inputs import Inputs
from tasks.ranker.search.judge import ndcg
from tasks.ranker.search.match import TextMatch
from tasks.ranker.search.vectors import with_nothing
from tasks.ranker.text import encode_rows

PACKAGES = ("torch", "transformers", "openvino", "nncf")
WHOLE = "cut no further"
SHAPES = {
    WHOLE: SearchStudent(),
    "6 of 12 heads": SearchStudent(heads=6),
    "2 layers of the same weights": SearchStudent(one_layer=True),
    "word vectors of 128 numbers": SearchStudent(piece_width=128),
}
ITEM_TOKENS, QUERY_TOKENS, DIRECTIONS = (24, 16), (8, 5), (384, 192, 128, 96, 64)
FEW = 3  # every third training list: the second pass of every variant, and of what it is held against, is as short
QUERIES, ROUNDS = 200, 7


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.documents = load_documents(folder / "trained" / DOCUMENTS)
        train, validation = (load_lists(folder / "dataset", part) for part in ("train", "validation"))
        self.train, self.validation = train.take(train.teach()), validation.take(validation.teach())
        self.few = np.arange(0, len(self.train), FEW)

    @cached_property
    def teachers(self) -> Teachers:
        path = self.folder / "teachers.safetensors"
        if not path.exists():
            encoders = SentenceEncoder(base_encoder(PLAN.encoder)), SentenceEncoder(self.folder / "trained" / ENCODER)
            made = make_teachers(self.folder / "trained", *encoders, self.train, TextMatch(self.documents), PLAN)
            save_file({name: np.ascontiguousarray(value) for name, value in vars(made).items()}, path)
        return Teachers(**load_file(path))

    def student(self, name: str) -> Path:
        """The graph of a variant in int8; made once. Its first pass is the one that `cascade` made."""
        out = self.folder / "steps" / name.replace(" ", "-")
        if not (out / "encoder.xml").exists():
            base, plan, lists = SentenceEncoder(base_encoder(PLAN.encoder)), PLAN, self.train
            item, query = (
                base.words(self.documents.written, plan.item_tokens),
                base.words(lists.queries, plan.query_tokens),
            )
            student = cut_encoder(base, SHAPES[name], [*item, *query], out / "cut")  # the vocabulary of the first pass
            student.load_state_dict(load_torch(self.folder / "student" / "vectors.safetensors"))
            item = student.encoder.words(self.documents.written, plan.item_tokens)
            narrow(student, SHAPES[name], item)
            few, pairs, told = lists.take(self.few), lists.pairs(self.few), self.teachers
            query = student.encoder.words(few.queries, plan.query_tokens)
            read = Inputs(few, np.zeros((len(few.rows), 0), np.float32), told.query[self.few], told.written)
            scores, hard = told.scores[pairs], told.hardness[pairs]
            distil_lists(student, query, item, read, scores, hard, plan.queries_a_step, SEED, progress)
            calibration = calibration_words(student, self.documents.written, lists, plan, CALIBRATION)
            export_encoder(student.eval(), student.encoder.tokenizer, calibration, out)
        return out

    @lru_cache(16)  # noqa: B019  # one bench a process
    def vectors(self, name: str, item_tokens: int, query_tokens: int) -> tuple[Floats, Floats, float]:
        """[items + 1, 2, width] and [lists, 2, width], and the CPU seconds of the former."""
        folder = self.student(name)  # made before the clock starts
        began = time.process_time()
        item = graph_vectors(folder, [*self.documents.written, ""], item_tokens)
        spent = time.process_time() - began
        return item, graph_vectors(folder, self.validation.queries, query_tokens), spent

    def ndcg(self, item: Floats, query: Floats) -> NDArray[np.float64]:
        """Of each validation list, by the cosine of the map that learned to order lists."""
        lists = self.validation
        return ndcg(lists, np.einsum("ij,ij->i", query[lists.owner, 1], item[lists.rows]))


def lost(what: str, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> list[Row]:
    difference = paired(ours, theirs)
    return [
        Row(f"{what}: difference", difference.difference, "NDCG@10"),
        Row(f"{what}: lower bound, 95 %", difference.lower, "NDCG@10"),
    ]


def query_times(bench: Bench) -> dict[str, float]:
    """CPU ms of one query by each variant, the median over rounds in which they take turns."""
    requests, rows = {}, {}
    for name in SHAPES:
        requests[name] = compiled(bench.student(name) / "encoder.xml", 1).create_infer_request()
        rows[name] = words_of(bench.student(name), bench.validation.queries[:QUERIES])
    spent: dict[str, list[float]] = {name: [] for name in SHAPES}
    for turn in range(ROUNDS + 1):
        for name, request in requests.items():
            began = time.process_time()
            for row in rows[name]:
                encode_rows(request, [row])
            spent[name] += [1_000 * (time.process_time() - began) / QUERIES] if turn else []
    return {name: float(np.median(times)) for name, times in spent.items()}


def words_of(folder: Path, texts: list[str]) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(PLAN.query_tokens)
    return [one.ids for one in tokenizer.encode_batch(texts)]


def rows(bench: Bench) -> list[Row]:
    at = PLAN.item_tokens, PLAN.query_tokens
    item, query, seconds = bench.vectors(WHOLE, *at)
    whole, told = bench.ndcg(item[:, 1], query), []
    times, sizes = query_times(bench), {name: (bench.student(name) / "encoder.bin").stat().st_size for name in SHAPES}
    untrained = bench.teachers.written[:-1]
    told += [
        Row(f"{WHOLE}: tower alone", float(whole.mean()), "NDCG@10"),
        Row(f"{WHOLE}: encoder.bin", sizes[WHOLE] / 1e6, "MB"),
    ]
    told.append(Row(f"{WHOLE}: CPU of a query", times[WHOLE], "ms"))
    for name in SHAPES:
        vectors, asked, spent = bench.vectors(name, *at)
        cosine = float((vectors[:-1, 0] * untrained).sum(1)[np.abs(untrained).sum(1) > 0].mean())
        told.append(Row(f"{name}: mean cosine with the untrained encoder", cosine, ""))
        if name != WHOLE:
            told += lost(name, bench.ndcg(vectors[:, 1], asked), whole)
            told += [
                Row(f"{name}: encoder.bin against {WHOLE}", sizes[WHOLE] / sizes[name], "times smaller"),
                Row(f"{name}: CPU of a query against {WHOLE}", times[WHOLE] / times[name], "times less"),
                Row(f"{name}: CPU of the catalogue against {WHOLE}", seconds / spent, "times less"),
            ]
    for tokens in ITEM_TOKENS:
        short, _, spent = bench.vectors(WHOLE, tokens, PLAN.query_tokens)
        told += lost(f"item texts cut at {tokens} of {at[0]} pieces", bench.ndcg(short[:, 1], query), whole)
        told.append(Row(f"item texts cut at {tokens}: CPU of the catalogue", seconds / spent, "times less"))
    for tokens in QUERY_TOKENS:
        short = graph_vectors(bench.student(WHOLE), bench.validation.queries, tokens)
        told += lost(f"queries cut at {tokens} of {at[1]} pieces", bench.ndcg(item[:, 1], short), whole)
    for kept in DIRECTIONS:
        small = small_vectors(item[:-1, 1], kept)
        restored = with_nothing(small.restored())
        told += lost(f"item vectors: {kept} directions in int8", bench.ndcg(restored, query), whole)
        told.append(
            Row(f"item vectors: {kept} directions, against fp32", item[:-1, 1].nbytes / small.nbytes, "times smaller")
        )
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of benchmarks.cascade")
    parser.add_argument("--only", choices=SHAPES, help="make and keep this one, no table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not (asked.folder / "student" / "vectors.safetensors").exists():
        print(f"{asked.folder} holds no student; run `python -m benchmarks.cascade --student` first", file=sys.stderr)
        return 2
    bench = Bench(asked.folder)
    if asked.only:
        bench.student(asked.only)
        return 0
    return 0 if publish("student_steps", rows(bench), PACKAGES) else 1


if __name__ == "__main__":
    sys.exit(main())
