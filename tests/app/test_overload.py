"""The rush of refusals. Were this wrong, the event loop would be woken for each of them, at the cost of the
network, or would go on resting when the rush is over, at the cost of everybody."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.overload import PERIOD_SECONDS, WakeupCoalescing


async def looks(coalescing: WakeupCoalescing, refusals: int) -> list[float]:
    """Seconds between the looks of the loop at a socket that always has something new, when so many requests
    are refused at once, and for a while after."""
    times: list[float] = []
    async with echo() as (reader, writer):
        for _ in range(refusals):
            coalescing.refused()
        until = time.monotonic() + 6 * PERIOD_SECONDS
        while time.monotonic() < until:
            writer.write(b"a")
            await reader.readexactly(1)
            times.append(time.monotonic())
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that sends back what comes."""
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1):
            writer.write(piece)
        writer.close()
        ended.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.close()
        await ended.wait()


def rested(gaps: list[float]) -> float:
    """Seconds in which the loop looked at nothing; a rest is shorter by what the look before it took."""
    return sum(seconds for seconds in gaps if seconds >= PERIOD_SECONDS / 2)


def test_one_refusal_delays_nobody() -> None:
    assert rested(asyncio.run(looks(WakeupCoalescing(), 1))) < 2 * PERIOD_SECONDS


def test_in_a_rush_requests_are_looked_at_together_and_after_it_at_once() -> None:
    found = asyncio.run(looks(WakeupCoalescing(), 2))
    assert rested(found) >= 1.5 * PERIOD_SECONDS
    assert rested(found[len(found) // 2 :]) < PERIOD_SECONDS


def test_as_long_as_refusals_come_it_goes_on() -> None:
    async def rush() -> float:
        """Looks per rest."""
        coalescing = WakeupCoalescing()
        coalescing.refused()
        began = time.monotonic()
        count = 0
        while time.monotonic() - began < 20 * PERIOD_SECONDS:
            coalescing.refused()
            await asyncio.sleep(0.0001)  # longer than a turn
            count += 1
        return count / 20

    assert asyncio.run(rush()) <= 12
