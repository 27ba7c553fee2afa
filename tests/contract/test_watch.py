"""The watch against a real router, controller and replica: the rules read what these really say, and fire when they should."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.local.alert_rules import RULES
from infra.local.promql import parse
from infra.local.watch import Watch, parsed
from tasks import firing
from tasks.domain.errors import Unavailable
from tests.rollout_stack import Stack

pytestmark = pytest.mark.stack
PIPELINE = {"freshrank_data_last_verdict", "freshrank_dag_last_run_failed"}  # from the store and Airflow
# of a rollout that runs, or that was stopped: tests/contract/test_controller_api.py
DURING_A_ROLLOUT = {"freshrank_rollout_step_since_seconds", "freshrank_rollout_step_limit_seconds"}
AFTER_A_STOP = {"freshrank_rollout_stopped_seconds"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("watch") / "home")
    try:
        stack.start()
        stack.champion()
        for _ in range(20):
            httpx.post(f"{stack.settings.url('router')}/rank", json={}).raise_for_status()
        yield stack
    finally:
        stack.stop()


def looked(watch: Watch, *moments: float) -> dict[str, Any]:
    """Look at each moment; what fires at the last one, by name."""

    async def scenario() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for at in moments:
            found = {alert.rule.name: alert for alert in await watch.look(at) if alert.firing}
        await watch._http.aclose()
        return found

    return asyncio.run(scenario())


def test_every_series_that_a_rule_reads_is_really_there(stack: Stack) -> None:
    watch = Watch(stack.settings, {})
    at = time.time()
    assert looked(watch, at) == {}
    selectors = [selector for rule in watch.standing.rules for selector in rule.expression.selectors]
    assert len(selectors) >= 12
    instant = [s.__class__(s.name, s.matchers) for s in selectors]
    missing = {s.name for s in instant if not watch.samples.at(s, at)}
    assert missing == PIPELINE | DURING_A_ROLLOUT | AFTER_A_STOP
    assert httpx.get(f"{stack.settings.url('controller')}/targets").json()[0]["labels"]["release"]


def test_every_series_of_the_dashboard_is_really_there(stack: Stack) -> None:
    board = json.loads((RULES.parents[1] / "dashboards" / "freshrank.json").read_text())
    wanted = {
        s.name for panel in board["panels"] for target in panel["targets"] for s in parse(target["expr"]).selectors
    }
    admin, controller = f"http://127.0.0.1:{stack.settings.port('envoy_admin')}", stack.settings.url("controller")
    pages = [httpx.get(url).text for url in (f"{admin}/stats/prometheus", f"{controller}/metrics")]
    there = {name for page in pages for name, _, _ in parsed(page, wanted)}
    assert wanted - there == PIPELINE | DURING_A_ROLLOUT


def test_a_hung_controller_fires_and_is_told_and_resolved(stack: Stack) -> None:
    assert stack.controller is not None
    watch = Watch(stack.settings, {})
    now = time.time()
    watch._http.timeout = httpx.Timeout(1)
    stack.controller.send_signal(signal.SIGSTOP)
    try:
        down = looked(watch, now, now + 30, now + 70)
        assert "ServiceDown" in down and down["ServiceDown"].labels["job"] == "controller"
        told = json.loads(firing.path(stack.settings).read_text())["alerts"]
        assert [one["name"] for one in told] == ["ServiceDown"]
        assert told[0]["runbook"] == "docs/runbooks/service_down.md" and "does not answer" in told[0]["summary"]
        assert 'alertname="ServiceDown"' in watch.exposition()
    finally:
        stack.controller.send_signal(signal.SIGCONT)
    watch = Watch(stack.settings, {}, standing=watch.standing)
    assert looked(watch, now + 100) == {}
    assert firing.read(stack.settings) == ([], "") or time.time() < now + 100


def test_what_the_training_side_says_and_its_silence(stack: Stack) -> None:
    said = {"store": [("freshrank_data_last_verdict", {"day": "2017-07-02", "verdict": "hold"}, 1.0)]}

    def airflow() -> list[Any]:
        raise Unavailable("Airflow does not answer")

    watch = Watch(stack.settings, {"store": lambda: said["store"], "airflow": airflow})
    now = time.time() - 183

    async def scenario() -> None:
        for at in (now, now + 61, now + 122):
            alerts = await watch.look(at)
        assert [(alert.rule.name, alert.labels["day"]) for alert in alerts if alert.firing] == [
            ("DataStopped", "2017-07-02")
        ]
        assert 'freshrank_data_last_verdict{day="2017-07-02",verdict="hold"} 1' in watch.exposition()
        said["store"] = [("freshrank_data_last_verdict", {"day": "2017-07-03", "verdict": "accepted"}, 1.0)]
        assert [alert.rule.name for alert in await watch.look(now + 183) if alert.firing] == []
        await watch._http.aclose()

    asyncio.run(scenario())


def test_a_file_that_is_old_or_broken_is_not_believed(tmp_path: Path) -> None:
    from tasks.settings import Settings

    settings = Settings(home=tmp_path)
    assert firing.read(settings) == ([], "no watch has run in this home; alerts are not evaluated here")
    firing.write(settings, [{"name": "DiskLow"}], time.time() - 500)
    alerts, unknown = firing.read(settings)
    assert alerts == [] and "has said nothing for 500 s" in unknown
    firing.path(settings).write_text("{")
    assert "cannot be read" in firing.read(settings)[1]
