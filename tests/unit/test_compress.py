"""Which compressed variant goes forward: the smallest that nothing speaks against."""

from __future__ import annotations

import os

import pytest

from tasks.compress import Variant, choose, draw_front, with_reason
from tasks.compression import variants
from tasks.compression.variants import Cost, kept_costs
from tasks.copies import take_away
from tasks.domain.recipe import load_recipe

PLAN = load_recipe("demo").compression


def a_variant(name, *, size=100, cpu=5.0, bound=-0.001, mates=0.0):
    """A variant that nothing speaks against; a test names only what it is about."""
    quality = {"ndcg_at_10[all]": 0.24}
    cost = Cost(
        cpu_ms_100=cpu / 2,
        cpu_ms_1000=cpu,
        p50_ms=cpu,
        p95_ms=cpu,
        p99_ms=cpu,
        bytes=size,
        peak_bytes=size,
        load_ms=80.0,
    )
    return Variant(
        name=name,
        what=name,
        quality=quality,
        parent=quality,
        bound=bound,
        upper=-bound,
        batch_dependence=mates,
        cost=cost,
    )


def chosen(*variants):
    return choose([with_reason(variant, list(variants), PLAN) for variant in variants])


def test_the_smallest_goes_forward_though_another_is_a_little_faster():
    assert chosen(a_variant("fp32", size=300, cpu=5.0), a_variant("int8", size=100, cpu=6.0)).name == "int8"


def test_a_variant_that_was_not_timed_on_its_device_is_never_too_slow():
    pair = [a_variant("fp32", size=300), a_variant("bf16", size=100, cpu=1e3)]
    assert with_reason(pair[1], pair, PLAN).reason.startswith("takes 200.0 times")
    assert with_reason(pair[1], pair, PLAN, timed=False).reason == ""


def test_of_two_about_equal_sizes_the_better_goes_forward():
    few_bytes_less = a_variant("int8-low-rank", size=99, bound=-0.002)
    assert chosen(a_variant("fp32", size=300), a_variant("int8", size=100), few_bytes_less).name == "int8"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"bound": -0.0031}, "may lose 0.0031"),
        ({"mates": 2e-5}, "depends on its batch mates by 2.0e-05"),
        ({"cpu": 10.1}, "takes 2.0 times the CPU"),
    ],
)
def test_a_small_variant_with_a_fault_stays_behind(fault, reason):
    good, bad = a_variant("fp32", size=300), a_variant("int8", **fault)
    assert reason in with_reason(bad, [good, bad], PLAN).reason
    assert chosen(good, bad).name == "fp32"


def test_where_something_speaks_against_each_none_goes_forward():
    assert chosen(a_variant("fp32", mates=1.0), a_variant("int8", bound=-1.0)) is None


def test_costs_are_timed_once_for_the_same_files(tmp_path, monkeypatch):
    """Two runs of one step would choose by two timings, and might choose otherwise."""
    timings = iter(range(1, 9))

    def measured(directories, judged):
        turn = next(timings)
        return {name: a_variant(name, cpu=float(turn)).cost for name in directories}

    def costs():
        return {name: cost.cpu_ms_1000 for name, cost in kept_costs(directories, [], tmp_path / "cache").items()}

    monkeypatch.setattr(variants, "measure_costs", measured)
    directories = {name: tmp_path / name for name in ("fp32", "int8")}
    for folder in directories.values():
        folder.mkdir()
        (folder / "full.bin").write_bytes(b"weights")
    assert costs() == costs() == {"fp32": 1.0, "int8": 1.0}
    (kept,) = (tmp_path / "cache" / "variants").glob("costs-*.json")
    os.utime(kept, (0, 0))
    costs()
    assert not take_away(kept, kept.parent, unused_since=1.0), "what is used every day is not pruned and timed anew"
    (tmp_path / "int8" / "full.bin").write_bytes(b"others")
    assert costs() == {"fp32": 2.0, "int8": 2.0}, "they took turns, so all are timed anew"


def test_the_front_is_drawn(tmp_path):
    draw_front([a_variant("fp32", size=300), a_variant("int8")], "int8", tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
