"""A small real service with the process arguments of the ranker, for tests of the controller: copied into a release as
bentos/ranker/__main__.py. How it behaves is part of its release (release/behaviour.json)."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

parser = argparse.ArgumentParser()
for argument in ("release", "view", "port", "replica", "valkey", "spool", "secrets", "store-config", "digest"):
    parser.add_argument(f"--{argument}")
options, _ = parser.parse_known_args()

SRC = Path(options.release).parent
FILES = {
    p.relative_to(SRC).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in SRC.rglob("*") if p.is_file()
}
DIGEST = hashlib.sha256(json.dumps(FILES, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
BEHAVIOUR = json.loads((Path(options.release) / "behaviour.json").read_text())
ITEMS = [f"item-{number}" for number in range(50)]

served: list[dict[str, object]] = []
feedback_seen: list[dict[str, object]] = []


async def rank(request: Request) -> Response:
    began = time.perf_counter()
    await request.body()
    number = len(served) + 1
    if BEHAVIOUR.get("delay_ms"):
        await asyncio.sleep(BEHAVIOUR["delay_ms"] / 1000)
    request_id = request.headers.get("x-request-id", "")
    status = 500 if BEHAVIOUR.get("fail_every") and number % BEHAVIOUR["fail_every"] == 0 else 200
    items = ITEMS[::-1] if BEHAVIOUR.get("reversed") else ITEMS
    scores: list[float | None] = [1 / place for place in range(1, 21)]
    if BEHAVIOUR.get("slow_every") and number % BEHAVIOUR["slow_every"] == 0:
        await asyncio.sleep(BEHAVIOUR["slow_ms"] / 1000)
    if BEHAVIOUR.get("constant"):
        scores = [1.0] * 20
    if BEHAVIOUR.get("nan"):
        scores[3] = None  # what a NaN is in JSON
    milliseconds = (time.perf_counter() - began) * 1000
    served.append(
        {"n": number, "request_id": request_id, "at": time.time(), "status": status, "latency_ms": milliseconds}
        | {"users_known": True, "items": items[:20], "scores": scores, "stage": "full"}
    )
    if BEHAVIOUR.get("exit_after") == number:
        os._exit(7)
    reply = {"request_id": request_id, "release": DIGEST, "items": [{"item_id": i, "score": 0.5} for i in items[:20]]}
    return JSONResponse(reply, status, headers={"x-freshrank-release": DIGEST})


async def feedback(request: Request) -> Response:
    body = await request.json()
    items = [event["item_id"] for event in body["events"]]
    feedback_seen.append({"n": len(feedback_seen) + 1, "request_id": body["request_id"], "item_ids": items})
    return JSONResponse({"accepted": len(items)}, 202)


async def readyz(request: Request) -> Response:
    if BEHAVIOUR.get("never_ready"):
        return JSONResponse({"error": "loading"}, 503)
    return JSONResponse({"release": BEHAVIOUR.get("claims", DIGEST)})


async def page(request: Request) -> Response:
    return JSONResponse({"replica": options.replica, "pid": os.getpid()})


async def metrics(request: Request) -> Response:
    return PlainTextResponse("# TYPE freshrank_feedback_refused_total counter\nfreshrank_feedback_refused_total 0\n")


async def ring(request: Request) -> Response:
    records = served if request.url.path == "/served" else feedback_seen
    after = int(request.query_params.get("after", 0))
    return JSONResponse(records[after : after + 1000])


if BEHAVIOUR.get("exit_at_start"):
    raise SystemExit(3)
app = Starlette(
    routes=[
        Route("/rank", rank, methods=["POST"]),
        Route("/feedback", feedback, methods=["POST"]),
        Route("/readyz", readyz),
        Route("/served", ring),
        Route("/feedback_seen", ring),
        Route("/metrics", metrics),
        Route("/", page),
    ]
)
uvicorn.run(
    app,
    host="127.0.0.1",
    port=int(options.port),
    log_level="warning",
    access_log=False,
    timeout_keep_alive=120,
    timeout_graceful_shutdown=5,
)
