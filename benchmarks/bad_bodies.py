"""A hundred thousand generated bodies and the hand-made ones against a replica over HTTP: no 5xx, nothing accepted that the
published schema refuses, memory flat.

    make bench NAME=bad_bodies          (another seed or count: python -m benchmarks.bad_bodies --count 1000000 --seed 2)

The replica serves the tests' small release: what is tried is everything in front of the model. What it keeps on purpose
(rings, lists to join feedback to, caches of users and queries) is filled to the brim by good requests after the first
quarter; memory is compared then and at the end, so that what grows is a leak. schemathesis: tests/contract/test_bad_bodies.py.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import psutil

from benchmarks._bodies import GOOD, ITEMS, PATHS, Body, breaks_schema, by_hand, drawn
from benchmarks._processes import free_port, leave_on_sigterm, running
from benchmarks._table import Row, below, publish
from bentos.ranker.openapi import document
from tasks.serving.launch import launch_command, launch_environment
from tasks.serving.replica import KEPT_RECORDS, KEPT_SLATE_ITEMS
from tasks.serving.rings import SLATE_WEIGHT
from tasks.serving.search import KEPT_QUERIES
from tasks.serving.user_view import KEPT_USERS
from tests.serving_builders import a_release, write_secrets


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    leave_on_sigterm()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        src, view = a_release(Path(folder))
        port = free_port()
        secrets = write_secrets(Path(folder) / "secrets.json")
        command = launch_command(src, view, port, "bad", secrets=secrets, spool=Path(folder) / "spool")
        ready = f"http://127.0.0.1:{port}/readyz"
        server = started.enter_context(running(command, launch_environment(), ready, Path(folder)))
        rows = tried(psutil.Process(server.pid), port, options.count, options.seed, Path(folder) / "spool")
    return 0 if publish("bad_bodies", rows, ("msgspec", "uvicorn", "jsonschema")) else 1


def tried(server: psutil.Process, port: int, count: int, seed: int, spool: Path) -> list[Row]:
    hand, refused = by_hand(), breaks_schema(document("bench"))
    statuses: Counter[int] = Counter()
    wrong, slowest, memory, cold = 0, 0.0, 0, 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    began = time.monotonic()
    for number, body in enumerate(chain(hand, drawn(count, seed))):
        if number == (len(hand) + count) // 4:
            cold = server.memory_info().rss
            fill(connection, spool)
            memory = server.memory_info().rss
        if number % 2_000 == 0:
            _uploaded(spool)
            told = f"{json.dumps(dict(sorted(statuses.items())))} accepted wrongly: {wrong}"
            sys.stderr.write(f"{number:,} {told}, {server.memory_info().rss / 2**20:.1f} MiB\n")
        sent = time.perf_counter()
        status = _status(connection, body)
        slowest = max(slowest, time.perf_counter() - sent)
        statuses[status] += 1
        if status >= 500 or status == 0:
            sys.stderr.write(f"{status} {body.path} {body.content[:200]!r}\n")
        elif status < 400 and refused(body):
            wrong += 1
            sys.stderr.write(f"accepted {body.path} {body.content[:200]!r}\n")
    grown = server.memory_info().rss / max(memory, 1) - 1
    sys.stderr.write(f"{json.dumps(dict(sorted(statuses.items())))} in {time.monotonic() - began:.0f} s\n")
    accepted = sum(n for status, n in statuses.items() if 200 <= status < 300)
    return [
        below(f"5xx, or no answer, of {count:,} drawn and {len(hand)} hand-made bodies on {len(PATHS)} routes",
              sum(n for status, n in statuses.items() if status >= 500 or status == 0), "", 0),
        below("bodies accepted that break the published schema", wrong, "", 0),
        below("growth of the replica's memory over the last three quarters, everything it keeps filled before", grown, "", 0.05),
        Row("the same for filling it, by good requests", memory / max(cold, 1) - 1, ""),
        Row("share of the bodies that were good enough to be answered", accepted / statuses.total(), ""),
        Row("slowest answer", slowest * 1e3, "ms"),
    ]  # fmt: skip


def fill(connection: http.client.HTTPConnection, spool: Path) -> None:
    """Good requests, each of another user and query, until every ring and cache has begun to forget."""
    weighed, told = 0, Counter[str]()
    while (
        weighed < KEPT_SLATE_ITEMS
        or told["/feedback"] < KEPT_RECORDS
        or told["/search"] < max(KEPT_QUERIES, KEPT_USERS)
    ):
        for path in PATHS:
            number = told[path] = told[path] + 1
            value = (
                GOOD[path] | new_of(path, number) | ({"user_id": f"filler-{number}"} if "user_id" in GOOD[path] else {})
            )
            connection.request("POST", path, json.dumps(value).encode(), {"content-type": "application/json"})
            reply = connection.getresponse()
            answer = json.loads(reply.read())
            if reply.status >= 300:
                raise RuntimeError(f"a good body of {path} got {reply.status}: {answer}")
            weighed += SLATE_WEIGHT + len(answer["items"]) if "items" in answer else 0
        if told["/rank"] % 500 == 0:
            _uploaded(spool)


def new_of(path: str, number: int) -> dict[str, object]:
    """What makes a request unlike the ones before it, or large."""
    if path == "/search":
        return {"query": f"milk {number}"}
    return {"candidates": ITEMS, "k": len(ITEMS)} if path == "/rank" else {}


def _uploaded(spool: Path) -> None:
    """What the uploader does where there is a store: else the spool is full after 64 MiB, and refuses by right."""
    for segment in spool.glob("*/*.jsonl"):
        segment.unlink()


def _status(connection: http.client.HTTPConnection, body: Body) -> int:
    """0 where there was no answer. A connection that the server closed is opened again once."""
    for _ in range(2):
        try:
            connection.request("POST", body.path, body.content, body.headers)
            reply = connection.getresponse()
            reply.read()
            return reply.status
        except (http.client.HTTPException, OSError):
            connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
