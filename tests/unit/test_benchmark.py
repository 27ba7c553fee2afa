"""The latency comparison: it sees work that is really there, and only that."""

from __future__ import annotations

import numpy as np

from tasks.benchmark import REPEATS, WARM_UP, measure, ratios


def test_every_system_answers_every_request_equally_often_and_interleaved():
    calls: list[tuple[str, str]] = []
    answer = {name: (lambda user, name=name: calls.append((name, user))) for name in ("champion", "state")}
    users = [f"u{n}" for n in range(30)]
    wall, cpu = measure(answer, users, np.random.default_rng(0))
    measured = calls[2 * WARM_UP :]
    assert len(measured) == 30 * 2 * REPEATS
    for user in users:
        turns = [name for name, asked in measured if asked == user]
        assert sorted(turns) == ["champion"] * REPEATS + ["state"] * REPEATS
    orders = {tuple(name for name, asked in measured if asked == user) for user in users}
    assert len(orders) > 5, "the order of the systems is drawn anew for each request"
    assert np.isfinite(wall["state"]).all() and np.isfinite(cpu["champion"]).all()


def test_ratios_carry_the_names_the_policy_limits():
    rng = np.random.default_rng(0)
    base = rng.gamma(4, 1, 300)
    rows = {row.name: row for row in ratios(base, base * 1.5, base, base, seed=1)}
    assert set(rows) == {"p50", "p95", "cpu"}
    assert rows["p95"].lower > 1.4 and rows["cpu"].upper == 1.0
