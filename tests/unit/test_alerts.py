"""The alert rules: each fires when it should and only then, leads to a runbook, and is what promtool makes of it too."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.local.alert_rules import RULES, read_rules, rendered
from infra.local.promql import parse
from infra.local.watch import parsed
from tasks.domain.errors import InputRejected
from tasks.settings import Settings
from tests.alert_tests import cases, firing_at

ROOT = Path(__file__).parents[2]
TESTS = RULES.parent / "tests.yml"
CASES = cases(TESTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["alert_rule_test"][-1]["alertname"])
def test_every_alert_fires_when_it_should_and_only_then(case):
    asked = list(firing_at(case, RULES))
    assert asked
    for which, expected, found in asked:
        assert found == expected, which


def test_every_rule_is_seen_to_fire_and_not_to_fire():
    asked = [(one["alertname"], bool(one["exp_alerts"])) for case in CASES for one in case["alert_rule_test"]]
    names = {rule.name for rule in read_rules()}
    assert len(names) >= 8
    assert {name for name, fires in asked if fires} == names
    # what has no quiet moment of its own is held back by another series in the same group
    assert len({name for name, fires in asked if not fires}) >= len(names) - 1


def test_every_rule_leads_to_a_runbook_that_names_it():
    dags = {path.stem for path in (ROOT / "dags").glob("[!_]*.py")}
    assert len(dags) >= 4
    for rule in read_rules():
        assert rule.labels["severity"] in ("page", "ticket"), rule.name
        named = rule.annotations["runbook"]
        pages = {named.replace("{{ $labels.dag }}", dag) for dag in dags} if "$labels.dag" in named else {named}
        for page in pages:
            assert rule.name in (ROOT / page).read_text(), f"{page} does not say that {rule.name} leads to it"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_says_the_same():
    config = str(RULES.parent / "prometheus.yml")
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(TESTS)], ["check", "config", config]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_prometheus_beside_the_stack_is_told_the_right_addresses(tmp_path):
    settings = Settings(home=tmp_path)
    config = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    jobs = {job["job_name"]: str(job) for job in config["scrape_configs"]}
    assert config["rule_files"] == [RULES.name]
    for job, service in (
        ("router", "envoy_admin"),
        ("controller", "controller"),
        ("replica", "controller"),
        ("pipeline", "watch"),
    ):
        assert f"127.0.0.1:{settings.port(service)}" in jobs[job], job


def test_the_rule_file_names_what_prometheus_knows_only():
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("{{ $labels.release }} has {{ $value }} %", 20.0, "abc has 20 %"),
        ("{{ $value | humanizePercentage }}", 0.0512, "5.12%"),
        ("{{ $value | humanizeDuration }}", 93784.0, "1d 2h 3m 4s"),
        ("{{$value|humanizeDuration}}", 59.9, "59s"),
        ("{{ $labels.nobody }}.", 1.0, "."),
    ],
)
def test_annotations_are_written_for_people(text, value, said):
    assert rendered(text, {"release": "abc"}, value) == said


def test_a_way_to_write_a_value_that_is_not_known_is_refused():
    with pytest.raises(InputRejected, match="humanize1024"):
        rendered("{{ $value | humanize1024 }}", {}, 1.0)


def test_a_page_of_metrics_is_read_as_it_is_written():
    page = '# TYPE a counter\na 3\na_total{x="y",p="q\\"r\\\\s"} 1.5e3 1700000000000\nb{le="+Inf"} +Inf\nother{} NaN\n'
    assert list(parsed(page, {"a", "a_total", "b"})) == [
        ("a", {}, 3.0),
        ("a_total", {"x": "y", "p": 'q"r\\s'}, 1500.0),
        ("b", {"le": "+Inf"}, float("inf")),
    ]
    with pytest.raises(ValueError, match="is no sample"):
        list(parsed("<html>\n", {"a"}))


def test_the_dashboard_is_one_that_grafana_can_load():
    board = json.loads((RULES.parents[1] / "dashboards" / "freshrank.json").read_text())
    assert board["uid"] and board["title"] and board["schemaVersion"] >= 36
    panels, places = board["panels"], set()
    assert len(panels) >= 12 and len({panel["id"] for panel in panels}) == len(panels)
    read = {selector.name for rule in read_rules() for selector in rule.expression.selectors}
    shown = set()
    for panel in panels:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        taken = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not taken & places, f"{panel['title']} lies on another panel"
        places |= taken
        for target in panel["targets"]:
            shown |= {selector.name for selector in parse(target["expr"]).selectors}
    # everything that may wake somebody can be looked at
    assert read - shown <= {"up", "freshrank_rollout_stopped_seconds", "freshrank_reconcile_pass_seconds",
                            "freshrank_feedback_refused_total"}  # fmt: skip
