"""Trials -> error rates with exact intervals, and whether they break their bars. Clopper and Pearson, Biometrika 1934.

Intervals take trials as independent; trials of one night share their models and slates, so true ones are wider.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from tasks.domain.gate import GatePolicy
from tasks.gate_trials.trials import Scores, Times, Trial, against_itself, broken, hurts, kinds_of, planted, slower

MOST = 5.0  # per cent: of sound candidates that fail, and of damaged ones at twice the margin that are promoted
REFUSED = ("fail", "refused")
TWICE = 2.0
Share = tuple[float, float, float]  # per cent: share, and the ends of its 95 % interval


@dataclass(frozen=True)
class Found:
    """All trials of one night; `by_kind` at twice the margin, `by_level` of all kinds at other multiples of it."""

    itself: list[Trial]
    by_kind: dict[str, list[Trial]]
    by_level: dict[float, list[Trial]]
    by_name: dict[str, list[Trial]]
    weak: list[str]  # kinds that lose less than twice the margin even for all users

    @property
    def twice(self) -> list[Trial]:
        return [trial for trials in self.by_kind.values() for trial in trials]


def run_trials(
    scores: Scores,
    policy: GatePolicy,
    times: Times,
    *,
    itself: int,
    each: int,
    other_levels: Sequence[float] = (),
    fewer: int = 6,
) -> Found:
    """`itself`: trials of sound models; `each`: of each kind at twice the margin; `fewer`: at every other level."""
    by_kind: dict[str, list[Trial]] = {}
    by_level: dict[float, list[Trial]] = defaultdict(list)
    weak = []
    for kind in kinds_of(scores):
        metric, whole = hurts(scores, kind, policy)
        if whole < TWICE:
            weak.append(f"{kind.name} ({whole:.2f} margins of {metric})")
            continue
        name = f"{kind.name}, {TWICE / whole:.0%} of users, {metric}"
        by_kind[name] = planted(scores, kind, TWICE, policy, times, each)
        for level in other_levels:
            by_level[level] += planted(scores, kind, level, policy, times, fewer)
    if times:
        for tail, name in ((False, "slower_requests"), (True, "slower_tail")):
            by_kind[f"{name}, real timings scaled"] = slower(scores, policy, times, TWICE, each, tail=tail)
    return Found(
        itself=against_itself(scores, policy, times, itself),
        by_kind=by_kind,
        by_level=dict(by_level),
        by_name=broken(scores, policy, times, fewer),
        weak=weak,
    )


def share(trials: Sequence[Trial], *outcomes: str) -> Share:
    """How many of the trials ended so."""
    return interval(sum(trial.ours in outcomes for trial in trials), len(trials))


def interval(hits: int, n: int) -> Share:
    ends = binomtest(hits, n).proportion_ci(0.95, method="exact")
    return 100 * hits / n, 100 * ends.low, 100 * ends.high


def verdict(found: Found) -> dict[str, Any]:
    """{sentence, broken, false_block, false_promote, ...}, each share with both ends of its interval.

    A bar is broken where the whole interval lies beyond it, and shown to hold where all of it lies within.
    """
    shares = {
        "false_block": share(found.itself, *REFUSED),
        "unsure_of_itself": share(found.itself, "inconclusive"),
        "false_promote": share(found.twice, "pass"),
    }
    broken_bars = [
        f"{name.replace('_', ' ')} {told(shares[name])} % is above {MOST:g} %"
        for name in ("false_block", "false_promote")
        if shares[name][1] > MOST
    ]
    unsure = [name for name in ("false_block", "false_promote") if shares[name][1] <= MOST < shares[name][2]]
    said = (
        f"of {len(found.itself)} sound candidates {told(shares['false_block'])} % fail, of {len(found.twice)} that lose twice "
        f"the margin in {len(found.by_kind)} ways {told(shares['false_promote'])} % are promoted"
    )
    if broken_bars:
        said = f"the gate breaks its bar: {'; '.join(broken_bars)}. {said}"
    elif unsure:
        said += f"; {' and '.join(unsure)} not shown to hold: more trials or slates are needed"
    numbers = {
        f"{name}{end}": round(of[n], 2) for name, of in shares.items() for n, end in enumerate(("", "_low", "_high"))
    }
    return {
        "sentence": said,
        "broken": bool(broken_bars),
        "shown": not broken_bars and not unsure,
        "trials_itself": len(found.itself),
        "trials_damaged": len(found.twice),
        "kinds": len(found.by_kind),
        **numbers,
    }


def told(of: Share) -> str:
    return f"{of[0]:.1f} ({of[1]:.1f}-{of[2]:.1f})"


HEAD = ("planted", "trials", "fail, %", "inconclusive, %", "promoted, %", "higher mean, %", "threshold, %", "by")


def rows_of(found: Found) -> list[tuple[str, ...]]:
    """The table: one row each kind at twice the margin, and the sums. Two simpler rules say what they would promote."""
    rows = [row("nothing: another seed", found.itself)]
    rows += [row(name, trials) for name, trials in found.by_kind.items()]
    rows += [row(f"all kinds at {level:g} x margin", trials) for level, trials in sorted(found.by_level.items())]
    rows.append(row(f"all kinds at {TWICE:g} x margin", found.twice))
    return rows + [row(name, trials) for name, trials in found.by_name.items()]


def row(name: str, trials: Sequence[Trial]) -> tuple[str, ...]:
    first = Counter(trial.by[0] for trial in trials if trial.ours != "pass" and trial.by)
    by = ", ".join(finding for finding, _ in first.most_common(2))
    cells = [told(share(trials, *outcomes)) for outcomes in (REFUSED, ("inconclusive",), ("pass",))]
    for rule in ("point", "threshold"):
        cells.append(told(interval(sum(getattr(trial, rule) for trial in trials), len(trials))))
    refused = any(trial.ours == "refused" for trial in trials)
    return (name, str(len(trials)), *cells, by or "by name" * refused)


def as_json(found: Found) -> dict[str, Any]:
    table: list[Mapping[str, str]] = [dict(zip(HEAD, cells, strict=True)) for cells in rows_of(found)]
    return {**verdict(found), "bar": MOST, "table": table, "weaker_than_twice_the_margin": found.weak}
