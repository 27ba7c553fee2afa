"""Slow creep of the champion's latency: seen where it was planted, not seen where it was not, told on the decision's page."""

from __future__ import annotations

import json
from datetime import date, timedelta

import numpy as np
import pytest

from tasks.adapters.store import MemoryStore
from tasks.bench_history import bench_keys, earlier_benches, history
from tasks.decisions import explanation
from tasks.domain.creep import BENCHES, FEWEST, RISE, crept, levels
from tasks.domain.evidence import Evidence
from tasks.domain.gate import LatencyRatio, Outcome
from tasks.domain.latency import NAMES
from tasks.domain.product_findings import creep, latency
from tasks.explain.page import html
from tasks.policies import load_policy
from tests.decision_builders import a_run
from tests.unit.evidence import evidence

DAYS = [(date(2017, 6, 1) + timedelta(days=n)).isoformat() for n in range(BENCHES)]
NOISE, STEP = 0.02, 1.0012  # of one bench; how much slower each release is than the one before


def steady(seed, count=BENCHES):
    return 8 * np.exp(np.random.default_rng(seed).normal(0, NOISE, count))


def creeping(seed, count=BENCHES):
    return steady(seed, count) * STEP ** np.arange(count)


def told(values):
    return {"days": DAYS[: len(values)], "relative": {name: [float(v) for v in values] for name in NAMES}}


def test_creep_that_no_single_gate_sees_is_seen_and_none_is_not():
    seen = sum(crept(creeping(seed)) is not None for seed in range(50))
    blamed = sum(crept(steady(seed)) is not None for seed in range(50))
    assert (seen, blamed) == (50, 0)
    row = LatencyRatio(
        name="p95", champion_ms=8, candidate_ms=8 * STEP, ratio=STEP, lower=STEP - 0.01, upper=STEP + 0.01, pairs=8192
    )
    limits = load_policy("production").gate.model_copy(update={"latency_ratio": {"p95": 1.025}})
    assert [one.outcome for one in latency(evidence(latencies=(row,)), limits)] == [Outcome.PASS], "each step passes"


def test_a_jump_is_dated_and_a_fall_is_no_creep():
    values = steady(1)
    values[60:] *= 1.2
    found = crept(values)
    assert abs(found.since - 60) <= 1
    assert found.rise == pytest.approx(0.2, abs=0.03)
    values[60:] /= 1.5
    assert crept(values) is None


def test_what_rose_and_fell_again_is_not_reported():
    values = steady(2)
    values[30:60] *= 1.3
    assert crept(values) is None
    assert len(levels(values).begins) == 3


def test_of_few_benches_nothing_is_said():
    assert crept(creeping(0, FEWEST - 1) * np.linspace(1, 3, FEWEST - 1)) is None


def test_the_finding_warns_with_the_rise_and_the_day_and_blocks_nothing():
    assert list(creep(evidence())) == [], "no history, no word"
    past = Evidence.model_validate(evidence().model_dump() | {"history": told(creeping(4))})
    for one in creep(past):
        assert one.outcome is Outcome.PASS and one.warns
        assert one.name.startswith("creep_") and "creeps: +" in one.sentence and "% since 2017-" in one.sentence
    (calm,) = creep(Evidence.model_validate(evidence().model_dump() | {"history": told(steady(4))}))
    assert not calm.warns and f"no rise of {RISE:.0%}" in calm.sentence


def test_the_page_of_a_decision_shows_the_creep_once_with_its_plots(tmp_path):
    store, _, uris = a_run(tmp_path, history=told(creeping(5)))
    record = explanation(store, uris["gate"])
    page = html(record)
    assert page.count("p95 of the champion, in yardsticks") == 1
    assert "creeps: +" in page and "Warning on the weights: creep_p50" in record["headline"]


def test_the_series_is_of_earlier_days_and_of_this_machine_alone():
    store = MemoryStore()
    for n, machine in ((1, "a"), (2, "b"), (3, "a"), (5, "a")):
        summary = {"machine": machine, "yardstick_ms": 2.0} | {f"champion.{name}_ms": 10.0 + n for name in NAMES}
        put(store, f"2017-07-0{n}", summary)
    put(store, "2017-06-30", {"sentence": "from before there was a yardstick"})
    assert len(bench_keys(store, "2017-07-04")) == 4
    earlier = earlier_benches(store, "2017-07-04")
    assert [one["day"] for one in earlier] == ["2017-07-01", "2017-07-02", "2017-07-03"]
    now = {"day": "2017-07-04", "machine": "a", "yardstick_ms": 4.0} | dict.fromkeys(NAMES, 20.0)
    past = history(earlier, now)
    assert past["days"] == ["2017-07-01", "2017-07-03", "2017-07-04"]
    assert past["relative"]["p95"] == [5.5, 6.5, 5.0]


def put(store, day, summary):
    manifest = {
        "step": "benchmark", "partition": day, "inputs": {}, "outputs": {}, "params": {}, "code_version": "c", "lock_digest": "l",
        "seed": 1, "summary": summary, "started_at": f"{day}T05:00:00+00:00", "seconds": 1.0,
    }  # fmt: skip
    store.put_new(f"runs/benchmark/{day}/{day.replace('-', ''):0>24}.json", json.dumps(manifest).encode())
