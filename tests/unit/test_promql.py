"""Our part of PromQL: values worked out by hand, refusals, and, where it is installed, promtool on random counters."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.local.promql import parse
from infra.local.promql_samples import STALE, Samples
from tasks.domain.errors import InputRejected
from tests.alert_tests import labels_of, values_of


def samples(**series: str) -> Samples:
    """One sample every 15 s from 0 on, in promtool's notation."""
    found = Samples()
    for name, values in series.items():
        for place, value in enumerate(values_of(values)):
            if value is not None:
                found.add(labels_of(name), place * 15.0, STALE if value == "stale" else float(value))
    return found


def value(text: str, at: float, **series: str) -> dict[tuple[str, ...], float]:
    found = parse(text).at(samples(**series), at)
    return {tuple(sorted(text for _, text in labels)): result for labels, result in found.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a", 60.0, id="the last sample"),
        pytest.param("a offset 15s", 45.0, id="a while ago"),
        pytest.param("rate(a[1m])", 1.0, id="a steady counter"),
        pytest.param("increase(a[30s])", 30.0, id="stretched to the edges"),
        pytest.param("a * 2 + 1", 121.0, id="arithmetic binds as usual"),
        pytest.param("1 + 2 * a", 121.0, id="from the left too"),
        pytest.param("-a / 4", -15.0, id="minus"),
        pytest.param("time() - a", 0.0, id="time"),
        pytest.param("max_over_time(a[1m])", 60.0, id="over a range"),
        pytest.param("a > 59", 60.0, id="a comparison keeps what holds"),
    ],
)
def test_worked_out_by_hand(text, expected):
    assert list(value(text, 60.0, a="0+15x10").values()) == [pytest.approx(expected)]


def test_a_counter_that_starts_again_only_grew():
    assert list(value("increase(a[1m])", 60.0, a="0 10 20 5 15").values()) == [pytest.approx(25.0 * 60 / 45)]


def test_labels_choose_group_and_match():
    series = {'a{x="1",y="p"}': "3", 'a{x="1",y="q"}': "4", 'a{x="2",y="p"}': "5", 'b{x="1"}': "0"}
    assert value("sum by (x) (a)", 0.0, **series) == {("1",): 7, ("2",): 5}
    assert value('count(a{y=~"p|r",x!="2"})', 0.0, **series) == {(): 1}
    assert value("max(a) by (y)", 0.0, **series) == {("p",): 5, ("q",): 4}
    assert value("a unless on (x) b", 0.0, **series) == {("2", "a", "p"): 5}
    assert value('a{y="p"} and on (x) b', 0.0, **series) == {("1", "a", "p"): 3}
    assert value("sum(a) or b", 0.0, **series) == {(): 12, ("1", "b"): 0}
    assert value('a{y="p"} / on (x) b', 0.0, **series) == {("1",): math.inf}
    assert value("absent(c)", 0.0, **series) == {(): 1}
    assert value("absent(a)", 0.0, **series) == {}


def test_a_series_ends_when_its_target_says_so_or_five_minutes_later():
    assert value("a", 30.0, a="1 1 stale") == {}
    assert value("a", 299.0, a="1") == {("a",): 1}
    assert value("a", 301.0, a="1") == {}


def test_a_quantile_is_interpolated_and_of_nothing_is_nothing():
    buckets = {'h{le="10"}': "50", 'h{le="20"}': "90", 'h{le="+Inf"}': "100"}
    assert value("histogram_quantile(0.7, h)", 0.0, **buckets) == {(): pytest.approx(15.0)}
    assert value("histogram_quantile(0.99, h)", 0.0, **buckets) == {(): 20.0}
    empty = dict.fromkeys(buckets, "0")
    assert math.isnan(value("histogram_quantile(0.99, h)", 0.0, **empty)[()])
    assert value("histogram_quantile(0.99, h) > 5", 0.0, **empty) == {}, "no traffic is not slow"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a[5m]", "stands outside a function"),
        ("rate(a)", "needs a range"),
        ("predict_linear(a[1h], 3600)", "does not know the function predict_linear"),
        ("sum without (x) (a)", "does not know without"),
        ("a / on (x) group_left b", "did not expect|does not know|cannot go on"),
        ("a > bool 1", "does not know bool"),
        ("sum(a", "ends too early"),
        ("a b", "cannot go on at 'b'"),
        ("a{x=1}}", "cannot go on|compares no"),
        ("a § b", "cannot read"),
    ],
)
def test_what_it_does_not_know_it_refuses(text, said):
    with pytest.raises(InputRejected, match=said):
        parse(text).at(Samples(), 0.0)


def test_old_samples_are_forgotten():
    kept = Samples(keep_s=100)
    for place in range(500):
        kept.add({"__name__": "a"}, float(place), float(place))
    assert len(next(iter(kept._series.values()))[0]) <= 101
    kept.forget(1000.0)
    assert kept._series == {}


EXPRESSIONS = (
    "rate(a[1m])", "increase(a[5m])", "rate(a[2m] offset 45s)", "sum(rate(a[1m])) / sum(rate(b[1m]))",
    "max_over_time(b[90s]) - min_over_time(b[90s])", "a > b", "a unless b > 40", "time() - b", "avg(a) + count(b)",
)  # fmt: skip


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_works_out_the_same(tmp_path: Path):
    """Random counters with gaps and restarts; at times where versions of Prometheus do not differ about edges."""
    chance, asked, tests = random.Random(7), 0, []
    for _ in range(20):
        series = {name: _counter(chance) for name in ("a", "b")}
        at = chance.randrange(360, 580)
        at += at % 15 == 0
        questions = []
        for text in EXPRESSIONS:
            found = parse(text).at(samples(**series), float(at))
            told = [
                {"labels": "a" if labels else "{}", "value": result}
                for labels, result in found.items()
                if not math.isnan(result)
            ]
            asked += len(told)
            questions.append({"expr": text, "eval_time": f"{at}s", "exp_samples": told})
        listed = [{"series": name, "values": values} for name, values in series.items()]
        tests.append({"interval": "15s", "input_series": listed, "promql_expr_test": questions})
    assert asked > 100
    page = tmp_path / "tests.yml"
    page.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(page)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _counter(chance: random.Random) -> str:
    value, parts = 0, []
    for _ in range(40):
        kind = chance.random()
        value = 0 if kind < 0.05 else value + chance.randrange(20)
        parts.append("_" if kind > 0.9 else str(value))
    return " ".join(parts)
