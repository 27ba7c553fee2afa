"""The rows of a dataset's parts: made (or taken from the cache), fitted on, judged, and compared with one another.

Used by build_dataset alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.domain.data_policy import TRAINING, TrainingRule, judge_training
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json
from tasks.domain.recipe import Exposure
from tasks.ranker.arrays import iso_day
from tasks.ranker.build import StateBuilder
from tasks.ranker.days import ensure_rows
from tasks.ranker.features import FEATURES
from tasks.ranker.fitted import Fitted, fit
from tasks.ranker.knowledge import KNOWLEDGE, NULLABLE
from tasks.ranker.log import EventLog
from tasks.ranker.parts import Parts, Tally, drift
from tasks.ranker.position_bias import examination
from tasks.ranker.rows import Rows, Sampling
from tasks.ranker.split import Days

WORKERS = min(8, len(os.sched_getaffinity(0)))
Files = Mapping[str, Path]  # rows by day


def made_rows(
    out: Path, days: Days, keys: Mapping[int, str], sampling: Sampling, cache: Path
) -> dict[str, dict[str, Path]]:
    """The file of each day's rows, by part. Only those of training days are put under `out`."""
    folder, target = cache / "days", out / "train"
    folder.mkdir(parents=True, exist_ok=True)
    target.mkdir()
    parts = {"train": days.train, "validation": days.validation, "holdout": days.holdout}
    files = {day: folder / f"{keys[day]}.safetensors" for part in parts.values() for day in part}
    ensure_rows(out, files, sampling, days.train_end, WORKERS)
    for day in days.train:
        _link_or_copy(files[day], target / f"{iso_day(day)}.safetensors")
    return {name: {iso_day(day): files[day] for day in part} for name, part in parts.items() if part}


def judged(out: Path, parts: Mapping[str, Files], builder: StateBuilder, days: Days, exposure: Exposure) -> Parts:
    """Fit on the training rows, have them judged and compared; writes fitted.json, parts.json and a page.

    Raises:
        InputRejected: Great Expectations says that the rows are not what training may be given.
    """
    names = FEATURES + KNOWLEDGE if builder.knowledge else FEATURES
    tallies = {name: Tally(len(files)) for name, files in parts.items()}
    wrong = _expect(out, _counted(parts["train"], tallies["train"]), names)
    for name in parts.keys() - {"train"}:
        for _ in _counted(parts[name], tallies[name]):
            pass
    fitted = _fit(parts["train"], names, builder, days, exposure, tallies["train"].rows)
    fitted.save(out)
    told = _compare(tallies, fitted, builder, days)
    (out / "parts.json").write_bytes(canonical_json(told.model_dump(mode="json")))
    if wrong:
        raise InputRejected(f"the training set is not sound: {'; '.join(wrong)}. Nothing is trained on it")
    return told


def _counted(files: Files, tally: Tally) -> Iterator[tuple[str, Any]]:
    """Each day's rows, counted on the way."""
    for day, path in files.items():
        rows = Rows.load(path)
        tally.add(rows)
        yield day, rows


def _expect(out: Path, days: Iterator[tuple[str, Any]], names: tuple[str, ...]) -> list[str]:
    """What Great Expectations finds wrong, in sentences; its page is written whatever it says."""
    from expectations.products import judge_training_set  # seconds: Great Expectations

    wrong, page = judge_training_set(days, names, [name for name in names if name in NULLABLE])
    (out / "data_docs").mkdir()
    (out / "data_docs" / "training_set.html").write_text(page)
    return wrong


def _fit(
    files: Files, names: tuple[str, ...], builder: StateBuilder, days: Days, exposure: Exposure, rows: int
) -> Fitted:
    """What is fitted on the training days: their rows, their lists, and the items that their mornings could rank."""
    sold = builder.sold(days.train[0], days.train[-1]).tolist()
    vocabularies = {name: tuple(sorted({of[item] for item in sold})) for name, of in _levels(builder.log).items()}
    bias, x = exposure.position_bias, map(Rows.features_of, files.values())
    fitted = fit(tuple(files), names, x, rows, vocabularies, position=bias == "input")
    if bias != "weights" or builder.shown is None:
        return fitted
    shown = builder.shown.during(days.train[0], days.train[-1])
    looked_at = examination(shown.item, shown.position, shown.grade > 0)
    return fitted.model_copy(update={"looked_at": tuple(looked_at.tolist()), "most_weight": exposure.most_weight})


def _compare(tallies: Mapping[str, Tally], fitted: Fitted, builder: StateBuilder, days: Days) -> Parts:
    """How far what comes after training (the holdout, or a first champion's validation) differs from it."""
    against, later = ("holdout", days.holdout) if days.holdout else ("validation", days.validation)
    log, unknown = builder.log, {}
    items = log.item[log.before(later[0]) : log.before(later[-1] + 1)].tolist()
    for name, of in _levels(log).items():
        known = set(fitted.vocabularies[name])
        unknown[name] = sum(of[item] not in known for item in items) / max(len(items), 1)
    return Parts(
        parts={name: tally.part for name, tally in tallies.items()},
        against=against,
        drift=drift(fitted.inputs.features, tallies["train"].x, tallies[against].x),
        unknown_share=unknown,
    )


def _levels(log: EventLog) -> dict[str, list[str]]:
    return {name: log.items.level(depth) for name, depth in (("department", 1), ("category", 2), ("type", 99))}


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def allowed(summary: Mapping[str, Any], rules: Mapping[str, TrainingRule]) -> list[str]:
    """What the policy minds about a dataset, as sentences.

    Raises:
        InputRejected: something that the policy refuses.
    """
    findings = judge_training({name: float(summary[name]) for name in TRAINING}, rules)
    if refused := [finding.sentence for finding in findings if finding.outcome == "refuse"]:
        raise InputRejected(f"the training set is refused, the champion keeps serving: {'; '.join(refused)}")
    return [finding.sentence for finding in findings if finding.outcome == "mark"]
