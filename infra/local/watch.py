"""`python -m infra.local.watch`: Prometheus in small, so that a stack without one still alerts.

Every 15 s it scrapes the router, the controller and the replicas, asks the store and Airflow once a minute, evaluates
infra/alerts/freshrank.yml and writes what fires to run/alerts.json (`freshrank status` and the console show it) and to its log.
On its own port it serves what it learnt of the training side and ALERTS, for a Prometheus that takes over. A stack with
Prometheus loads the same rules there.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.local.alert_rules import Alert, Standing, read_rules
from infra.local.promql_samples import NAME, STALE, Samples
from tasks import firing, telemetry_off
from tasks.adapters.airflow import AirflowClient
from tasks.adapters.store import open_store
from tasks.domain.errors import FreshrankError
from tasks.pipeline_metrics import Sample, dag_metrics, data_metrics
from tasks.settings import Settings

log = logging.getLogger("freshrank.watch")
PERIOD_S = 15.0
PIPELINE_EVERY_S = 60.0
SCRAPE_S = 5.0
LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(r"\\(.)")
WORD = {"page": logging.ERROR, "ticket": logging.WARNING}


@dataclass
class Watch:
    """Scrapes, remembers, evaluates. Nothing here changes anything outside run/alerts.json."""

    settings: Settings
    pipeline: dict[str, Callable[[], list[Sample]]]
    standing: Standing = field(default_factory=lambda: Standing(read_rules()))
    alerts: list[Alert] = field(default_factory=list)
    learnt: list[Sample] = field(default_factory=list)  # of the training side, for /metrics

    def __post_init__(self) -> None:
        selectors = [s for rule in self.standing.rules for s in rule.expression.selectors]
        self.names = {selector.name for selector in selectors}
        reach = max(rule.expression.reach_s for rule in self.standing.rules)
        self.samples = Samples(keep_s=reach + 60)
        self._http = httpx.AsyncClient(timeout=SCRAPE_S)
        self._seen: dict[str, set[frozenset[tuple[str, str]]]] = {}  # instance -> its series at the last scrape
        self._asked = 0.0
        self._fired: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.look(time.time())
            except Exception:  # the watch must outlive whatever it looks at
                log.exception("event=look-failed")
            await asyncio.sleep(max(1.0, PERIOD_S - (time.monotonic() - began)))

    async def look(self, at: float) -> list[Alert]:
        """One scrape of everything and one evaluation."""
        admin = f"http://127.0.0.1:{self.settings.port('envoy_admin')}"
        wanted = "|".join(sorted(_envoy(name) for name in self.names if name.startswith("envoy_")))
        targets = [
            ("router", f"{admin}/stats/prometheus?filter=({wanted})", {}),
            ("controller", f"{self.settings.url('controller')}/metrics", {}),
            *await self._replicas(),
        ]
        await asyncio.gather(*(self._scrape(job, url, labels, at) for job, url, labels in targets))
        if at - self._asked >= PIPELINE_EVERY_S:
            self._asked = at
            await self._ask_pipeline(at)
        gone = self._seen.keys() - {_instance(url) for _, url, _ in targets} - self.pipeline.keys()
        for instance in gone:
            self._retire(instance, set(), at)
            del self._seen[instance]
        self.samples.forget(at - self.samples.keep_s)
        self.alerts = self.standing.evaluate(self.samples, at)
        self._tell(at)
        return self.alerts

    async def _replicas(self) -> list[tuple[str, str, dict[str, str]]]:
        try:
            reply = await self._http.get(f"{self.settings.url('controller')}/targets")
            groups = reply.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return []  # the controller's own `up` says so
        return [("replica", f"http://{one}/metrics", group["labels"]) for group in groups for one in group["targets"]]

    async def _scrape(self, job: str, url: str, labels: dict[str, str], at: float) -> None:
        instance = _instance(url)
        own = {"job": job, "instance": instance}
        try:
            reply = await self._http.get(url)
            reply.raise_for_status()
            found = list(parsed(reply.text, self.names))
        except (httpx.HTTPError, ValueError) as err:
            log.debug("instance=%s event=not-scraped why=%s", instance, type(err).__name__)
            found, up = [], 0.0
        else:
            up = 1.0
        self._put(instance, [("up", own, up), *((name, more | labels | own, v) for name, more, v in found)], at)

    async def _ask_pipeline(self, at: float) -> None:
        """Silence says nothing: what is not told is no longer known."""
        self.learnt = []
        for source, ask in self.pipeline.items():
            try:
                found = await asyncio.to_thread(ask)
            except FreshrankError as err:
                log.debug("source=%s event=silent why=%s", source, err)
                found = []
            self._put(source, found, at)
            self.learnt += found

    def _put(self, instance: str, found: Iterable[Sample], at: float) -> None:
        now = set()
        for name, labels, value in found:
            told = labels | {NAME: name}
            self.samples.add(told, at, value)
            now.add(frozenset(told.items()))
        self._retire(instance, now, at)
        self._seen[instance] = now

    def _retire(self, instance: str, now: set[frozenset[tuple[str, str]]], at: float) -> None:
        for series in self._seen.get(instance, set()) - now:
            self.samples.add(dict(series), at, STALE)

    def _tell(self, at: float) -> None:
        shown = [as_told(alert) for alert in self.alerts if alert.firing]
        firing.write(self.settings, shown, at)
        now = {(one["name"], one["summary"].split(" ")[0]): one for one in shown}
        for key in now.keys() - self._fired:
            one = now[key]
            level = WORD.get(one["severity"], logging.WARNING)
            log.log(level, "alert=%s event=firing summary=%r runbook=%s", one["name"], one["summary"], one["runbook"])
        for name, _ in self._fired - now.keys():
            log.info("alert=%s event=resolved", name)
        self._fired = set(now)

    def exposition(self) -> str:
        """What only this process knows, as text."""
        lines = [_line(name, labels, value) for name, labels, value in self.learnt]
        for alert in self.alerts:
            state = {"alertname": alert.rule.name, "alertstate": "firing" if alert.firing else "pending"}
            lines.append(_line("ALERTS", alert.labels | state, 1.0))
        return "\n".join([*lines, ""])


def as_told(alert: Alert) -> dict[str, str]:
    """For people: {name, severity, summary, runbook, since}."""
    said = alert.annotations
    return {
        "name": alert.rule.name,
        "severity": alert.rule.labels.get("severity", "ticket"),
        "summary": said.get("summary", ""),
        "runbook": said.get("runbook", ""),
        "since": datetime.fromtimestamp(alert.since, UTC).isoformat(timespec="seconds"),
    }


def parsed(text: str, names: set[str]) -> Iterable[Sample]:
    """The samples of these names in a page of Prometheus' text format. The client's own parser renames counters.

    Raises ValueError for a line that is no sample.
    """
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if not found:
            raise ValueError(f"{line[:80]!r} is no sample")
        if found[1] in names:
            labels = {
                name: ESCAPED.sub(lambda e: {"n": "\n"}.get(e[1], e[1]), text)
                for name, text in LABEL.findall(found[2] or "")
            }
            yield found[1], labels, float(found[3])


def _envoy(name: str) -> str:
    """The part of Envoy's own stat name that its page can filter by."""
    kept = name.removeprefix("envoy_").removesuffix("_bucket")
    # a class of status codes is a label here and a digit there
    return kept.removeprefix("http_").removeprefix("cluster_").replace("_xx", "_.xx")


def _instance(url: str) -> str:
    return url.split("/")[2]


def _line(name: str, labels: dict[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{text}"' for label, text in sorted(labels.items()))
    return f"{name}{{{inside}}} {value:.15g}"


def sources(settings: Settings) -> dict[str, Callable[[], list[Sample]]]:
    store = open_store(settings.model_copy(update={"store_attempts": 1}))
    airflow = AirflowClient(settings)
    return {"store": lambda: data_metrics(store), "airflow": lambda: dag_metrics(airflow)}


async def serve(settings: Settings) -> None:
    watch = Watch(settings, sources(settings))

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(watch.exposition(), media_type="text/plain; version=0.0.4")

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    app = Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz)])
    port: Any = settings.port("watch")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False))
    loop = asyncio.create_task(watch.run())
    try:
        await server.serve()
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


def main() -> int:
    telemetry_off.apply()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    asyncio.run(serve(Settings()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
