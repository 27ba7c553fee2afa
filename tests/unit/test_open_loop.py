"""A slow answer delays no later request, and none is left behind."""

from __future__ import annotations

import asyncio

from tasks.open_loop import open_loop


def test_requests_do_not_wait_for_answers_and_the_end_waits_for_all() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def scenario() -> None:
        third_begun = asyncio.Event()

        async def send(number: int) -> None:
            begun.append(number)
            if number == 2:
                third_begun.set()
            await third_begun.wait()  # a closed loop would hang here: the first answer needs the third request
            ended.append(number)

        async with open_loop(send, rate=200):
            await asyncio.wait_for(third_begun.wait(), 30)

    asyncio.run(scenario())
    assert begun[:3] == [0, 1, 2] and sorted(ended) == begun
