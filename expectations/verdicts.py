"""Judge days, oldest first: Great Expectations' suites, the rules about rows, then the rules about the day as a whole.

Knows no store: a day comes in as tables and goes out as a verdict, with every row either sound or caught by name. Days
are judged one at a time and not kept, so a year costs the memory of its largest day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from expectations.day import CatchRows, Day
from expectations.day_rules import DAY_RULES, drift_limits, usual_rows, usual_visits
from expectations.judge import Judge
from expectations.past import Past
from expectations.profile import ROW, Profile, broken
from expectations.row_rules import ROW_RULES, none_of
from expectations.suites import EVENTS, ITEMS, PLANS, Suite
from tasks.domain.contract import EVENT
from tasks.domain.data_policy import DataPolicy, DayCounts, DayRule, Finding, RowRule, Verdict, judge_rows, verdict_of

RULES = "rules"  # column of the table of caught rows: what quarantines the row, joined by commas; empty: only marked
MARKS = "marks"  # what marks it
REASONS = {one.name: one.reason for one in EVENTS.expectations} | {rule.name: rule.reason for rule in ROW_RULES}
AHEAD = 1  # days that are prepared while one is judged; each costs its memory


@dataclass(frozen=True, slots=True)
class LandedDay:
    """What there is to judge: one day's tables, as landed, and which item table they name."""

    day: str
    events: pl.DataFrame
    plan: pa.Table
    plan_sha256: str
    catalogue_sha256: str
    released: Mapping[str, str] = field(default_factory=dict)  # rule -> who let it pass for this day, and why


@dataclass(frozen=True, slots=True)
class JudgedDay:
    """The verdict on one day with everything that led to it. Rows that are not in `caught` are sound."""

    day: str
    verdict: Verdict
    rows: int
    accepted: int
    findings: tuple[Finding, ...]
    quarantined: dict[str, int]  # rule -> rows; a row can be caught by several
    marked: dict[str, int]
    caught: pl.DataFrame  # row, the event's columns, rules, marks
    counts: DayCounts  # of the accepted rows
    items: pl.DataFrame  # likewise, by item
    usual: tuple[float, float] | None  # the row-count band it was held against
    usual_visits: tuple[float, ...]  # by hour
    drift_limits: dict[str, float]  # dimension -> the Jensen-Shannon divergence that was allowed

    @property
    def quarantine(self) -> pl.DataFrame:
        return self.caught.filter(pl.col(RULES) != "")

    @property
    def reasons(self) -> list[str]:
        """The sentences of everything that was not plainly right, worst first."""
        order = {"refuse": 0, "hold": 1, "quarantine": 2, "mark": 3}
        noted = [finding for finding in self.findings if finding.outcome != "pass"]
        return [f"{f.outcome}: {f.sentence}" for f in sorted(noted, key=lambda f: order[f.outcome])]


@dataclass(slots=True)
class Tables:
    """What is judged once, not once a day: item tables by sha256, plans by sha256; and the profile of every table."""

    read_catalogue: Callable[[str], pa.Table]
    profiles: dict[str, Profile] = field(default_factory=dict)
    _catalogues: dict[str, pl.DataFrame] = field(default_factory=dict)
    _faults: dict[tuple[str, str], str] = field(default_factory=dict)

    def catalogue(self, sha256: str) -> tuple[pl.DataFrame, str]:
        """(item_id and category, what is wrong with the table or nothing)."""
        if sha256 not in self._catalogues:
            frame = as_frame(self.read_catalogue(sha256))
            self._faults[ITEMS.name, sha256] = self._judged(ITEMS, frame)
            named = frame.select("item_id", category=pl.col("category_path").str.split(" > ").list.first())
            self._catalogues = {sha256: named.drop_nulls("item_id").unique("item_id", keep="first")}
        return self._catalogues[sha256], self._faults[ITEMS.name, sha256]

    def plan_fault(self, sha256: str, plan: pa.Table) -> str:
        """A plan stays the same for a week: each is judged once."""
        if (PLANS.name, sha256) not in self._faults:
            self._faults[PLANS.name, sha256] = self._judged(PLANS, as_frame(plan))
        return self._faults[PLANS.name, sha256]

    def add(self, events: pl.DataFrame, masks: Mapping[str, pl.Series]) -> None:
        """To the profile of all days, which numbers rows on from day to day."""
        known = self.profiles.get(EVENTS.name)
        profile = Profile.of(EVENTS, events.with_columns(pl.col(ROW) + (known.rows if known else 0)), masks)
        self.profiles[EVENTS.name] = known + profile if known else profile

    def pages(self, judge: Judge) -> dict[str, str]:
        """Great Expectations' own judgement of everything seen, as Data Docs; suite name -> page."""
        pages = {}
        for suite in (EVENTS, PLANS, ITEMS):
            if profile := self.profiles.get(suite.name):
                judged, pages[suite.name] = judge.judge_profile(suite, profile)
                for one in judged:  # it must find what stopped or let pass the days, no more and no less
                    if one.error or one.success != (profile.found[one.expectation.name].count == 0):
                        raise RuntimeError(f"{suite.name}.{one.expectation.name} was not evaluated: {one.error}")
        return pages

    def _judged(self, suite: Suite, frame: pl.DataFrame) -> str:
        """What is wrong with one table. The page shows the newest one, or one that is wrong."""
        frame = frame.with_row_index(ROW)
        masks = broken(suite, frame)
        known = self.profiles.get(suite.name)
        if known is None or not any(found.count for found in known.found.values()):
            self.profiles[suite.name] = Profile.of(suite, frame, masks)
        return "; ".join(f"{name} fails for {rows} rows" for name, mask in masks.items() if (rows := mask.sum()))


# which rows of a day each expectation, and each rule that asks for no past, catches
CaughtBy = Callable[[Day, DataPolicy], dict[str, pl.Series]]


def caught_here(day: Day, policy: DataPolicy) -> dict[str, pl.Series]:
    """By Polars, in this process."""
    rules = {rule.name: _catch(rule, day, policy) for rule in ROW_RULES if not rule.by_the_past}
    return broken(EVENTS, day.events) | rules


def judge_days(
    days: Iterable[LandedDay], policy: DataPolicy, past: Past, tables: Tables, caught_by: CaughtBy = caught_here
) -> Iterator[JudgedDay]:
    """Yield a verdict for each day, in order. Days that pass join `past` before the next one is judged.

    While one day is judged, the next ones are read, and all is done for them that their past does not decide.
    """
    ahead = iter(days)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(AHEAD) as workers:

        def following() -> Future[Prepared | None]:
            landed = reader.submit(_read, ahead, tables)  # one reader, or two days could change places
            return workers.submit(lambda: _prepare(landed.result(), policy, past, caught_by))

        prepared = deque(following() for _ in range(AHEAD))
        while (ready := prepared.popleft().result()) is not None:
            prepared.append(following())
            yield _judge(ready, policy, past, tables)
            del ready  # or the day would stay in memory while the one after the next is read


@dataclass(frozen=True, slots=True)
class Read:
    """A day with the item table that it names."""

    landed: LandedDay
    catalogue: pl.DataFrame
    faults: dict[str, str]  # table -> what is wrong with it


@dataclass(frozen=True, slots=True)
class Prepared:
    """A day of which everything is known that its past does not decide."""

    day: Day
    hits: dict[str, pl.Series]  # expectation or rule -> rows that it catches
    faults: dict[str, str]
    released: Mapping[str, str]


def _read(ahead: Iterator[LandedDay], tables: Tables) -> Read | None:
    landed = next(ahead, None)
    if landed is None:
        return None
    catalogue, item_fault = tables.catalogue(landed.catalogue_sha256)
    plan_fault = tables.plan_fault(landed.plan_sha256, landed.plan)
    return Read(landed, catalogue, {PLANS.name: plan_fault, ITEMS.name: item_fault})


def _prepare(read: Read | None, policy: DataPolicy, past: Past, caught_by: CaughtBy) -> Prepared | None:
    if read is None:
        return None
    landed, events = read.landed, read.landed.events.with_row_index(ROW)
    day = Day(landed.day, events, read.catalogue, past, events, policy.model_inputs)
    return Prepared(day, caught_by(day, policy), read.faults, landed.released)


def _judge(ready: Prepared, policy: DataPolicy, past: Past, tables: Tables) -> JudgedDay:
    tables.add(ready.day.events, {one.name: ready.hits[one.name] for one in EVENTS.expectations})
    past.forget(ready.day.day)
    with ThreadPoolExecutor(2) as pool:  # half of these rules keep one core busy while the other idles
        rules = [rule for rule in ROW_RULES if rule.by_the_past]
        found = pool.map(lambda rule: _catch(rule, ready.day, policy), rules)
        hits = ready.hits | {rule.name: caught for rule, caught in zip(rules, found, strict=True)}
    judged, day = _judge_day(ready.day, hits, ready.faults, policy, ready.released)
    if judged.verdict in ("pass", "released"):
        past.remember(judged.day, judged.rows, judged.counts, judged.items, day.seen)
    return judged


def _catch(rule: CatchRows, day: Day, policy: DataPolicy) -> pl.Series:
    told = policy.rows[rule.name]
    return none_of(day) if told.action == "off" else rule.catch(day, told.settings)


def _row_rule(name: str, policy: DataPolicy, released: Mapping[str, str]) -> RowRule:
    """What the policy says of an expectation or a rule, and what a person has let pass on this day."""
    rule = policy.rows[name if name in policy.rows else "contract"]
    if name in released and rule.action != "off":
        return rule.model_copy(update={"action": "mark", "budget": 1.0})
    return rule


def _sound(day: Day, hits: Mapping[str, pl.Series], policy: DataPolicy, released: Mapping[str, str]) -> pl.DataFrame:
    """The day's rows without those that any of `hits` quarantines, in the landed order."""
    caught = [
        mask for name, mask in hits.items() if _row_rule(name, policy, released).action == "quarantine" and mask.any()
    ]
    return day.events.filter(~_any(caught)) if caught else day.events


def _judge_day(
    day: Day,
    hits: Mapping[str, pl.Series],
    faults: Mapping[str, str],
    policy: DataPolicy,
    released: Mapping[str, str],
) -> tuple[JudgedDay, Day]:
    """(the verdict, the day with its sound rows)."""
    rows = len(day.events)
    findings: list[Finding] = []
    caught: dict[str, dict[str, pl.Series]] = {"quarantine": {}, "mark": {}}
    for name, reason in REASONS.items():
        rule, count = _row_rule(name, policy, released), int(hits[name].sum())
        told = f"{reason}; let pass by {released[name]}" if name in released else reason
        findings.append(judge_rows(name, rule, count, rows, told))
        if count and rule.action != "off":
            caught[rule.action][name] = hits[name]
    table = _caught(day.events, caught["quarantine"], caught["mark"])
    day = day.with_sound(_sound(day, hits, policy, released))
    for day_rule in DAY_RULES:
        asked = policy.days[day_rule.name]
        sentence = day_rule.check(day, asked.settings) if rows and asked.action != "off" else None
        findings.append(_of_day(day_rule.name, sentence, asked, day_rule.reason, released))
    for name, fault in faults.items():
        findings.append(
            _of_day(name, fault or None, policy.tables[name], "the day cannot be read without it", released)
        )
    judged = JudgedDay(
        day=day.day,
        verdict=verdict_of(findings, rows, released=bool(released)),
        rows=rows,
        accepted=len(day.sound),
        findings=tuple(findings),
        quarantined={name: int(hits.sum()) for name, hits in sorted(caught["quarantine"].items())},
        marked={name: int(hits.sum()) for name, hits in sorted(caught["mark"].items())},
        caught=table,
        counts=day.counts,
        items=day.items,
        usual=usual_rows(day.day, day.past.rows, policy.days["row_count"].settings),
        usual_visits=tuple(usual_visits(day).tolist()),
        drift_limits={name: js for name, (js, _) in drift_limits(day, policy.days["drift"].settings).items()},
    )
    return judged, day


def _of_day(name: str, sentence: str | None, rule: DayRule, reason: str, released: Mapping[str, str]) -> Finding:
    if rule.action == "off" or sentence is None:
        return Finding(
            rule=name, outcome="pass", rows=0, sentence=f"{name}: {'off' if rule.action == 'off' else 'as expected'}"
        )
    told = f"{name}: {sentence}; {reason}"
    if name in released:
        return Finding(rule=name, outcome="mark", rows=0, sentence=f"{told}; let pass by {released[name]}")
    return Finding(rule=name, outcome=rule.action, rows=0, sentence=told)


def _caught(events: pl.DataFrame, quarantine: Mapping[str, pl.Series], mark: Mapping[str, pl.Series]) -> pl.DataFrame:
    """The caught rows with what caught them, in the landed order."""
    names = [RULES, MARKS]
    hits: list[pl.Series] = [*quarantine.values(), *mark.values()]
    if not hits:
        return events.clear().select(ROW, *EVENT.names, *(pl.lit("").alias(name) for name in names))
    columns = [_joined(masks).alias(name) for name, masks in zip(names, (quarantine, mark), strict=True)]
    table = events.filter(_any(hits)).select(ROW, *EVENT.names)
    return table.hstack(events.select(columns).filter(_any(hits)))


def _any(masks: Sequence[pl.Series]) -> pl.Series:
    total = masks[0]
    for mask in masks[1:]:
        total = total | mask
    return total


def _joined(masks: Mapping[str, pl.Series]) -> pl.Expr:
    if not masks:
        return pl.lit("")
    named: list[Any] = [pl.when(mask).then(pl.lit(name)) for name, mask in masks.items()]
    return pl.concat_str(named, separator=",", ignore_nulls=True)


def all_rules() -> Collection[str]:
    """Every name that a finding, and a release of rows, can have."""
    return {*REASONS, *(rule.name for rule in DAY_RULES), PLANS.name, ITEMS.name}


def as_frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
