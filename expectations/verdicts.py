"""Judge a span of days: Great Expectations once over all rows, then the rules day by day, oldest first.

Knows no store: partitions come in as tables, verdicts go out with every row either accepted or quarantined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from expectations.judge import ROW, Judge, Judged
from expectations.rules import DAY_RULES, ROW_RULES, Day, unit_price, usual_rows
from expectations.suites import EVENTS, ITEMS, PLANS, Suite
from tasks.domain.behaviour import next_day
from tasks.domain.contract import EVENT
from tasks.domain.data_policy import DataPolicy, Finding, Verdict, judge_rows, verdict_of

RULES = "rules"  # column of the quarantine: the rules that caught the row, joined by commas
REFERENCE = {"event_id": pl.String, "item_id": pl.String, "price": pl.Float64}


@dataclass(frozen=True, slots=True)
class LandedDay:
    """What there is to judge: one day's tables, as landed, and which item table they name."""

    day: str
    events: pa.Table
    plan: pa.Table
    plan_sha256: str
    catalogue_sha256: str


@dataclass(frozen=True, slots=True)
class JudgedDay:
    """The verdict on one day with everything that led to it. accepted + quarantine = the landed rows."""

    day: str
    verdict: Verdict
    rows: int
    findings: tuple[Finding, ...]
    accepted: pl.DataFrame
    quarantine: pl.DataFrame
    usual: tuple[float, float] | None  # the row-count band it was held against

    @property
    def marked(self) -> dict[str, int]:
        return {finding.rule: finding.rows for finding in self.findings if finding.outcome == "mark"}

    @property
    def quarantined(self) -> dict[str, int]:
        caught = Counter(rule for rules in self.quarantine[RULES] for rule in rules.split(","))
        return dict(sorted(caught.items()))

    @property
    def reasons(self) -> list[str]:
        """The sentences of everything that was not plainly right, worst first."""
        order = {"refuse": 0, "hold": 1, "quarantine": 2, "mark": 3}
        noted = [finding for finding in self.findings if finding.outcome != "pass"]
        return [f"{f.outcome}: {f.sentence}" for f in sorted(noted, key=lambda f: order[f.outcome])]


@dataclass(slots=True)
class Past:
    """What was accepted before the day under judgement; grows as days pass."""

    days: int
    rows: dict[str, int] = field(default_factory=dict)
    _reference: dict[str, pl.DataFrame] = field(default_factory=dict)

    def remember(self, day: str, accepted: pl.DataFrame, rows: int) -> None:
        self.rows[day] = rows
        self._reference[day] = accepted.select("event_id", "item_id", unit_price().alias("price"))

    def before(self, day: str) -> pl.DataFrame:
        """Event ids and unit prices of the accepted days right before `day`."""
        oldest = next_day(day, -self.days)
        self._reference = {known: frame for known, frame in self._reference.items() if known >= oldest}
        frames = [frame for known, frame in self._reference.items() if known < day]
        return pl.concat([pl.DataFrame(schema=REFERENCE), *frames])


@dataclass(slots=True)
class Catalogues:
    """Item tables by sha256, each read and judged once."""

    read: Callable[[str], pa.Table]
    judge: Judge
    pages: dict[str, str]
    _ids: dict[str, pl.Series] = field(default_factory=dict)
    _faults: dict[str, str] = field(default_factory=dict)

    def look_up(self, sha256: str) -> tuple[pl.Series, str]:
        """(item ids, what is wrong with the table or nothing)."""
        if sha256 not in self._ids:
            frame = _frame(self.read(sha256)).with_row_index(ROW)
            judged, self.pages[ITEMS.name] = self.judge.judge(ITEMS, frame)
            self._ids[sha256] = frame["item_id"].drop_nulls().unique()
            self._faults[sha256] = _fault(judged)
        return self._ids[sha256], self._faults[sha256]


def judge_days(
    days: Sequence[LandedDay], policy: DataPolicy, past: Past, judge: Judge, catalogues: Catalogues
) -> Iterator[JudgedDay]:
    """Yield a verdict for each day, in order. Days that pass join `past` before the next one is judged."""
    events = pl.concat([_frame(day.events) for day in days]).with_row_index(ROW)
    judged, catalogues.pages[EVENTS.name] = judge.judge(EVENTS, events)
    _require_evaluated(EVENTS, judged)
    plan_faults = _judge_plans(days, judge, catalogues.pages)
    first = 0
    for day in days:
        mine = events.slice(first, day.events.num_rows)
        first += len(mine)
        ids, item_fault = catalogues.look_up(day.catalogue_sha256)
        context = Day(day.day, mine, ids, past.before(day.day), past.rows)
        faults = {PLANS.name: plan_faults[day.plan_sha256], ITEMS.name: item_fault}
        verdict = _judge_day(context, judged, faults, policy)
        if verdict.verdict == "pass":
            past.remember(day.day, verdict.accepted, verdict.rows)
        yield verdict


def _judge_day(day: Day, contract: Sequence[Judged], faults: dict[str, str], policy: DataPolicy) -> JudgedDay:
    rows = len(day.events)
    findings: list[Finding] = []
    caught: dict[str, pl.Series] = {}
    rule = policy.rows["contract"]
    for one in contract:
        name = one.expectation.name
        hits = day.events[ROW].is_in(pl.Series(one.rows, dtype=pl.UInt32).implode())
        findings.append(judge_rows(name, rule, int(hits.sum()), rows, one.expectation.reason))
        if rule.action == "quarantine":
            caught[name] = hits
    for row_rule in ROW_RULES:
        rule = policy.rows[row_rule.name]
        hits = row_rule.catch(day, rule.settings)
        findings.append(judge_rows(row_rule.name, rule, int(hits.sum()), rows, row_rule.reason))
        if rule.action == "quarantine":
            caught[row_rule.name] = hits
    for day_rule in DAY_RULES:
        sentence = day_rule.check(day, policy.days[day_rule.name].settings, policy.model_inputs) if rows else None
        findings.append(_of_day(day_rule.name, sentence, policy.days[day_rule.name].action, day_rule.reason))
    for table, fault in faults.items():
        findings.append(_of_day(table, fault or None, policy.tables[table].action, "the day cannot be read without it"))
    accepted, quarantine = _split(day.events, caught)
    return JudgedDay(
        day=day.day,
        verdict=verdict_of(findings, rows),
        rows=rows,
        findings=tuple(findings),
        accepted=accepted,
        quarantine=quarantine,
        usual=usual_rows(day.day, day.rows_before, policy.days["row_count"].settings),
    )


def _of_day(name: str, sentence: str | None, action: str, reason: str) -> Finding:
    if sentence is None:
        return Finding(rule=name, outcome="pass", rows=0, sentence=f"{name}: as expected")
    return Finding.model_validate(
        {"rule": name, "outcome": action, "rows": 0, "sentence": f"{name}: {sentence}; {reason}"}
    )


def _split(events: pl.DataFrame, caught: dict[str, pl.Series]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(rows that no rule caught, rows with the rules that caught them); together all rows, in the landed order."""
    names = [pl.when(hits).then(pl.lit(name)) for name, hits in caught.items() if hits.any()]
    if not names:
        return events.select(EVENT.names), events.clear().select(*EVENT.names, pl.lit("").alias(RULES))
    marked = events.with_columns(pl.concat_str(names, separator=",", ignore_nulls=True).alias(RULES))
    return (
        marked.filter(pl.col(RULES) == "").select(EVENT.names),
        marked.filter(pl.col(RULES) != "").select(*EVENT.names, RULES),
    )


def _judge_plans(days: Sequence[LandedDay], judge: Judge, pages: dict[str, str]) -> dict[str, str]:
    """Content of a plan -> what is wrong with it, or nothing. A plan stays the same for a week: each is judged once."""
    distinct = {day.plan_sha256: day.plan for day in days}
    names, frames = list(distinct), [_frame(plan) for plan in distinct.values()]
    numbered = [frame.with_columns(pl.lit(n, pl.Int32).alias("partition")) for n, frame in enumerate(frames)]
    frame = pl.concat(numbered).with_row_index(ROW)
    judged, pages[PLANS.name] = judge.judge(PLANS, frame)
    _require_evaluated(PLANS, judged)
    faults = dict.fromkeys(names, "")
    for one in judged:
        hits = frame.filter(pl.col(ROW).is_in(pl.Series(one.rows, dtype=pl.UInt32).implode()))
        for number, count in hits["partition"].value_counts().iter_rows():
            faults[names[number]] += (
                f"{'; ' * bool(faults[names[number]])}{one.expectation.name} fails for {count} rows"
            )
    return faults


def _fault(judged: Sequence[Judged]) -> str:
    broken = [f"{one.expectation.name} fails for {len(one.rows)} rows" for one in judged if not one.success]
    return "; ".join(broken)


def _require_evaluated(suite: Suite, judged: Sequence[Judged]) -> None:
    """An expectation that could not run, or failed without naming rows, must not count as held."""
    for one in judged:
        if one.error or (not one.success and not one.rows):
            raise RuntimeError(f"expectation {suite.name}.{one.expectation.name} could not be evaluated: {one.error}")


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
