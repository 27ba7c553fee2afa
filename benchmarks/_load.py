"""Open-loop load that remembers, for every request, when it was sent and answered, how, and by which release."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from tasks.open_loop import open_loop
from tasks.settings import Settings
from tasks.sources import open_source


@dataclass(frozen=True, slots=True)
class Reply:
    sent: float  # time.monotonic()
    answered: float
    status: int  # 0: no answer at all
    release: str


def households(settings: Settings, day: str) -> list[str]:
    """Raw ids of everybody who shopped that day."""
    return [trip.user_id for trip in open_source(settings.source).trips(day)]


async def load(
    settings: Settings,
    users: list[str],
    *,
    rate: float,
    seconds: float,
    during: Callable[[], Awaitable[None]] | None = None,
) -> list[Reply]:
    """Send `rate` requests a second for `seconds` through the router, whatever comes back; `during` runs beside it."""
    replies: list[Reply] = []
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=settings.url("router"), timeout=10, limits=limits) as client:

        async def one(number: int) -> None:
            user, sent = users[number % len(users)], time.monotonic()
            try:
                answer = await client.post("/rank", json={"surface": "recommendation", "user_id": user, "k": 20})
                status, release = answer.status_code, answer.headers.get("x-freshrank-release", "")
            except httpx.HTTPError:
                status, release = 0, ""
            replies.append(Reply(sent, time.monotonic(), status, release))

        async with open_loop(one, rate):
            await asyncio.gather(asyncio.sleep(seconds), *([during()] if during else []))
    return replies
