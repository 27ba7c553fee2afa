"""Training rows of many days, each made once: cached by a digest of all they depend on, made by one process a core.

A worker is `python -m tasks.ranker.days DATASET TRAIN_END SAMPLING DAY=FILE...`; it says on stdout when a day's file is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from tasks.atomic import drafted
from tasks.copies import in_use
from tasks.domain.errors import InputRejected, Unavailable
from tasks.domain.manifest import canonical_json
from tasks.progress import Progress
from tasks.ranker.arrays import epoch_day, iso_day
from tasks.ranker.co_purchases import counted_on
from tasks.ranker.dataset import Dataset
from tasks.ranker.rows import Sampling, training_rows
from tasks.ranker.tables import partition_day

HERE = Path(__file__).resolve().parent
# what decides a row; the network and the runtimes do not
CODE = (
    "arrays", "log", "state", "build", "neighbours", "ease", "co_purchases", "profile", "crowd", "features", "knowledge", "tokens",
    "retrieve", "shown", "slates", "rows", "tables",
)  # fmt: skip


def day_keys(
    accepted: list[Path], plans: list[Path], catalogue: Path, first: int, last: int, options: object
) -> dict[int, str]:
    """For each day a digest of all that its rows depend on: every file up to it, its own included for the labels."""
    files: dict[int, list[Path]] = {}
    for path in accepted:
        files.setdefault(partition_day(path), []).append(path)
    for path in plans:
        files.setdefault(partition_day(path) + 1, []).append(path)  # a plan is for the day after
    code = [_digest(HERE / f"{name}.py") for name in CODE]
    chain = hashlib.sha256(canonical_json([code, _digest(catalogue), options])).hexdigest()
    keys = {}
    for day in range(min([first, *files]), last + 1):
        content = sorted(_digest(path) for path in files.get(day, []))
        chain = hashlib.sha256(canonical_json([chain, day, content])).hexdigest()
        keys[day] = chain
    return keys


def ensure_rows(dataset: Path, wanted: Mapping[int, Path], sampling: Sampling, train_end: int, workers: int) -> None:
    """Make the file of every day in `wanted` that does not exist yet.

    Args:
        train_end: rows of days up to it are made without opening the holdout.

    Raises:
        InputRejected: a worker failed on its days.
        Unavailable: a worker was killed, most likely for memory.
    """
    missing = [(day, path) for day, path in wanted.items() if not in_use(path, path.parent)]
    if not missing:
        return
    options = [str(dataset), iso_day(train_end), json.dumps(asdict(sampling))]
    processes = []
    # dealt out, because later days cost more; by the week, because graph and EASE are counted once a week
    weeks = sorted({counted_on(day) for day, _ in missing})
    for n in range(min(workers, len(weeks))):
        mine = set(weeks[n::workers])
        days = [f"{iso_day(day)}={path}" for day, path in missing if counted_on(day) in mine]
        command = [sys.executable, "-m", "tasks.ranker.days", *options, *days]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        processes.append(
            subprocess.Popen(command, cwd=HERE.parent.parent, env=environment, stdout=subprocess.PIPE, text=True)
        )
    try:
        with Progress("make training days", len(missing), "days") as bar, selectors.DefaultSelector() as ready:
            for process in processes:
                ready.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            while ready.get_map():
                for key, _ in ready.select():
                    line = key.fileobj.readline()  # type: ignore[union-attr]
                    if line:
                        bar.advance(1, line.strip())
                    else:
                        ready.unregister(key.fileobj)
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(code < 0 for code in codes):
        raise Unavailable(
            f"a worker of build_dataset was killed (exit codes {codes}); whole days are kept, run it again"
        )
    if any(codes):
        raise InputRejected(f"a worker of build_dataset failed (exit codes {codes}); its message is above")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str]) -> None:
    directory, train_end, options, *days = arguments
    dataset, sampling = Dataset(Path(directory)), Sampling(**json.loads(options))
    whole = False
    for pair in days:
        day, _, name = pair.partition("=")
        if day > train_end and not whole:  # the days are in order: what was only for training may go
            dataset, whole = Dataset(Path(directory)), True
        builder = dataset.whole if whole else dataset.builder
        rows = training_rows(builder, epoch_day(day), dataset.text_digests, sampling)
        with drafted(Path(name)) as draft:
            rows.save(draft)
        sys.stdout.write(f"{day}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
