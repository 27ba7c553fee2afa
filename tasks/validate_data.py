"""Decide, day by day, whether landed behaviour data may be believed; publish what may, quarantine what may not.

Rows are never deleted: each is accepted, or stands in the quarantine with the rules that caught it. A refused or held
day is not published, so everything downstream goes on with the days before it. Never sees a raw user id.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import yaml
from pydantic import ValidationError

from expectations.judge import Judge
from expectations.rules import DAY_RULES, ROW_RULES
from expectations.suites import ITEMS, PLANS
from expectations.verdicts import RULES, Catalogues, JudgedDay, LandedDay, Past, judge_days
from tasks.adapters.partitions import (
    READERS,
    Partition,
    accepted_days,
    accepted_key,
    contract_table,
    described,
    parquet_bytes,
    put_day,
    read_accepted_events,
    read_accepted_manifest,
    read_catalogue,
    read_partitions,
)
from tasks.adapters.store import Store
from tasks.data_report import write_report
from tasks.domain.behaviour import AcceptedManifest, next_day
from tasks.domain.contract import EVENT
from tasks.domain.data_policy import DataPolicy
from tasks.domain.errors import InputRejected
from tasks.domain.manifest import canonical_json, digest_of

log = logging.getLogger("freshrank.validate_data")
POLICY = Path(__file__).with_name("policies") / "data.yaml"
REMEMBERED_DAYS = 120  # row counts of this many accepted days are read for the weekday bands


def validate_data(days: list[str], store: Store, policy: DataPolicy, out: Path) -> dict[str, Any]:
    """Judge the days that are not accepted yet, oldest first, and publish those that pass or are empty.

    The summary's `verdict` is that of the last day: an older day that was refused stays out and does not stop today's.
    Writes report.md, report.html, data_docs/ and quarantine.parquet under `out`.

    Raises:
        InputRejected: a day is not landed, or one of its objects is not what its manifest says.
    """
    began = time.monotonic()
    if not days:
        raise InputRejected("no day to validate; ingest lands days first")
    days = sorted(set(days))
    present = set(accepted_days(store))
    new = [day for day in days if day not in present]
    judged: list[JudgedDay] = []
    pages: dict[str, str] = {}
    if new:
        partitions = read_partitions(store, new)
        judge = Judge()
        past = _recall(store, sorted(day for day in present if day < new[-1]), new[0], policy.reference_days)
        catalogues = Catalogues(lambda sha256: read_catalogue(store, sha256), judge, pages)
        landed = [_landed(partition) for partition in partitions]
        for partition, day in zip(partitions, judge_days(landed, policy, past, judge, catalogues), strict=True):
            if day.verdict in ("pass", "empty"):
                _publish(day, partition, store, policy)
            log.info("partition=%s verdict=%s rows=%d caught=%d", day.day, day.verdict, day.rows, len(day.quarantine))
            judged.append(day)
    verdict = judged[-1].verdict if days[-1] in new else read_accepted_manifest(store, days[-1]).verdict
    summary = _summary(verdict, days, judged, time.monotonic() - began)
    _write_quarantine(judged, out)
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


def _recall(store: Store, accepted: list[str], first_new: str, reference_days: int) -> Past:
    """Read from the store what the first new day is compared with; later days add themselves."""
    recent = {day for day in accepted if day >= next_day(first_new, -reference_days)}
    counted = accepted[-REMEMBERED_DAYS:]
    past = Past(reference_days)
    with ThreadPoolExecutor(READERS) as pool:
        manifests = pool.map(lambda day: read_accepted_manifest(store, day), counted)
        tables = pool.map(lambda day: read_accepted_events(store, day) if day in recent else None, counted)
        for day, manifest, table in zip(counted, manifests, tables, strict=True):
            if table is None:
                past.rows[day] = manifest.landed_rows
            else:
                past.remember(day, pl.DataFrame(table), manifest.landed_rows)
    return past


def _landed(partition: Partition) -> LandedDay:
    manifest = partition.manifest
    return LandedDay(
        day=manifest.partition,
        events=partition.events,
        plan=partition.plan,
        plan_sha256=manifest.file("plan").sha256,
        catalogue_sha256=manifest.catalogue,
    )


def _publish(day: JudgedDay, partition: Partition, store: Store, policy: DataPolicy) -> None:
    """accepted/dt=DAY, manifest last. What is written depends on content only, so that two copies of a task agree."""
    report = {"day": day.day, "verdict": day.verdict, "findings": [finding.model_dump() for finding in day.findings]}
    files = [
        described("accepted", parquet_bytes(contract_table(day.accepted, EVENT)), len(day.accepted)),
        described("quarantine", parquet_bytes(_quarantine_table(day.quarantine)), len(day.quarantine)),
        described("report", canonical_json(report), len(day.findings), ".json"),
    ]
    manifest = AcceptedManifest(
        partition=day.day,
        verdict="pass" if day.verdict == "pass" else "empty",
        files=tuple(file for file, _ in files),
        rows=len(day.accepted),
        landed_rows=day.rows,
        quarantined=day.quarantined,
        marked=day.marked,
        catalogue=partition.manifest.catalogue,
        plan=partition.manifest.file("plan"),
        partition_digest=partition.manifest.digest,
        policy_digest=digest_of(policy.model_dump()),
    )
    put_day(store, accepted_key(day.day, ""), files, manifest)


def _summary(verdict: str, days: list[str], judged: list[JudgedDay], seconds: float) -> dict[str, Any]:
    quarantined: Counter[str] = Counter()
    for day in judged:
        quarantined.update(day.quarantined)
    return {
        "verdict": verdict,
        "partition": days[-1],
        "days": {day.day: {"verdict": day.verdict, "rows": day.rows, "accepted": len(day.accepted)} for day in judged},
        "already_accepted": len(days) - len(judged),
        "not_accepted": [day.day for day in judged if day.verdict in ("hold", "refuse")],
        "reasons": {day.day: day.reasons for day in judged if day.verdict in ("hold", "refuse")},
        "rows": sum(day.rows for day in judged),
        "accepted": sum(len(day.accepted) for day in judged),
        "quarantined": sum(len(day.quarantine) for day in judged),
        "quarantined_by_rule": dict(sorted(quarantined.items())),
        "marked_by_rule": dict(sorted(sum((Counter(day.marked) for day in judged), Counter()).items())),
        "seconds": round(seconds, 2),
    }


def _write_quarantine(judged: list[JudgedDay], out: Path) -> None:
    """Every caught row of this call, refused days included, for a person to look at."""
    out.mkdir(parents=True, exist_ok=True)
    caught = pa.concat_tables(
        [_quarantine_table(day.quarantine, day.day) for day in judged] or [_quarantine_table(pl.DataFrame(), "")]
    )
    (out / "quarantine.parquet").write_bytes(parquet_bytes(caught))


def _quarantine_table(frame: pl.DataFrame, day: str | None = None) -> pa.Table:
    """Event columns, then `rules`, then, where days are mixed, `partition`."""
    if frame.is_empty():
        frame = pl.DataFrame(schema=dict.fromkeys((*EVENT.names, RULES), pl.Null))
    table = contract_table(frame.select(EVENT.names), EVENT)
    table = table.append_column(RULES, frame[RULES].cast(pl.String).to_arrow().cast(pa.string()))
    return table if day is None else table.append_column("partition", pa.array([day] * len(frame), pa.string()))
