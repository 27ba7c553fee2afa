"""False aborts and detection times of the live judgement, on simulated rollouts at 200 requests a second.

    make bench NAME=live_judgement          (--part N --parts M runs a piece; the last one prints the table)

Every rollout runs the real `judge` and `next_action` under the production policy. A/A: challenger and champion are the same
release, on a machine with bursts of latency and of errors that hit both. Faults are planted from the first copy on (the
warm-up, with few copies, counts), and from the moment the challenger gets 5 % and 25 %. The peer is what is usually done:
two-sample t-tests of a fixed size, repeated at every look ("peeking"), on the same numbers; with p < .05, and with the same
correction for rules and steps that ours has.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import NormalDist, median

import numpy as np

from benchmarks._table import Row, below, publish
from tasks.domain.confidence_sequence import Sketch
from tasks.domain.copies import ALL, first_copies, next_copies
from tasks.domain.gate import Outcome
from tasks.domain.live_evidence import Sample, Window
from tasks.domain.rollout import SHADOW, Action, Position, next_action
from tasks.domain.rollout_judgement import alpha_of, judge
from tasks.policies import load_policy

RATE, ROLLOUTS = 200, 500
SEEDS = {0: 20, 2: 8, 3: 8}  # rollouts for each fault, by the step in which it begins
LOOK_S, FAULT_LOOK_S = 10.0, 0.5  # 240 looks at a good rollout; the controller looks twice a second
PIECES = Path(__file__).parent / "results" / "pieces"
BURST = 0.03  # share of looks in which the machine is three times slower, for both
TROUBLE = 0.004  # share of looks in which one request in twenty fails, for both
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
random = np.random.default_rng(0)
QUICK = Sketch.of(random.lognormal(1.8, 0.35, 100_000))  # median 6 ms, p99 14 ms
BEST = Sketch.of(random.normal(3, 0.6, 50_000))
SPREAD = Sketch.of(random.lognormal(0.5, 0.3, 50_000))


@dataclass
class Fault:
    """How a challenger is wrong. Each changes one thing."""

    name: str
    bar_s: float | None = None
    errors: float = 0.0
    timeouts: float = 0.0
    short: float = 0.0
    unusable: float = 0.0
    constant: float = 0.0
    times: Sketch = field(default_factory=lambda: QUICK)
    best: Sketch = field(default_factory=lambda: BEST)
    overlap: float = 0.6
    correlation: float = 0.5
    ndcg: float = 0.35
    conversion: float = 0.03


SLOW_TAIL = Sketch.of(
    np.where(
        random.random(100_000) < 0.02, random.lognormal(1.8, 0.35, 100_000) * 10, random.lognormal(1.8, 0.35, 100_000)
    )
)
FAULTS = (
    Fault("one score in a list is not a number, 5 % of the lists", 30, unusable=0.05),
    Fault("the same score for every item", 30, constant=1.0),
    Fault("reverse order", 30, overlap=0.02, correlation=-0.9, ndcg=0.05, conversion=0.01),
    Fault("scores shifted by ten", 30, best=Sketch.of(random.normal(13, 0.6, 50_000))),
    Fault("p99 x 3, the median as it was", 60, times=SLOW_TAIL),
    Fault("everything x 3", 60, times=Sketch.of(random.lognormal(1.8, 0.35, 100_000) * 3)),
    Fault("1 % errors", 120, errors=0.01),
    Fault("1 % timeouts", None, timeouts=0.01),
    Fault("5 % short lists more", None, short=0.05),
    Fault("half the conversion, NDCG .35 -> .20", None, ndcg=0.20, conversion=0.015),
)
GOOD = Fault("nothing")


TABLES: dict[int, tuple[np.ndarray, np.ndarray]] = {}


class TTests:
    """The peer: per rule, a test of fixed size of the sums so far, at every look. Fails on the first p below `level`."""

    def __init__(self, level: float) -> None:
        self.limit = -NormalDist().inv_cdf(level)  # one-sided: worse than the champion
        self.sums: dict[str, list[list[float]]] = {}

    def add(self, rule: str, who: int, count: int, total: float, squares: float) -> None:
        sums = self.sums.setdefault(rule, [[0, 0, 0], [0, 0, 0]])[who]
        sums[0], sums[1], sums[2] = sums[0] + count, sums[1] + total, sums[2] + squares

    def fails(self) -> bool:
        for rule, ((n, a, aa), (m, b, bb)) in self.sums.items():
            if min(n, m) < 30:
                continue
            variance = (aa / n - (a / n) ** 2) / n + (bb / m - (b / m) ** 2) / m
            if variance > 0 and (a / n - b / m) * (1 if rule != "ndcg" else -1) / variance**0.5 > self.limit:
                return True
        return False


def draw(
    rng: np.random.Generator, shape: Sketch, into: Sketch, count: int, factor_places: int = 0
) -> tuple[float, float]:
    """Add `count` values of a distribution, every one 1.02 ** factor_places times larger; their sum and sum of squares."""
    if id(shape) not in TABLES:
        found = np.fromiter(shape.buckets, int)
        TABLES[id(shape)] = found, np.fromiter(shape.buckets.values(), float) / shape.count
    places, shares = TABLES[id(shape)]
    drawn = rng.multinomial(count, shares)
    there = np.flatnonzero(drawn)
    moved, numbers = places[there] + factor_places, drawn[there]
    for place, number in zip(moved.tolist(), numbers.tolist(), strict=True):
        into.buckets[place] = into.buckets.get(place, 0) + number
    into.count += count
    values = 1e-6 * 1.02**moved
    return float(numbers @ values), float(numbers @ values**2)


def bounded(rng: np.random.Generator, mean: float, count: int) -> tuple[float, float]:
    """Sum and sum of squares of values in 0..1, beta with the spread of a per-list metric."""
    values = rng.beta(mean * 2, (1 - mean) * 2, count)
    return float(values.sum()), float((values**2).sum())


class Simulation:
    """One rollout of a release that is wrong from `step` on, until it ends; good ones begin in shadow."""

    def __init__(self, seed: int, fault: Fault, look_s: float, step: int = SHADOW) -> None:
        self.policy, self.fault, self.look_s, self.step = PRODUCTION, fault, look_s, step
        self.rng = np.random.default_rng(seed)
        self.peers = {name: TTests(level) for name, level in PEERS.items()}
        self.stopped = dict.fromkeys((*PEERS, "strict"), False)  # what others would have done with the same numbers
        self.seconds = 0.0

    def run(self, *, compare: bool = False) -> tuple[str, str]:
        """How it ended, and why."""
        window, now = Window(), NOON
        warm = now + timedelta(seconds=self.policy.warm_up_s if self.step == SHADOW else 0)
        copies = first_copies(self.policy, now, cold=True)
        while True:
            shadow, cold = self.step == SHADOW, now < warm
            self.seconds += min(self.look_s, FAULT_LOOK_S) if cold else self.look_s  # copies climb between looks
            now = NOON + timedelta(seconds=self.seconds)
            self._look(window, self.step, self.fault, copies.share if shadow else ALL)
            copies, warming = next_copies(self.policy, copies, 1, 0, now), now < warm
            judged = judge(self.policy, window, shadow=shadow, warming=cold)
            if compare:
                self._compare(window, warming=cold)
            if cold and not warming:
                window = self._new_window()
            at = Position(step=self.step, since=min(now, warm))
            action = next_action(self.policy, at, judged.outcome, now)
            if action is Action.ADVANCE:
                self.step, window, warm = self.step + 1, self._new_window(), now
            elif action is not Action.WAIT:
                return "promoted" if action is Action.PROMOTE else "rolled_back", judged.reason

    def _new_window(self) -> Window:
        for tests in self.peers.values():
            tests.sums.clear()
        return Window()

    def _compare(self, window: Window, *, warming: bool) -> None:
        for name, tests in self.peers.items():
            self.stopped[name] = self.stopped[name] or (not warming and tests.fails())
        if not self.stopped["strict"]:
            strict = judge(STRICT, window, shadow=self.step == SHADOW, warming=warming)
            self.stopped["strict"] = strict.outcome is Outcome.FAIL

    def _look(self, window: Window, step: int, fault: Fault, share: int) -> None:
        rng, weight = self.rng, self.policy.weight(step)
        live = rng.poisson(RATE * self.look_s)
        mine = rng.binomial(live, (share if step == SHADOW else weight) / 100)
        copies = step == SHADOW, step == self.policy.last_step
        slower = 55 if rng.random() < BURST else 0  # 1.02 ** 55 = 3
        more = 0.05 if rng.random() < TROUBLE else 0.0005
        for who, sample, count, shown, wrong in (
            (0, window.challenger, mine, 0 if copies[0] else mine, fault),
            (1, window.champion, live if any(copies) else live - mine, 0 if copies[1] else live - mine, GOOD),
        ):
            if count:
                self._serve(who, sample, count, shown, wrong, slower, more)
        ours = window.challenger
        window.unusable += int(rng.binomial(ours.slates, fault.unusable)) if fault.unusable else 0
        window.constant = ours.slates if fault.constant else 0
        if copies[0]:
            overlap, _ = bounded(rng, fault.overlap, mine)
            tau, _ = bounded(rng, (fault.correlation + 1) / 2, mine)
            window.paired, window.overlap = window.paired + mine, window.overlap + overlap
            window.correlated, window.correlation = window.correlated + mine, window.correlation + 2 * tau - mine

    def _serve(self, who: int, sample: Sample, count: int, shown: int, fault: Fault, slower: int, more: float) -> None:
        rng = self.rng
        late = int(rng.binomial(count, fault.timeouts)) if fault.timeouts else 0
        bad = int(rng.binomial(count, min(1.0, more + fault.errors))) + late
        short = int(rng.binomial(count, 0.02 + fault.short))
        sample.requests, sample.answered = sample.requests + count, sample.answered + count
        sample.slates, sample.whole = sample.slates + count, sample.whole + count
        sample.errors, sample.timeouts, sample.short = sample.errors + bad, sample.timeouts + late, sample.short + short
        total, squares = draw(rng, fault.times, sample.latencies_ms, count, slower)
        draw(rng, fault.best, sample.best_scores, count)
        draw(rng, SPREAD, sample.spreads, count)
        told = int(rng.binomial(shown, 0.05))
        bought = int(rng.binomial(shown, fault.conversion))
        ndcg, ndcg2 = bounded(rng, fault.ndcg, told) if told else (0.0, 0.0)
        sample.shown, sample.told = sample.shown + shown, sample.told + told
        sample.ndcg, sample.converted = sample.ndcg + ndcg, sample.converted + bought
        for tests in self.peers.values():
            tests.add("errors", who, count, bad, bad)
            tests.add("short", who, count, short, short)
            tests.add("latency", who, count, total, squares)
            tests.add("ndcg", who, told, ndcg, ndcg2)


PRODUCTION = load_policy("production").rollout
STRICT = PRODUCTION.model_copy(
    update={
        "max_error_rate": 0.0, "max_timeout_rate": 0.0, "max_short_rate": 0.0, "max_online_drop": 0.0,
        "max_latency_ratio_p50": 1.0, "max_latency_ratio_p95": 1.0, "max_latency_ratio_p99": 1.0, "latency_slack_ms": 0.0,
    }
)  # fmt: skip
SHARED = alpha_of(PRODUCTION, shadow=False)
PEERS = {"t-tests p < .05": 0.05, "t-tests, our correction": SHARED}


def a_a(seed: int) -> dict[str, bool]:
    """A good rollout: did the policy stop it, and would the same statistics with no loss allowed, and the peers?"""
    one = Simulation(seed, GOOD, LOOK_S)
    return {"policy": one.run(compare=True)[0] != "promoted"} | one.stopped


def detected(fault: Fault, seed: int, step: int) -> tuple[float, int, bool]:
    """Seconds until it was stopped, percent of users then, and whether by evidence."""
    one = Simulation(seed, fault, FAULT_LOOK_S, step)
    ended, reason = one.run()
    return one.seconds, PRODUCTION.weight(one.step), ended == "rolled_back" and "before the deadline" not in reason


def piece(number: int, of: int) -> Path:
    """Run a share of the work and keep what came out; done already: nothing."""
    path = PIECES / f"live_judgement-{number}-of-{of}.json"
    if path.exists():
        return path
    told = {"a_a": [a_a(seed) for seed in range(number, ROLLOUTS, of)], "faults": {}}
    for fault in FAULTS[number::of]:
        told["faults"][fault.name] = {
            str(step): [detected(fault, seed, step) for seed in range(seeds)] for step, seeds in SEEDS.items()
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))
    return path


def table(paths: list[Path]) -> list[Row]:
    pieces = [json.loads(path.read_text()) for path in paths]
    rollouts = [one for told in pieces for one in told["a_a"]]

    def share(name: str) -> float:
        return 100 * sum(one[name] for one in rollouts) / len(rollouts)

    peers = {name: share(name) for name in PEERS}
    rows = [
        below(f"good rollouts stopped, of {len(rollouts)}, production policy", share("policy"), "%", 1.0, peers),
        below("the same where no loss at all is allowed: the statistics alone", share("strict"), "%", 1.0, peers),
    ]
    faults = {name: steps for told in pieces for name, steps in told["faults"].items()}
    for fault in FAULTS:
        for step, place in (("0", "from shadow on"), ("2", "from 5 % on"), ("3", "from 25 % on")):
            seen = faults[fault.name][step]
            times, missed = [one[0] for one in seen], sum(not one[2] for one in seen)
            said = f"{fault.name}, {place}: slowest of {len(seen)} (median {median(times):.1f} s, missed {missed})"
            if step == "0" and fault.bar_s:
                early = all(one[1] == 0 for one in seen)
                row = below(f"{said}, users who saw it: {'none' if early else 'some'}", max(times), "s", fault.bar_s)
                rows.append(row if not missed else Row(row.bar, row.ours, row.unit, row.target, False))
            else:
                rows.append(Row(said, max(times), "s"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", type=int)
    parser.add_argument("--parts", type=int, default=25)
    asked = parser.parse_args()
    do: Callable[[int], Path] = lambda number: piece(number, asked.parts)  # noqa: E731
    if asked.part is not None:
        do(asked.part)
        return 0
    return 0 if publish("live_judgement", table([do(number) for number in range(asked.parts)]), ("numpy",)) else 1


if __name__ == "__main__":
    sys.exit(main())
