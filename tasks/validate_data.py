"""Decide, day by day, whether landed behaviour data may be believed; publish what may, quarantine what may not.

Rows are never deleted or copied: beside the landed file of a day lies a table of the rows that a rule caught. A refused
or held day is not published, so everything downstream goes on with the days before it. Never sees a raw user id.
"""

from __future__ import annotations

import json
import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from expectations.day_rules import DAY_RULES
from expectations.past import SEEN, Past, Seen, sorted_hashes
from expectations.profile import ROW
from expectations.reference import ITEM_COLUMNS
from expectations.row_rules import ROW_RULES
from expectations.suites import ITEMS, PLANS
from expectations.verdicts import (
    MARKS,
    RULES,
    CaughtBy,
    JudgedDay,
    LandedDay,
    Tables,
    as_frame,
    caught_here,
    judge_days,
)
from tasks.adapters.partitions import (
    accepted_key,
    accepted_revisions,
    described,
    landed_key,
    landed_revisions,
    put_day,
    read_accepted_manifest,
    read_catalogue,
    read_caught,
    read_landed_manifest,
)
from tasks.adapters.store import Store
from tasks.adapters.tables import READERS, contract_table, parquet_bytes, read_file, read_frame, read_table
from tasks.data_report import SAMPLE_ROWS, write_report
from tasks.domain.behaviour import AcceptedManifest, PartitionManifest, next_day
from tasks.domain.contract import EVENT, PLAN
from tasks.domain.data_policy import TRAINING, DataPolicy, DayCounts
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json, digest_of
from tasks.progress import Progress

log = logging.getLogger("freshrank.validate_data")
POLICY = Path(__file__).with_name("policies") / "data.yaml"
REMEMBERED_DAYS = 120  # row counts of this many accepted days before a day are read for the weekday bands
RELEASED = "control/released/"  # DAY.json: what a person let pass


def validate_data(
    days: list[str],
    store: Store,
    policy: DataPolicy,
    out: Path,
    *,
    publish: bool = True,
    caught_by: CaughtBy = caught_here,
) -> dict[str, Any]:
    """Judge the days that are not accepted yet, oldest first, and publish those that pass or are empty.

    `caught_by` is who holds rows against the rules: Polars here, or Spark (tasks/adapters/spark.py), with the same rows.
    Without `publish` every day is judged, accepted or not, and nothing changes in the store. The summary's `verdict` is
    that of the last day: an older day that was refused stays out and does not stop today's. Writes report.md,
    report.html, data_docs/ and quarantine.parquet under `out`.

    Raises:
        InputRejected: a day is not landed, or one of its objects is not what its manifest says.
    """
    began = time.monotonic()
    if not days:
        raise InputRejected("no day to validate; ingest lands days first")
    days = sorted(set(days))
    known, released, landed = accepted_revisions(store), releases(store), landed_revisions(store)

    def is_new(day: str) -> bool:
        return (
            not publish
            or day not in known
            or _changed(store, day, known[day], landed.get(day, 1), released.get(day, {}))
        )

    new = [day for day in days if is_new(day)]
    judged: list[JudgedDay] = []
    tables = Tables(lambda sha256: read_catalogue(store, sha256))
    past = _recall(store, sorted(day for day in known if day not in new), new, policy.reference_days)
    with _Quarantine(out) as quarantine, Progress("validate", len(new), "days") as bar:
        manifests = _manifests(store, new)
        tables_of_days = (_landed(store, manifest, released) for manifest in manifests.values())
        for day in judge_days(tables_of_days, policy, past, tables, caught_by):
            if publish and day.verdict in ("pass", "empty", "released"):
                _publish(day, manifests[day.day], store, policy, known.get(day.day, 0) + 1, released.get(day.day, {}))
            quarantine.add(day)
            log.info("partition=%s verdict=%s rows=%d caught=%d", day.day, day.verdict, day.rows, len(day.caught))
            judged.append(_slim(day))
            bar.advance(1, day.day)
    verdict = judged[-1].verdict if days[-1] in new else read_accepted_manifest(store, days[-1]).verdict
    pages = _data_docs(tables) if judged else {}
    summary = _summary(verdict, days, judged, time.monotonic() - began)
    write_report(summary, judged, pages, out)
    return summary


def load_policy(path: Path = POLICY) -> DataPolicy:
    """Read a data policy and hold it against the rules: each rule has an entry, each entry a rule."""
    try:
        policy = DataPolicy.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as err:
        raise InputRejected(f"the data policy {path.name} cannot be used: {err}") from err
    sections = (
        ("rows", {"contract", *(rule.name for rule in ROW_RULES)}, set(policy.rows)),
        ("days", {rule.name for rule in DAY_RULES}, set(policy.days)),
        ("tables", {PLANS.name, ITEMS.name}, set(policy.tables)),
        ("training", set(TRAINING), set(policy.training)),
        ("model_inputs", set(EVENT.names) & set(policy.model_inputs), set(policy.model_inputs)),
    )
    for section, known, named in sections:
        if known != named:
            lacking, surplus = sorted(known - named), sorted(named - known)
            raise InputRejected(
                f"the data policy {path.name}, {section}: missing {', '.join(lacking) or 'nothing'}, "
                f"unknown {', '.join(surplus) or 'nothing'}"
            )
    return policy


def releases(store: Store) -> dict[str, dict[str, str]]:
    """Day -> rule -> who let it pass for that day, and why; see tasks/quarantine.py."""
    return {
        key.removeprefix(RELEASED).removesuffix(".json"): json.loads(store.get(key))
        for key in store.list(RELEASED)
        if key.endswith(".json")
    }


def _changed(store: Store, day: str, revision: int, landed: int, released: dict[str, str]) -> bool:
    """Whether a person has let rules pass since the day was judged, or an erasure overtook its judgement."""
    if not released and landed == 1:
        return False
    accepted = read_accepted_manifest(store, day, revision)
    return accepted.landed_revision != landed or (bool(released) and accepted.released != released)


def _data_docs(tables: Tables) -> dict[str, str]:
    from expectations.judge import Judge  # takes seconds to import: after everything that could refuse a day

    return tables.pages(Judge())


def _recall(store: Store, accepted: list[str], new: list[str], reference_days: int) -> Past:
    """Read from the store what each new day is compared with; new days that pass add themselves.

    Of each, because one that was held months ago is new until a person lets it pass: judged without the days before it, it
    would pass by itself. And the days after it: what came once more while it was held counts there.
    """
    past = Past(reference_days)
    before = (accepted[: bisect_left(accepted, day)] for day in new)
    compared = [(next_day(day, -reference_days), next_day(day, reference_days)) for day in new]
    counted = {known for days in before for known in days[-REMEMBERED_DAYS:]}
    counted |= {known for known in accepted if any(a <= known <= b for a, b in compared)}
    with ThreadPoolExecutor(READERS) as pool:
        manifests = list(pool.map(lambda day: read_accepted_manifest(store, day), sorted(counted)))
        past.rows.update({manifest.partition: manifest.landed_rows for manifest in manifests})
        recent = [m for m in manifests if m.rows and any(a <= m.partition <= b for a, b in compared)]
        for manifest, remembered in zip(recent, pool.map(lambda m: _remembered(store, m), recent), strict=True):
            past.remember(manifest.partition, manifest.landed_rows, *remembered)
    return past


def _remembered(store: Store, manifest: AcceptedManifest) -> tuple[DayCounts, pl.DataFrame, Seen]:
    """Counts and items of a day, and what its accepted rows were."""

    def body(kind: str) -> bytes:
        file = manifest.file(kind)
        return read_file(store, accepted_key(manifest.partition, file.name), file)

    key = landed_key(manifest.partition, manifest.events.name)
    events = read_frame(store, key, manifest.events, EVENT, SEEN, coded=())
    if manifest.quarantined:
        events = events.filter(~pl.int_range(pl.len()).is_in(quarantined_rows(store, manifest).implode()))
    items = pl.read_parquet(body("items")).select(pl.col(name).cast(kind) for name, kind in ITEM_COLUMNS.items())
    return DayCounts.model_validate_json(body("counts")), items, Seen.of(events, sorted_hashes(events["event_id"]))


def quarantined_rows(store: Store, manifest: AcceptedManifest) -> pl.Series:
    caught = as_frame(read_caught(store, manifest))
    return caught.filter(pl.col(RULES) != "")["row"]


def _slim(day: JudgedDay) -> JudgedDay:
    """What the report needs of a day. The sample is copied: rows cut out of a frame keep the whole frame in memory."""
    sample = as_frame(caught_table(day.caught.head(SAMPLE_ROWS)))
    return replace(day, caught=sample, items=pl.DataFrame(schema=ITEM_COLUMNS))


def _manifests(store: Store, days: Sequence[str]) -> dict[str, PartitionManifest]:
    revisions = landed_revisions(store)
    missing = [day for day in days if day not in revisions]
    if missing:
        raise InputRejected(f"{missing[0]} is not landed; run `python -m tasks ingest --partition {missing[0]}` first")
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda day: read_landed_manifest(store, day, revisions[day]), days)
        return dict(zip(days, found, strict=True))


def landed_events(store: Store, day: str) -> bytes:
    """The landed file of a day's events, verified."""
    manifest = _manifests(store, [day])[day]
    events = manifest.file("events")
    return read_file(store, landed_key(day, events.name), events)


def _landed(store: Store, manifest: PartitionManifest, released: dict[str, dict[str, str]]) -> LandedDay:
    day, events, plan = manifest.partition, manifest.file("events"), manifest.file("plan")
    return LandedDay(
        day=day,
        events=read_frame(store, landed_key(day, events.name), events, EVENT),
        plan=read_table(store, landed_key(day, plan.name), plan, PLAN),
        plan_sha256=plan.sha256,
        catalogue_sha256=manifest.catalogue,
        released=released.get(day, {}),
    )


def _publish(
    day: JudgedDay, landed: PartitionManifest, store: Store, policy: DataPolicy, revision: int, released: dict[str, str]
) -> None:
    """accepted/dt=DAY, manifest last. What is written depends on content only, so that two copies of a task agree."""
    report = {"day": day.day, "verdict": day.verdict, "findings": [finding.model_dump() for finding in day.findings]}
    files = [
        described("caught", parquet_bytes(caught_table(day.caught)), len(day.caught)),
        described("report", canonical_json(report), len(day.findings), ".json"),
        described("counts", day.counts.model_dump_json().encode(), 1, ".json"),
        described("items", parquet_bytes(day.items.to_arrow()), len(day.items)),
    ]
    verdict = day.verdict if day.verdict in ("empty", "released") else "pass"
    manifest = AcceptedManifest(
        partition=day.day,
        revision=revision,
        verdict=verdict,
        files=tuple(file for file, _ in files),
        rows=day.accepted,
        landed_rows=day.rows,
        quarantined=day.quarantined,
        marked=day.marked,
        events=landed.file("events"),
        plan=landed.file("plan"),
        catalogue=landed.catalogue,
        users=landed.users,
        partition_digest=landed.digest,
        landed_revision=landed.revision,
        released=released,
        policy_digest=digest_of(policy.model_dump()),
    )
    put_day(store, accepted_key(day.day, ""), files, manifest)


def _summary(verdict: str, days: list[str], judged: list[JudgedDay], seconds: float) -> dict[str, Any]:
    def by_rule(counts: Iterator[dict[str, int]]) -> dict[str, int]:
        total: Counter[str] = Counter()
        for one in counts:
            total.update(one)
        return dict(sorted(total.items()))

    return {
        "verdict": verdict,
        "partition": days[-1],
        "days": {day.day: {"verdict": day.verdict, "rows": day.rows, "accepted": day.accepted} for day in judged},
        "already_accepted": len(days) - len(judged),
        "not_accepted": [day.day for day in judged if day.verdict in ("hold", "refuse")],
        "reasons": {day.day: day.reasons for day in judged if day.verdict in ("hold", "refuse")},
        "rows": sum(day.rows for day in judged),
        "accepted": sum(day.accepted for day in judged),
        "quarantined": sum(day.rows - day.accepted for day in judged),
        "quarantined_by_rule": by_rule(day.quarantined for day in judged),
        "marked_by_rule": by_rule(day.marked for day in judged),
        "seconds": round(seconds, 2),
    }


class _Quarantine:
    """quarantine.parquet: every caught row of this call, refused days included, for a person to look at."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._schema = caught_table(pl.DataFrame()).append_column("partition", pa.array([], pa.string())).schema
        self._file = pq.ParquetWriter(out / "quarantine.parquet", self._schema, compression="zstd")

    def __enter__(self) -> _Quarantine:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, day: JudgedDay) -> None:
        if len(day.caught):
            named = pa.array([day.day] * len(day.caught), pa.string())
            self._file.write_table(caught_table(day.caught).append_column("partition", named).cast(self._schema))


def caught_table(frame: pl.DataFrame) -> pa.Table:
    """row, the event's columns, `rules` that quarantine the row (or nothing), `marks`."""
    if frame.is_empty():
        frame = pl.DataFrame(schema={ROW: pl.Int64, **dict.fromkeys((*EVENT.names, RULES, MARKS), pl.Null)})
    table = contract_table(frame.select(EVENT.names), EVENT)
    for name in (RULES, MARKS):
        table = table.append_column(name, frame[name].cast(pl.String).to_arrow().cast(pa.string()))
    return table.add_column(0, ROW, frame[ROW].cast(pl.Int64).to_arrow())
