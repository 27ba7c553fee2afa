"""The gate's own error rates, small: made-up slates with the spread that retraining has, in place of real models.

`make bench NAME=gate_error_rates` measures them on real models (docs/benchmarks.md). Spread and size here are those of two
seeds of the demo on half of a thousand households over seven days.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tasks.domain.gate import decide
from tasks.gate_evidence import gather
from tests.unit.evidence import POLICY
from tests.unit.test_gate_evidence import CHAMPION, facts

USERS, SLATES, SPREAD = 400, 850, 0.058
MARGIN = POLICY.weights.margin
GATE = POLICY.model_copy(update={"latency_ratio": {}})
TRIALS = 20


def a_trial(loss: float, seed: int, harmed: float = 0.2) -> str:
    """The candidate loses `loss` in the mean: a fifth of the users lose five times as much, the others nothing."""
    draws = np.random.default_rng([seed, 7])
    user = np.concatenate([np.arange(USERS), draws.integers(0, USERS, SLATES - USERS)])
    champion = draws.beta(0.8, 2.2, SLATES)
    hit = (draws.random(USERS) < harmed)[user]
    candidate = champion + draws.normal(0, SPREAD, SLATES) - hit * loss / harmed
    slates = pa.table(
        {
            "kind": ["weights"] * SLATES,
            "day": [f"2017-06-{25 + i % 5}" for i in range(SLATES)],
            "slate": np.arange(SLATES),
            "user": user,
            "heavy": user % 2 == 0,
            "champion.ndcg_at_10[all]": champion,
            "candidate.ndcg_at_10[all]": candidate,
        }
    )
    return str(decide(gather("weights", facts(slates), slates, {}, CHAMPION, GATE, 1), GATE).outcome)


def outcomes(loss: float) -> list[str]:
    return [a_trial(loss, seed) for seed in range(TRIALS)]


def test_a_model_that_is_as_good_is_seldom_blocked():
    found = outcomes(0.0)
    assert found.count("fail") == 0
    assert found.count("inconclusive") <= 0.1 * TRIALS, "the margin is more than 3.3 standard errors here"


def test_twice_the_margin_is_refused():
    assert outcomes(2 * MARGIN).count("pass") <= 0.05 * TRIALS


def test_exactly_the_margin_is_promoted_as_seldom_as_the_bound_promises():
    assert outcomes(MARGIN).count("pass") <= 0.15 * TRIALS
