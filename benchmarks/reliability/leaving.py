"""Clients that leave at every stage of a request, orderly or by a reset, and what is kept of them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.exchange import Connection, address, leave, post
from benchmarks.process import Server, series
from benchmarks.serving.pictures import photograph_file
from benchmarks.soak import left_behind

WAVE = 16
"""Clients that come and leave together, but while they are restored: then each has the device for itself."""

SMALL, LARGE, HUGE = (64, 64), (256, 256), (1024, 768)
"""Width and height, of which the network makes nothing larger."""

WAYS = {"close": False, "reset": True}
PIECES = (0.1, 0.5, 0.9)
"""How much of the head, or of the body, somebody has sent who leaves in it."""

RESTORED = b"HTTP/1.1 200"
SMALL_BUFFER = 4096
PATIENCE_SECONDS = 60.0
BUSY_SECONDS = 5.0
"""How long it is waited for a stage to be reached."""

STAGES = {
    "connected": 1.0,
    "head": 1.0,
    "body": 1.0,
    "sent": 1.0,
    "queued": 0.5,
    "restored": 0.15,
    "answered": 0.2,
}
"""After what somebody leaves, and how many of each wave that there are of the cheap ones."""


@dataclass
class Left:
    """What became of clients that left, and of those that stayed; pixels as the network computes them.

    Attributes:
        clients: how many left, by stage and way.
        stayed, answered: good requests sent meanwhile, and those of them that were answered with 200.
        wanted_pixels: of pictures whose answers were at least begun to be sent.
        dead_pixels: of pictures that had arrived whole when their clients left.
        allowed_pixels: of those, what may be computed: with every wave what is on the device when it leaves.
        computed_pixels: of all batches that were finished.
        network_runs: all that were begun, those of batches that were then given up as well.
        unseen_waves: those that left before it was seen that they had got as far as they should.
        seconds_until_nothing_is_held: after the last has left; None: something still was.
    """

    clients: dict[str, int] = field(default_factory=dict[str, int])
    stayed: int = 0
    answered: int = 0
    wanted_pixels: int = 0
    dead_pixels: int = 0
    allowed_pixels: int = 0
    computed_pixels: int = 0
    network_runs: int = 0
    unseen_waves: int = 0
    seconds_until_nothing_is_held: float | None = None

    @property
    def computed_for_the_dead(self) -> int:
        """Pixels."""
        return max(0, self.computed_pixels - self.wanted_pixels)


async def leave_at_every_stage(server: Server, clients: int) -> Left:
    """So many clients leave at each of the cheap stages, each way, and fewer at those that cost computing;
    meanwhile one that stays asks all the time."""
    left = Left()
    before = server.series()
    waits = {b"X-Request-Timeout": b"%g" % PATIENCE_SECONDS}
    requests = {size: post(photograph_file(0, size, "PNG"), extra=waits) for size in (SMALL, LARGE, HUGE)}
    limit = int(before["derain_batch_pixels_limit"])
    ended = asyncio.Event()
    staying = asyncio.create_task(_stay(server.url, requests[SMALL], ended, left))
    for stage, share in STAGES.items():
        for way, reset in WAYS.items():
            size = 1 if stage == "restored" else WAVE
            waves = max(1, round(share * clients / size))
            for number in range(waves):
                await _wave(server, stage, size, number, requests, reset=reset, limit=limit, left=left)
            left.clients[f"{stage}, {way}"] = waves * size
    ended.set()
    await staying
    left.seconds_until_nothing_is_held = await asyncio.to_thread(settle, server)
    after = server.series()
    left.computed_pixels = int(after["derain_batch_pixels_sum"] - before["derain_batch_pixels_sum"])
    left.network_runs = int(after["derain_device_steps_total"] - before["derain_device_steps_total"])
    return left


def settle(server: Server, patience: float = 10.0) -> float | None:
    """Seconds until the service says that it holds nothing; None: it never did."""
    started = time.monotonic()
    while any(left_behind(server).values()):
        if time.monotonic() - started > patience:
            return None
        time.sleep(0.05)
    return time.monotonic() - started


async def _stay(url: str, request: bytes, ended: asyncio.Event, left: Left) -> None:
    async with Connection(url) as connection:
        while not ended.is_set():
            await _ask(connection, request, SMALL, left)
            await asyncio.sleep(0.05)


async def _ask(connection: Connection, request: bytes, size: tuple[int, int], left: Left) -> None:
    left.stayed += 1
    answer = await connection.ask(request, PATIENCE_SECONDS)
    if answer.status == 200:
        left.answered += 1
        left.wanted_pixels += _pixels(size)


async def _wave(
    server: Server,
    stage: str,
    clients: int,
    number: int,
    requests: dict[tuple[int, int], bytes],
    *,
    reset: bool,
    limit: int,
    left: Left,
) -> None:
    """Some clients come, get as far as `stage`, and leave."""
    size = {"restored": HUGE}.get(stage, LARGE)
    request = requests[size]
    head = request.index(b"\r\n\r\n") + 4
    piece = PIECES[number % len(PIECES)]
    sent = {
        "connected": b"",
        "head": request[: int(piece * head)],
        "body": request[: head + int(piece * (len(request) - head))],
    }.get(stage, request)
    connection = Connection(server.url)
    blocker: asyncio.Task[object] | None = None
    steps = await _value(connection, "derain_device_steps_total")
    if stage == "queued":
        blocker = asyncio.create_task(_keep_busy(server.url, requests[HUGE], left))
        await _until(connection, lambda found: found["derain_device_steps_total"] > steps)
    streams = await asyncio.gather(*(_connect(server.url, small=stage == "answered") for _ in range(clients)))
    for _, writer in streams:
        writer.write(sent)
    seen = True
    match stage:
        case "queued":
            seen = await _until(connection, lambda found: found["derain_queue_images"] > 0)
        case "restored":
            seen = await _until(connection, lambda found: found["derain_device_steps_total"] > steps)
        case "answered":
            starts = await asyncio.gather(*(reader.readexactly(len(RESTORED)) for reader, _ in streams))
            left.wanted_pixels += starts.count(RESTORED) * _pixels(size)
        case _:
            await asyncio.gather(*(writer.drain() for _, writer in streams))
    for _, writer in streams:
        leave(writer, reset=reset)
    left.unseen_waves += not seen
    if blocker is not None:
        await blocker
    connection.close()
    if sent == request and stage != "answered":
        pixels = clients * _pixels(size)
        left.dead_pixels += pixels
        # one that was begun at once, alone, and the batch that those behind it made
        left.allowed_pixels += min(pixels, max(limit, _pixels(size)) + _pixels(size))


async def _keep_busy(url: str, request: bytes, left: Left) -> None:
    async with Connection(url) as connection:
        await _ask(connection, request, HUGE, left)


async def _connect(url: str, *, small: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """`small`: with so little room that an answer stays with the service until it is read."""
    raw = socket.socket()
    raw.setblocking(False)
    if small:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    await asyncio.get_running_loop().sock_connect(raw, address(url))
    return await asyncio.open_connection(sock=raw, limit=SMALL_BUFFER)


async def _series(connection: Connection) -> dict[str, float]:
    answer = await connection.ask(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n", PATIENCE_SECONDS)
    return series(answer.body.decode())


async def _value(connection: Connection, name: str) -> float:
    return (await _series(connection))[name]


async def _until(connection: Connection, reached: Callable[[dict[str, float]], bool]) -> bool:
    """Wait for a stage, but not for ever: it may have passed already. Whether it was seen."""
    patience = time.monotonic() + BUSY_SECONDS
    while not reached(await _series(connection)):
        if time.monotonic() > patience:
            return False
        await asyncio.sleep(0.002)
    return True


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]
