"""One night on a made-up shop: other seeds and damaged models are trained, scored and judged, and the table is written."""

from __future__ import annotations

import json

from tasks.gate_trials.nightly import REPORT, error_rates
from tasks.policies import load_policy
from tests.integration.test_training import (  # noqa: F401  the fixtures
    RECIPE,
    dataset,
    home,
    model,
    shop,
)


def test_a_night_trains_scores_tries_and_a_killed_one_goes_on(home, dataset, model):  # noqa: F811
    work, out = home / "night", home / "night-out"
    out.mkdir()
    policy = load_policy("tiny").gate
    few = {"seed": 1, "threads": 1, "seeds": 1, "itself": 4, "each": 1}
    told = error_rates(dataset, model[0], RECIPE, policy, {}, work, out, **few)
    table = json.loads((out / REPORT).read_text())["table"]
    planted = {row["planted"].split(",")[0] for row in table}
    assert planted >= {"sign_flipped_head", "constant_scores", "nothing: another seed", "nan_metric"}
    known = planted | {
        name.split(" ")[0] for name in json.loads((out / REPORT).read_text())["weaker_than_twice_the_margin"]
    }
    assert {"leaked_label", "label_noise", "poisoned_partition", "half_the_catalogue_for_heavy_users"} <= known
    assert len(known) >= 21 + 3, "each kind is tried, or named as too weak"
    assert told["trials_itself"] == 4 and told["kinds"] >= 5 and "of 4 sound candidates" in told["sentence"]
    assert "sign_flipped_head" in (out / "error_rates.html").read_text()

    made = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    again = error_rates(dataset, model[0], RECIPE, policy, {}, work, out, **few)
    assert again == told
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == made, (
        "nothing is made twice"
    )
