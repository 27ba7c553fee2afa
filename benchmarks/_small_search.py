"""The teacher of the full-stack row, made once and kept: MS1's bi-encoder with its weights, and every vector of both encoders.

python -m benchmarks._small_search --msrd ../shared/data/msrd --minutes 4     # again until it says "teacher kept"
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from benchmarks._ms1 import TRAIN
from benchmarks.search_quality import PLAN, ROOT, Bench
from tasks.ranker.search.encoder import SentenceEncoder, base_encoder, vectors_of
from tasks.ranker.search.inputs import Inputs
from tasks.ranker.search.training import Run, Texts, Towers

FOLDER = ROOT / ".freshrank" / "bench" / "small_search"
TEACHER, VECTORS = "teacher", "teacher.safetensors"


def make_teacher(bench: Bench, inputs: Inputs, hard: np.ndarray, folder: Path, until: float) -> bool:
    """Train seed 0 of search_quality's bi-encoder and keep its weights and vectors; False where time ran out before."""
    if (folder / VECTORS).exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    lists, documents, train = bench.ms1.lists, bench.ms1.documents, bench.of(inputs, TRAIN)
    encoder = SentenceEncoder(base_encoder(PLAN.encoder))
    texts = Texts(
        encoder.words(train.lists.queries, PLAN.query_tokens), encoder.words(documents.written, PLAN.item_tokens)
    )
    chosen = np.flatnonzero(bench.ms1.part == TRAIN)
    run = Run(Towers(encoder, None), train, texts, hard[lists.pairs(chosen)], PLAN, 0)

    def progress(step: int, steps: int, told: str) -> None:
        if step % 20 == 0:
            print(f"teacher step {step}/{steps} {told}", flush=True)
        if step % 60 == 1 and time.monotonic() > until:
            raise TimeoutError  # the checkpoint of the step before is kept

    try:
        run.train(folder / "checkpoint.safetensors", f"encoder-0 {train.lists.digest}", progress)
    except TimeoutError:
        return False
    encoder.save(folder / TEACHER)
    titles = [" ".join(of) for of in documents.values["title"]]
    made = {
        "query": vectors_of(encoder, lists.queries, PLAN.query_tokens),
        "written": vectors_of(encoder, [*documents.written, ""], PLAN.item_tokens),
        "base_title": vectors_of(SentenceEncoder(base_encoder(PLAN.encoder)), [*titles, ""], PLAN.item_tokens),
    }
    save_file(made, folder / "draft")
    (folder / "draft").replace(folder / VECTORS)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--msrd", type=Path, default=ROOT.parent / "shared" / "data" / "msrd")
    parser.add_argument("--minutes", type=float, default=60.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * asked.minutes
    bench = Bench(asked.msrd, ROOT / ".freshrank" / "bench" / "search_quality")
    inputs, hard = bench.inputs()
    done = make_teacher(bench, inputs, hard, FOLDER, until)
    print("teacher kept" if done else "to be continued")
    if done:
        told, kept = load_file(FOLDER / VECTORS), load_file(bench.folder / "encoder-0.safetensors")
        cosine = np.einsum("ij,ij->i", told["query"][bench.ms1.lists.owner], told["written"][bench.ms1.lists.rows])
        print("largest difference from search_quality's scores", float(np.abs(cosine - kept["cosine"]).max()))
    return 0 if done else 75


if __name__ == "__main__":
    sys.exit(main())
