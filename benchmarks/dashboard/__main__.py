"""Draws the dashboard of a loaded service, without Grafana.

python -m benchmarks.dashboard --minutes 6 --output docs/images/dashboard.png

`derain serve` and a Prometheus, as deploy/prometheus configures it, run on 127.0.0.1. Clients come in three
parts: few, too many, few again; among them large photographs, nonsense, clients that do not wait, and in the
middle a camera. Then the queries of deploy/grafana/dashboards/derain.json are asked of that Prometheus and
drawn, panel by panel.
Needs the program `prometheus`.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Annotated

import httpx
import typer
from websockets.asyncio.client import connect

from benchmarks.dashboard.panels import ask, panels
from benchmarks.dashboard.plot import draw
from benchmarks.dashboard.prometheus import prometheus
from benchmarks.process import service
from benchmarks.soak import SIZES, Traffic, picture

JPEG = {"Content-Type": "image/jpeg"}
LARGE = [(1280, 960), (1920, 1080), (3840, 2160)]
MEAN_PIXELS = sum(width * height for width, height in SIZES) / len(SIZES)
SCRAPE_SECONDS = 5
LONGEST_SECONDS = 10.0
"""How long a large photograph may keep this device busy."""


async def load(url: str, minutes: float, speed: float) -> None:
    """Half of what the device can do (`speed`, pixels a second), in the middle third several times as much,
    then half of it again."""
    capacity = speed / MEAN_PIXELS
    third = 20 * minutes
    calm = Traffic(url, clients=4, rate=min(0.5 * capacity, 8.0))
    rush = Traffic(url, clients=30, rate=min(5 * capacity, 40.0), seed=1)
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        sizes = [size for size in LARGE if size[0] * size[1] < LONGEST_SECONDS * speed]
        others = asyncio.gather(large(client, sizes or SIZES[-1:], 3 * third), impatient(client, 3 * third))
        await calm.run(third)
        await asyncio.gather(rush.run(third), camera(url, third))
        await calm.run(third)
        await others


async def large(client: httpx.AsyncClient, sizes: list[tuple[int, int]], seconds: float) -> None:
    """Now and then a large photograph."""
    chance = random.Random(2)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = picture(chance, size=chance.choice(sizes), image_format="jpeg")
        await client.post("/derain", content=data, headers=JPEG)
        await asyncio.sleep(3 * LONGEST_SECONDS)


async def impatient(client: httpx.AsyncClient, seconds: float) -> None:
    """Some wait only for seconds, and now and then one for less than anything takes."""
    chance = random.Random(3)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        patience = {"X-Request-Timeout": chance.choice(["0.02", *["4"] * 12])}
        data = picture(chance, size=(384, 256), image_format="jpeg")
        await client.post("/derain", content=data, headers=JPEG | patience)
        await asyncio.sleep(4)


async def camera(url: str, seconds: float) -> None:
    """Twelve frames a second, whether they come back or not."""
    frame = picture(random.Random(4), size=(384, 256), image_format="jpeg")
    async with connect(url.replace("http", "ws", 1) + "/stream") as stream:

        async def look() -> None:
            async for _ in stream:
                pass

        looking = asyncio.create_task(look())
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await stream.send(frame)
            await asyncio.sleep(1 / 12)
    await looking


def main(
    minutes: Annotated[float, typer.Option(help="How long the service is loaded.")] = 6.0,
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("docs/images/dashboard.png"),
) -> None:
    """Load a service, and draw what the dashboard shows of it."""
    with (
        service(DERAIN_MAX_QUEUE_IMAGES="16") as server,
        prometheus(server.url.removeprefix("http://"), interval=f"{SCRAPE_SECONDS}s") as watching,
    ):
        started = time.time()
        asyncio.run(load(server.url, minutes, server.series()["derain_throughput_pixels_per_second"]))
        ended = time.time()
        shown = panels()
        asked = {"start": started, "end": ended, "step": SCRAPE_SECONDS, "rate_seconds": 4 * SCRAPE_SECONDS}
        answers = [ask(watching, panel, **asked) for panel in shown]
    draw(shown, answers, output)


if __name__ == "__main__":
    typer.run(main)
