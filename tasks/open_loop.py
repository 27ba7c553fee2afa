"""Load that comes at its own pace: a slow answer delays no later request, so that what a server makes people wait is seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def open_loop(send: Callable[[int], Coroutine[None, None, None]], rate: float) -> AsyncIterator[None]:
    """Begin `send(0)`, `send(1)`, ... `rate` times a second while the block runs; at its end wait for those under way."""
    under_way, stop = set[asyncio.Task[None]](), asyncio.Event()

    async def drive() -> None:
        number, due = 0, time.monotonic()
        while not stop.is_set():
            under_way.add(task := asyncio.create_task(send(number)))
            task.add_done_callback(under_way.discard)
            number, due = number + 1, due + 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    driver = asyncio.create_task(drive())
    try:
        yield
    finally:
        stop.set()
        await driver
        await asyncio.gather(*under_way)
