"""Search's cascade against a transformer over 100 films' texts a request: what it costs, and what its order is worth.

    make bench NAME=cascade                    # 12 minutes of one core the first time, 3 after that; 2.5 GiB
    python -m benchmarks.cascade --student     # a distilled student is made too and has rows of its own: 8 minutes more

All is made by the product's own steps from MS1's training queries: fit_search, export_search, ship_student. A list is the judged
films of a dev query, and retrieved ones (unjudged, grade 0) until there are 100.

- The cascade is what ships: a query through two encoders in int8 (or one student), films' vectors from the store, features, head.
- The 100-way scorer reads all 100 texts anew by the tuned MiniLM-L6, and the query. Its features and the head's vectors come from
  the store, which flatters it: the ratio is against one pass a film alone. In the order that it gives, nothing is quantised.

A trained cross-encoder is not measured (none could be had here). What 100 joined pairs cost is, by the same encoder's weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks._encoder_backend import padded
from benchmarks._ms1 import DEV, TRAIN, VALIDATION, read_ms1
from benchmarks._table import Row, at_least, below, publish
from benchmarks.full_stack import paired
from benchmarks.search_quality import LORA, ROOT
from tasks.compression.search_encoders import export_search
from tasks.compression.search_student import of_lists, parent_ranker, ship_student
from tasks.domain.recipe import SearchStudent
from tasks.ranker.arrays import Floats, Ints
from tasks.ranker.runtime import compiled
from tasks.ranker.search.dataset import load_lists, write_search
from tasks.ranker.search.encoder import SentenceEncoder
from tasks.ranker.search.fit import ENCODER, fit_search
from tasks.ranker.search.lists import Lists
from tasks.ranker.search.ranker import CONFIG, SearchRanker
from tasks.ranker.text import encode_rows

PACKAGES = ("torch", "transformers", "openvino", "nncf")
PLAN = LORA.model_copy(update={"student": SearchStudent(margin=1.0)})  # what it loses is this table's to say
FOLDER = ROOT / ".freshrank" / "bench" / "cascade"
FILMS, REQUESTS, ROUNDS, CALIBRATION, SEED = 100, 6, 5, 256, 0
LOSS = 0.005  # of the 100-way scorer's NDCG@10
Scores = Callable[[str, Ints], Floats]
ALL, OURS, STUDENT = "100 texts, OpenVINO int8", "cascade", "cascade of a student"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--msrd", type=Path, default=ROOT.parent / "shared" / "data" / "msrd")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--student", action="store_true", help="make one, if it is not there yet")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = asked.folder
    make(asked.msrd, folder, student=asked.student)
    names = {OURS: "both"} | ({STUDENT: "shipped"} if (folder / "shipped" / "student").exists() else {})
    asked_for, told = load_lists(folder / "dataset", "holdout"), folder / "quality.safetensors"
    parent = parent_ranker(folder / "trained", PLAN, folder / "parent")
    quality = load_file(told) if told.exists() else {}
    if missing := {ALL, *names} - set(quality):
        lists = with_retrieved(parent, asked_for)
        opened = {name: parent if name == ALL else SearchRanker.open(folder / names[name]) for name in missing}
        quality |= {name: of_lists(ranker, lists) for name, ranker in opened.items()}
        save_file(quality, told)
    chosen = np.random.default_rng(SEED).choice(len(asked_for), (ROUNDS + 1) * REQUESTS, replace=False)
    spent = timed(scorers(folder, names), with_retrieved(parent, asked_for.take(chosen)))
    return 0 if publish("cascade", rows(quality, spent, tuple(names)), PACKAGES) else 1


def make(msrd: Path, folder: Path, *, student: bool) -> None:
    """dataset/, trained/, both/ (two encoders in int8) and shipped/ (the student) under `folder`, what is there already left."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dataset").exists():
        ms1 = read_ms1(msrd)
        (folder / "dataset").mkdir()
        parts = {"train": TRAIN, "validation": VALIDATION, "holdout": DEV}
        taken = {name: ms1.lists.take(np.flatnonzero(ms1.part == part)) for name, part in parts.items()}
        write_search(folder / "dataset", ms1.documents, taken)
    if not (folder / "trained").exists():
        fit_search(folder / "dataset", PLAN, folder / "work", folder / "trained", SEED, lambda *told: print(*told))
    if not (folder / "both").exists():
        export_search(folder / "trained", PLAN, CALIBRATION, folder / "both")
    if student and not (folder / "shipped" / "student").exists():
        shutil.copytree(folder / "both", folder / "shipped", dirs_exist_ok=True)
        where = folder / "trained", folder / "dataset"
        work = folder / "student"
        print(ship_student(*where, PLAN, CALIBRATION, SEED, work, work, folder / "shipped"), flush=True)


def with_retrieved(ranker: SearchRanker, lists: Lists) -> Lists:
    """The judged films of each list, and the nearest of the others until there are FILMS; those have grade 0."""
    rows, grades = [], []
    for n, (a, b) in enumerate(zip(lists.ptr[:-1], lists.ptr[1:], strict=True)):
        found, wanted, count = np.zeros(0, np.int32), FILMS - int(b - a), FILMS
        while len(found) < wanted:
            found = np.setdiff1d(ranker.nearest(lists.queries[n], count), lists.rows[a:b])
            count += FILMS // 4
        found = np.random.default_rng((SEED, n)).permutation(found)[:wanted]
        rows += [lists.rows[a:b], found.astype(np.int32)]
        grades += [lists.grade[a:b], np.zeros(wanted, np.float32)]
    ptr = np.arange(len(lists) + 1, dtype=np.int64) * FILMS
    return Lists(lists.names, lists.queries, ptr, np.concatenate(rows), np.concatenate(grades))


def scorers(folder: Path, cascades: dict[str, str]) -> dict[str, Scores]:
    """Every way to score a request, by name. None has seen a query before."""
    beside = SearchRanker.open(folder / "both")
    encoder = SentenceEncoder(folder / "trained" / ENCODER)
    items = encoder.words([*beside.documents.written, ""], PLAN.item_tokens)
    weight = np.float32(json.loads((folder / "both" / CONFIG).read_bytes())["weights"]["cosine"])

    def every_text(encode: Callable[[Sequence[Sequence[int]]], Floats], query: str, rows: Ints) -> Floats:
        asked = encoder.words([query], PLAN.query_tokens)
        told = encode([*asked, *(items[row] for row in rows.tolist())])
        scores: Floats = beside.parts(query, rows)["head"] + weight * (told[1:] @ told[0])
        return scores

    def every_pair(encode: Callable[[Sequence[Sequence[int]]], Floats], query: str, rows: Ints) -> Floats:
        asked = encoder.words([query], PLAN.query_tokens)[0]
        return encode([[*asked, *items[row][1:]] for row in rows.tolist()])[:, 0]

    def graph(name: str) -> Callable[[Sequence[Sequence[int]]], Floats]:
        return partial(encode_rows, compiled(folder / name / "tuned" / "encoder.xml", 1).create_infer_request())

    def eager(words: Sequence[Sequence[int]]) -> Floats:
        with torch.inference_mode():
            told: Floats = encoder(*(torch.from_numpy(part) for part in padded(words))).numpy()
        return told

    return {
        ALL: partial(every_text, graph("both")),
        "100 texts, OpenVINO fp32": partial(every_text, graph("parent")),
        "100 texts, torch fp32 padded": partial(every_text, eager),
        "100 joined pairs, OpenVINO int8, untrained": partial(every_pair, graph("both")),
        **{name: SearchRanker.open(folder / of).scores for name, of in cascades.items()},
    }


def timed(of: dict[str, Scores], lists: Lists) -> dict[str, list[float]]:
    """CPU seconds of a round's REQUESTS by each scorer, scorers in turns; each round asks other queries."""
    spent: dict[str, list[float]] = {name: [] for name in of}
    for turn in range(ROUNDS + 1):
        for name, scores in of.items():
            began = time.process_time()
            for n in range(turn * REQUESTS, (turn + 1) * REQUESTS):
                scores(lists.queries[n], lists.rows[lists.ptr[n] : lists.ptr[n + 1]])
            if turn:  # the first compiles kernels for its shapes
                spent[name].append(time.process_time() - began)
        print(f"round {turn} of {ROUNDS}", flush=True)
    return spent


def rows(quality: dict[str, NDArray[np.float64]], spent: dict[str, list[float]], cascades: Sequence[str]) -> list[Row]:
    times = {name: float(np.median(np.divide(spent[ALL], of))) for name, of in spent.items()}
    others = {name: ratio for name, ratio in times.items() if name not in cascades}
    full, told = quality[ALL], []
    mean = float(full.mean())
    for name in cascades:
        lost = paired(quality[name], full)
        told += [
            at_least(f"{name} against {ALL}: CPU of a request", times[name], "times", 7.0, others),
            below(f"{name}: NDCG@10 lost over {FILMS} films", -lost.difference / mean, "of the 100-way's", LOSS),
            Row(f"{name}: at most lost, 95 %", -lost.lower / mean, "of the 100-way's"),
        ]
    return [
        *told,
        Row("100-way scorer", mean, "NDCG@10"),
        *(
            Row(f"CPU of a request: {name}", 1_000 * float(np.median(of)) / REQUESTS, "ms")
            for name, of in spent.items()
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
