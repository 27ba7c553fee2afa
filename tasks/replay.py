"""Send a real day's trips as live requests, and what each trip bought as feedback: traffic for a rollout to be judged on.

`python -m tasks.replay` is the local stack's traffic service: silent, until a rollout needs requests.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tasks.adapters.api_keys import own_credentials
from tasks.adapters.releases import release_description
from tasks.adapters.store import open_store
from tasks.domain.behaviour import next_day
from tasks.domain.errors import FreshrankError, InputRejected
from tasks.open_loop import open_loop
from tasks.settings import Settings
from tasks.sources import Trip, open_source

log = logging.getLogger("freshrank.replay")
DEFAULT_RATE = 20.0
IN_FLIGHT = 64
ASKED_EVERY_S = 0.05  # whether more is wanted
UNDER_WAY = ("shadow", "canary")


@dataclass
class Tally:
    latencies_ms: list[float] = field(default_factory=list)
    failed: int = 0
    feedback: int = 0

    def summary(self) -> dict[str, Any]:
        ordered = sorted(self.latencies_ms)
        at = lambda q: ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0  # noqa: E731
        return {
            "requests": len(ordered) + self.failed,
            "failed": self.failed,
            "feedback": self.feedback,
            "p50_ms": round(at(0.5), 2),
            "p95_ms": round(at(0.95), 2),
        }


def replay_day(settings: Settings, day: str, *, rate: float, seconds: float) -> dict[str, Any]:
    """Open loop: `rate` requests a second for `seconds`, whatever the answers do; the day's trips in a loop.

    Raises:
        InputRejected: the day has no trips.
    """
    until = time.monotonic() + seconds

    async def more() -> bool:
        return time.monotonic() < until

    return asyncio.run(_send(settings, trips_of(settings, day), rate, more))


def trips_of(settings: Settings, day: str) -> list[Trip]:
    trips = open_source(settings.source).trips(day)
    if not trips:
        raise InputRejected(f"{day} has no trips to replay; choose another day")
    return trips


async def _send(
    settings: Settings, trips: list[Trip], rate: float, more: Callable[[], Awaitable[bool]]
) -> dict[str, Any]:
    tally, gate = Tally(), asyncio.Semaphore(IN_FLIGHT)
    # one feedback post for each trip: a purchase happened once, however often its request is looped
    looped: Iterator[tuple[int, Trip]] = itertools.cycle(enumerate(trips))
    posted: set[int] = set()
    key = own_credentials(settings)
    async with httpx.AsyncClient(base_url=settings.url("router"), timeout=10, auth=key) as client:

        async def one(_: int) -> None:
            number, trip = next(looped)
            first = number not in posted
            posted.add(number)
            await _one(client, trip, first, tally, gate)

        async with open_loop(one, rate):
            while await more():
                await asyncio.sleep(ASKED_EVERY_S)
    return tally.summary()


async def _one(client: httpx.AsyncClient, trip: Trip, first: bool, tally: Tally, gate: asyncio.Semaphore) -> None:
    request_id = uuid.uuid4().hex
    async with gate:
        began = time.monotonic()
        try:
            answer = await client.post(
                "/rank",
                json={"surface": "recommendation", "user_id": trip.user_id, "k": 20},
                headers={"x-request-id": request_id},
            )
            answer.raise_for_status()
            tally.latencies_ms.append((time.monotonic() - began) * 1000)
            if first:
                events = [{"item_id": item, "event_type": "purchase", "value": value} for item, value in trip.lines]
                told = await client.post(
                    "/feedback",
                    json={"request_id": request_id, "user_id": trip.user_id, "events": events},
                    headers={"x-request-id": uuid.uuid4().hex},
                )
                tally.feedback += told.is_success
        except httpx.HTTPError as err:
            tally.failed += 1
            log.warning("request=%s outcome=failed why=%s", request_id, type(err).__name__)


async def _watch(settings: Settings, rate: float) -> None:
    """Wait for a rollout, send the trips of the day after its state, stop when it is over; forever."""
    from tasks.controller.client import ControllerClient

    controller = ControllerClient(settings)

    async def rollout() -> dict[str, Any] | None:
        try:
            status = await asyncio.to_thread(controller.status)
        except FreshrankError:
            return None
        found = status.get("rollout")
        return found if found and found["state"] in UNDER_WAY else None

    while True:
        found = await rollout()
        if found is None:
            await asyncio.sleep(1)
            continue
        release = found.get("release") or (await asyncio.to_thread(controller.status))["challenger"]["digest"]
        day = next_day((await asyncio.to_thread(release_description, open_store(settings), release))["state_through"])
        checked_at = time.monotonic()

        async def more() -> bool:
            nonlocal checked_at
            if time.monotonic() - checked_at < 1:
                return True
            checked_at = time.monotonic()
            return await rollout() is not None

        log.info("release=%s day=%s rate=%s outcome=sending", release[:12], day, rate)
        try:
            trips = await asyncio.to_thread(trips_of, settings, day)
        except InputRejected as err:
            log.warning("day=%s outcome=no-traffic why=%s", day, err)
            await asyncio.sleep(5)
            continue
        log.info("release=%s day=%s outcome=sent %s", release[:12], day, await _send(settings, trips, rate, more))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks.replay", description=__doc__)
    parser.add_argument(
        "--rate", type=float, default=DEFAULT_RATE, help="requests per second while a rollout is judged"
    )
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings()
    if settings.source == "none":
        log.info("outcome=idle why=no source to replay; real users send the traffic")
        return 0
    asyncio.run(_watch(settings, chosen.rate))
    return 0


if __name__ == "__main__":
    sys.exit(main())
