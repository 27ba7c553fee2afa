"""The full stack against the naive encoder: MS1's bi-encoder and head as teacher, one small student in int8; stores and features.

    make bench NAME=full_stack       # after `search_quality`, whose parts it reads: 25 minutes of one core the first time
    python -m benchmarks.full_stack --msrd ../shared/data/msrd --minutes 4     # no new part after so long; the next call goes on

The student is taught by the product's own code (tasks/compression/search_student.py), here from the parts that search_quality kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks._encoder_backend import STUDENT
from benchmarks._ms1 import DEV, TRAIN, VALIDATION
from benchmarks._table import Row, at_least, below, publish
from benchmarks.compression import NAIVE, SEED, measured, mixed_lengths, ratios
from benchmarks.search_quality import PLAN, ROOT, Bench
from tasks.compression.feature_selection import worth_of_features
from tasks.compression.item_vectors import small_vectors
from tasks.compression.search_encoders import export_encoder
from tasks.compression.search_student import Teachers, calibration_words, graph_vectors, taught
from tasks.domain.recipe import SearchStudent
from tasks.domain.statistics import PairedDifference, paired_difference
from tasks.ranker.arrays import Floats
from tasks.ranker.search.encoder import SentenceEncoder, base_encoder, vectors_of
from tasks.ranker.search.head import ProductHead, fit_head, head_scores
from tasks.ranker.search.inputs import Inputs
from tasks.ranker.search.judge import ndcg as list_ndcg
from tasks.ranker.search.mix import fit_mix
from tasks.ranker.text import encoder_folder

PACKAGES = ("torch", "transformers", "openvino", "nncf")
FOLDER = ROOT / ".freshrank" / "bench" / "small_search"
TITLES = "titles.safetensors"
SHAPE, CALIBRATION = SearchStudent(), 256


def make_student(bench: Bench, inputs: Inputs, hard: Floats, shape: SearchStudent) -> Path:
    """fp32/ and int8/ of a student that learned from the catalogue and from train queries alone; made once."""
    out, ms1 = FOLDER / f"student-{shape.layers}x{shape.feed_forward}-{shape.pieces}-{shape.epochs}", bench.ms1
    if (out / "int8" / "encoder.xml").exists():
        return out
    base, documents = SentenceEncoder(base_encoder(PLAN.encoder)), ms1.documents
    path = FOLDER / TITLES
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        save_file({"title": vectors_of(base, [*documents.titles, ""], PLAN.item_tokens)}, path)
    chosen = np.flatnonzero(ms1.part == TRAIN)
    chosen = chosen[ms1.lists.take(chosen).teach()]
    train, pairs = ms1.lists.take(chosen), ms1.lists.pairs(chosen)
    kept = load_file(bench.folder / "encoder-0.safetensors")
    scores = kept["cosine"][pairs] * np.float32(kept["scale"][0])
    title = load_file(path)["title"]
    teachers = Teachers(title, inputs.item_vec, inputs.query_vec[chosen], scores, hard[pairs])
    texts = documents.titles, documents.written
    student = taught(base, teachers, *texts, train, PLAN, shape, 0, out, out, progress)
    learn = calibration_words(student, documents.written, train, PLAN, CALIBRATION)
    for name, calibration in (("fp32", []), ("int8", learn)):
        export_encoder(student, student.encoder.tokenizer, calibration, out / name)
    return out


def progress(step: int, steps: int, loss: float) -> None:
    if step % 50 == 0:
        print(f"step {step}/{steps} loss {loss:.4f}", flush=True)


def student_inputs(bench: Bench, inputs: Inputs, folder: Path) -> tuple[Inputs, Floats, Floats]:
    """Inputs as the student's graph gives them, and its tuned vectors of queries and items; both sides are the student's."""
    ms1 = bench.ms1
    titles = ms1.documents.titles
    query = graph_vectors(folder, ms1.lists.queries, PLAN.query_tokens)
    title, written = (graph_vectors(folder, [*of, ""], PLAN.item_tokens) for of in (titles, ms1.documents.written))
    return with_vectors(inputs, query[:, 0], title[:, 0], written[:, 0]), query[:, 1], written[:, 1]


def with_vectors(inputs: Inputs, query: Floats, title: Floats, written: Floats) -> Inputs:
    """The same lists read by other vectors: the two cosines are the last columns."""
    x, lists = inputs.x.copy(), inputs.lists
    for column, item in ((-2, title), (-1, written)):
        x[:, column] = np.einsum("ij,ij->i", query[lists.owner], item[lists.rows])
    return Inputs(lists, x, query, written)


def system(bench: Bench, cosine: Floats, head: Floats) -> NDArray[np.float64]:
    """NDCG@10 of each dev query by head and cosine, mixed by weights from validation."""
    lists, of = bench.ms1.lists, np.flatnonzero(bench.ms1.part == VALIDATION)
    members = {"head": head, "cosine": cosine}
    pairs = lists.pairs(of)
    mix = fit_mix(lists.take(of), {name: told[pairs] for name, told in members.items()})
    return bench.ms1.ndcg(mix.scores(members), DEV)


KEPT_DIRECTIONS, FEATURES, MARGIN = 192, 15, 0.003
LOSS = 0.01  # of the teacher's NDCG@10 that the student may lose


def film_rows(bench: Bench, student: Path) -> dict[str, dict[str, list[list[int]]]]:
    """100 texts of films put behind each other to X's lengths, in the word pieces of MiniLM and of the student."""
    from tokenizers import Tokenizer

    full, small = (Tokenizer.from_file(str(of / "tokenizer.json")) for of in (encoder_folder(), student))
    for one in (full, small):
        one.no_padding()
        one.no_truncation()
    written = [text for text in bench.ms1.documents.written if text]
    pieces = full.encode_batch(written, add_special_tokens=False)
    draws = np.random.default_rng(SEED)
    rows: dict[str, list[list[int]]] = {"rows": [], "small": []}
    for length in mixed_lengths(draws):
        text = ""
        while True:
            n = int(draws.integers(len(written)))
            offsets = pieces[n].offsets
            had = len(full.encode(text).ids) if text else 2
            if had + len(offsets) >= length:  # the last film's text ends where the length is reached
                text += " " + written[n][: offsets[max(0, length - had - 1)][1]]
                break
            text += " " + written[n]
        rows["rows"].append(full.encode(text).ids)
        rows["small"].append(small.encode(text).ids)
    return {of: {"films": told} for of, told in rows.items()}


def paired(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> PairedDifference:
    return paired_difference(np.arange(len(ours)), theirs, ours, seed=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--msrd", type=Path, default=ROOT.parent / "shared" / "data" / "msrd")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="after which no new part begins; call again to go on"
    )
    parser.add_argument("--only", choices=("student",), help="make and keep this part, no table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * asked.minutes
    bench = Bench(asked.msrd, ROOT / ".freshrank" / "bench" / "search_quality")
    inputs, hard = bench.inputs()
    student = make_student(bench, inputs, hard, SHAPE)
    if asked.only:
        return 0
    rows = Table(bench, inputs, student).rows(until)
    if rows is None:
        print("to be continued: call again")
        return 75
    return 0 if publish("full_stack", rows, PACKAGES) else 1


class Table:
    """The rows, in parts that are kept: a run that was stopped goes on with the next one."""

    def __init__(self, bench: Bench, inputs: Inputs, student: Path) -> None:
        self.bench, self.inputs, self.student = bench, inputs, student

    @cached_property
    def small(self) -> tuple[Inputs, Floats, Floats]:
        return student_inputs(self.bench, self.inputs, self.student / "int8")

    @cached_property
    def head(self) -> ProductHead:
        return self._fitted(self.small[0])

    @cached_property
    def ndcg(self) -> NDArray[np.float64]:
        inputs, query, item = self.small
        return system(self.bench, self._cosines(query, item), head_scores(self.head, inputs))

    def parts(self) -> dict[str, Callable[[], list[Row]]]:
        return {"quality": self._quality, "speed": self._speed, "stores": self._stores, "features": self._features}

    def rows(self, until: float) -> list[Row] | None:
        """None where time ran out before the last part."""
        told: list[Row] = []
        for name, make in self.parts().items():
            path = self.student / f"{name}.json"
            if not path.exists():
                if time.monotonic() > until:
                    return None
                path.write_text(json.dumps([asdict(row) for row in make()]))
                print(name, path.read_text(), flush=True)
            told += [Row(**row) for row in json.loads(path.read_text())]
        return told

    def _quality(self) -> list[Row]:
        kept = load_file(self.bench.folder / "encoder-0.safetensors")
        teacher = system(self.bench, kept["cosine"], self.bench.head(self.inputs, 0))
        difference = paired(self.ndcg, teacher)
        mean = float(teacher.mean())
        return [
            Row("teacher: bi-encoder + head", mean, "NDCG@10"),
            below("student in int8: NDCG@10 lost", -difference.difference / mean, "of the teacher's", LOSS),
            Row("student in int8: at most lost, 95 %", -difference.lower / mean, "of the teacher's"),
        ]

    def _speed(self) -> list[Row]:
        shutil.copytree(self.student / "int8", FOLDER / "student", dirs_exist_ok=True)
        workloads = {"minilm": str(encoder_folder()), **film_rows(self.bench, self.student / "int8")}
        (FOLDER / "workloads.json").write_text(json.dumps(workloads))
        names = [NAIVE, "OpenVINO fp32", STUDENT]
        speed = ratios(measured(FOLDER, names, Path(sys.executable), ("films",), quality=False), "films", [NAIVE])
        peers = {name: value for name, value in speed.items() if name != STUDENT}
        original = (encoder_folder() / "model.safetensors").stat().st_size
        size = sum((self.student / "int8" / name).stat().st_size for name in ("encoder.bin", "encoder.xml"))
        return [
            at_least("full stack on X (texts of films) against padded fp32", speed[STUDENT], "times", 20.0, peers),
            at_least("encoder on disk against fp32", original / size, "times", 5.5),
        ]

    def _stores(self) -> list[Row]:
        inputs, query, item = self.small
        tables = (inputs.item_vec, item)
        codes = [small_vectors(of[:-1], KEPT_DIRECTIONS) for of in tables]
        nothing = np.zeros((1, item.shape[1]), np.float32)
        written, tuned = (np.vstack([one.restored(), nothing]) for one in codes)
        size = sum(of[:-1].astype(np.float32).nbytes for of in tables) / sum(one.nbytes for one in codes)
        x, lists = inputs.x.copy(), inputs.lists
        x[:, -1] = np.einsum("ij,ij->i", inputs.query_vec[lists.owner], written[lists.rows])
        read = Inputs(lists, x, inputs.query_vec, written)
        stored = system(self.bench, self._cosines(query, tuned), head_scores(self.head, read))
        return [
            at_least("item vectors against fp32", size, "times", 4.0),
            at_least(
                "item vectors: lower bound of the difference", paired(stored, self.ndcg).lower, "NDCG@10", -MARGIN
            ),
        ]

    def _features(self) -> list[Row]:
        inputs, query, item = self.small
        columns, validation = self.bench.columns, self.bench.of(inputs, VALIDATION)

        def quality(given: Inputs) -> float:
            return float(list_ndcg(given.lists, head_scores(self.head, given)).mean())

        worth = worth_of_features(columns, validation, quality)
        x = inputs.x.copy()
        x[:, [columns.index(name) for name in list(worth)[: len(columns) - FEATURES]]] = 0
        fewer = Inputs(inputs.lists, x, inputs.query_vec, inputs.item_vec)
        selected = system(self.bench, self._cosines(query, item), head_scores(self._fitted(fewer), fewer))
        return [
            at_least("features of a candidate against all", len(columns) / FEATURES, "times", 2.0),
            at_least("features: lower bound of the difference", paired(selected, self.ndcg).lower, "NDCG@10", -MARGIN),
            *(Row(f"lost when {name} goes", value, "NDCG@10 on validation") for name, value in worth.items()),
        ]

    def _cosines(self, query: Floats, item: Floats) -> Floats:
        lists = self.bench.ms1.lists
        told: Floats = np.einsum("ij,ij->i", query[lists.owner], item[lists.rows])
        return told

    def _fitted(self, of: Inputs) -> ProductHead:
        train, validation = self.bench.of(of, TRAIN), self.bench.of(of, VALIDATION)
        return fit_head(train, validation, PLAN.head_epochs, 0)[0]


if __name__ == "__main__":
    sys.exit(main())
