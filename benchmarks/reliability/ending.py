"""A service that is killed while it works, and started again where it was."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from benchmarks.exchange import Answer, Connection, address
from benchmarks.process import service
from benchmarks.reliability.cases import Cases
from benchmarks.reliability.fuzzing import PATIENCE_SECONDS, picture_of

CLIENTS = 8
LOAD_SECONDS = 1.0


@dataclass
class Killed:
    """What became of a service that got SIGKILL.

    Attributes:
        seconds_until_ready: from each start after a kill.
        answered: requests that were answered before.
        cut_off: of those that were under way when it was killed, how many got no answer: all that is lost.
        other_pictures: starts after which a photograph was answered otherwise than before.
    """

    seconds_until_ready: list[float] = field(default_factory=list[float])
    answered: int = 0
    cut_off: int = 0
    other_pictures: int = 0


def kill(times: int, cases: Cases, cores: Collection[int] = ()) -> Killed:
    """Kill it so many times under load, and start it again on the same port."""
    killed = Killed()
    with service(cores) as server:
        _, port = address(server.url)
        picture = asyncio.run(picture_of(server.url, cases))
        asyncio.run(_load(server.url, server.process.pid, cases.good(), killed))
    for number in range(times):
        started = time.monotonic()
        with service(cores, port) as server:
            killed.seconds_until_ready.append(round(time.monotonic() - started, 2))
            killed.other_pictures += asyncio.run(picture_of(server.url, cases)) != picture
            if number < times - 1:
                asyncio.run(_load(server.url, server.process.pid, cases.good(), killed))
    return killed


async def _load(url: str, pid: int, request: bytes, killed: Killed) -> None:
    """Clients that ask until the service is killed under their hands."""

    async def client() -> Answer:
        async with Connection(url) as connection:
            while (answer := await connection.ask(request, PATIENCE_SECONDS)).status == 200:
                killed.answered += 1
            return answer

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    await asyncio.sleep(LOAD_SECONDS)
    os.kill(pid, signal.SIGKILL)
    killed.cut_off += sum(answer.status == 0 for answer in await asyncio.gather(*clients))
