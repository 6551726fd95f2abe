"""What the worker wastes: throughput against the offline best, time around the network, and waiting.

python -m benchmarks.batching --output benchmarks/results/batching.json

Everything is measured in one run on one machine, service and offline in turn, and told as medians and ratios.

throughput: a client that always has many requests of mixed sizes in flight, against `Restorer.restore` called
    offline over the same images in the best batches found by trial; once with the same decoding and encoding
    in a pool of as many threads beside it, and once alone, with nothing but the network to do.
overhead: one small image at a time over a kept connection; the time that is neither decoding, the network nor
    encoding: by the service's own clock (Server-Timing), and by the client's.
neighbours: small images that arrive while a large one is being restored; what they take longer than alone,
    as a part of the batches that they wait for: the large one and their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from threading import local
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import typer
from torch import Tensor

from app import images
from app.image_headers import ImageLimits
from app.images import Photograph
from benchmarks.exchange import Connection, post
from benchmarks.process import service
from benchmarks.serving.pictures import photograph_file
from model.checkpoint_folders import default_weights_dir
from model.memory import keep_freed_memory
from model.prompts import Prompt
from model.restorer import Restorer

PROMPT = "a photo with heavy rain streaks"
TARGET = f"/derain?prompt={quote(PROMPT)}"
MIX = [((256, 256), 8), ((384, 256), 6), ((128, 128), 16), ((96, 160), 8), ((512, 384), 2), ((300, 200), 6)]
"""Width and height, and how many of that size; every third a PNG, the others JPEG."""

ROUNDS = 9
"""Times that the mix is sent on end: its beginning and its end, where cores are idle, are to count little."""

BATCHES = (1, 2, 4, 8)
CONCURRENCY = 24
PATIENCE_SECONDS = 60.0
CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Picture:
    """A photograph of tests/data by its number, its size in pixels (width, height) and its format."""

    data: bytes
    media_type: str
    pixels: int

    @classmethod
    def of(cls, number: int, size: tuple[int, int], image_format: str) -> Picture:
        """Make one."""
        data = photograph_file(number, size, image_format)
        return cls(data, f"image/{image_format.lower()}", size[0] * size[1])


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: seconds by the client's clock, and those of the service's stages."""

    seconds: float
    stages: dict[str, float]
    batch_size: int

    @property
    def outside(self) -> float:
        """Seconds by the client's clock that are not decoding, the network, or encoding."""
        return self.seconds - self.worked

    @property
    def inside(self) -> float:
        """The same by the service's clock."""
        return self.stages["total"] - self.worked

    @property
    def worked(self) -> float:
        """Seconds of decoding, the network, and encoding."""
        return self.stages["decode"] + self.stages["inference"] + self.stages["encode"]


class Client:
    """Posts pictures over connections that stay open, one for each thread."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._thread = local()

    def reconnect(self) -> None:
        """Forget the connections: the service closes those that stay silent for some seconds."""
        self._thread = local()

    def derain(self, picture: Picture) -> Answered:
        """Post one. Raises RuntimeError when it is refused."""
        connection: HTTPConnection | None = getattr(self._thread, "connection", None)
        if connection is None:
            connection = HTTPConnection(str(self._address.hostname), self._address.port, timeout=120)
            connection.connect()
            self._thread.connection = connection
        started = time.perf_counter()
        connection.request("POST", TARGET, picture.data, {"Content-Type": picture.media_type})
        response = connection.getresponse()
        body = response.read()
        seconds = time.perf_counter() - started
        if response.status != 200:
            raise RuntimeError(body.decode())
        timings = dict(item.split(";dur=") for item in response.headers["Server-Timing"].split(", "))
        stages = {name: float(duration) / 1000 for name, duration in timings.items()}
        return Answered(seconds, stages, int(response.headers["X-Derain-Batch-Size"]))


async def saturate(url: str, pictures: Iterable[Picture]) -> list[int]:
    """Post all, `CONCURRENCY` at a time over connections that stay open. Returns the sizes of their batches.

    Raises:
        RuntimeError: one is refused.
    """
    waiting = iter(pictures)
    sizes: list[int] = []

    async def client() -> None:
        async with Connection(url) as connection:
            for picture in waiting:
                kind = picture.media_type.encode()
                request = post(picture.data, target=TARGET.encode(), kind=kind, timeout=PATIENCE_SECONDS)
                answer = await connection.ask(request, PATIENCE_SECONDS)
                if answer.status != 200:
                    raise RuntimeError(answer.trouble or answer.body.decode())
                sizes.append(int(answer.headers["x-derain-batch-size"]))

    await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    return sizes


def mixed() -> list[Picture]:
    """The mix, sizes well shuffled, always in the same way."""
    sizes = [size for size, count in MIX for _ in range(count)]
    order = sorted(range(len(sizes)), key=lambda index: index * 29 % len(sizes))
    return [
        Picture.of(number, sizes[index], "PNG" if number % 3 == 0 else "JPEG")
        for number, index in enumerate(order)
    ]


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Offline:
    """The best that can be done with the same pictures without a service."""

    def __init__(self, restorer: Restorer, pictures: Sequence[Picture]) -> None:
        self._restorer = restorer
        self._pictures = pictures
        self._decoded = [self._decode(picture) for picture in pictures]
        self._pool = ThreadPoolExecutor(CORES)
        by_size: dict[tuple[int, int], list[Tensor]] = {}
        for photograph in self._decoded:
            by_size.setdefault(self._size(photograph), []).append(photograph.pixels)
        self.best = {size: self._best_batch(group) for size, group in by_size.items()}

    def network(self) -> None:
        """Restore everything, decoded beforehand."""
        groups: dict[tuple[int, int], list[Photograph]] = {}
        for photograph in self._decoded:
            group = groups.setdefault(self._size(photograph), [])
            group.append(photograph)
            if len(group) == self.best[self._size(photograph)]:
                self._restore(groups.pop(self._size(photograph)))
        for group in groups.values():
            self._restore(group)

    def with_codecs(self) -> None:
        """Restore everything, decoding ahead and encoding behind in the pool."""
        groups: dict[tuple[int, int], list[Photograph]] = {}
        encoded: list[Future[bytes]] = []

        def restore(group: Sequence[Photograph]) -> None:
            encoded.extend(
                self._pool.submit(images.encode, photograph, photograph.image_format)
                for photograph in self._restore(group)
            )

        for photograph in self._pool.map(self._decode, self._pictures):
            group = groups.setdefault(self._size(photograph), [])
            group.append(photograph)
            if len(group) == self.best[self._size(photograph)]:
                restore(groups.pop(self._size(photograph)))
        for group in groups.values():
            restore(group)
        for future in encoded:
            future.result()

    def _best_batch(self, pixels: Sequence[Tensor]) -> int:
        """How many images of one size go together fastest, among `BATCHES`."""
        speeds: dict[int, float] = {}
        for count in BATCHES:
            if count > len(pixels):
                break
            restore = partial(self._restorer.restore, pixels[:count], [Prompt(PROMPT)] * count)
            speeds[count] = count / min(timed(restore) for _ in range(2))
        return max(speeds, key=lambda count: speeds[count])

    def _restore(self, group: Sequence[Photograph]) -> list[Photograph]:
        restored = self._restorer.restore(
            [photograph.pixels for photograph in group], [Prompt(PROMPT)] * len(group)
        )
        return [photograph.with_pixels(pixels) for photograph, pixels in zip(group, restored, strict=True)]

    def _size(self, photograph: Photograph) -> tuple[int, int]:
        return self._restorer.padded_size(photograph.height, photograph.width)

    @staticmethod
    def _decode(picture: Picture) -> Photograph:
        return images.decode(picture.data, ImageLimits(2**27))


def throughput(url: str, repeats: int) -> dict[str, Any]:
    """Megapixels per second offline and through the service, in turn; ratios of medians. Beside them, how
    much of the machine's cores the client takes while the service is saturated."""
    restorer = Restorer.from_checkpoint(default_weights_dir() / "tvi-derain-s")
    pictures = mixed() * ROUNDS
    offline = Offline(restorer, pictures)
    megapixels = sum(picture.pixels for picture in pictures) / 1e6
    seconds: dict[str, list[float]] = {"network": [], "with_codecs": [], "service": []}
    sizes: list[int] = []
    client_seconds = 0.0
    asyncio.run(saturate(url, pictures))
    for _ in range(repeats):
        seconds["network"].append(timed(offline.network))
        seconds["with_codecs"].append(timed(offline.with_codecs))
        computed = time.process_time()
        seconds["service"].append(timed(lambda: sizes.extend(asyncio.run(saturate(url, pictures)))))
        client_seconds += time.process_time() - computed
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "images": len(pictures),
        "megapixels": round(megapixels, 2),
        "concurrency": CONCURRENCY,
        "best_batch_offline": {f"{width}x{height}": n for (height, width), n in offline.best.items()},
        "mean_batch_service": round(statistics.mean(sizes), 2),
        "megapixels_per_second": {name: round(megapixels / value, 3) for name, value in medians.items()},
        "spread_seconds": {name: [round(min(v), 2), round(max(v), 2)] for name, v in seconds.items()},
        "client_share_of_cores": round(client_seconds / sum(seconds["service"]) / CORES, 3),
        "service_of_offline_with_codecs": round(medians["with_codecs"] / medians["service"], 3),
        "service_of_offline_network_alone": round(medians["network"] / medians["service"], 3),
    }


def settings(url: str, repeats: int) -> dict[str, float]:
    """The mix through services with other codec pools and with one lane, in turn: speed in parts of the
    default one."""
    pictures = mixed() * (ROUNDS // 3)
    pools = sorted({1, CORES, 2 * CORES})
    others = [*(("DERAIN_CODEC_THREADS", str(threads)) for threads in pools), ("DERAIN_DEVICE_LANES", "1")]
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        services = {"default": url} | {
            f"{name} {value}": stack.enter_context(service(**{name: value})).url for name, value in others
        }
        for _ in range(1 + repeats):
            for name, one in services.items():
                saturated = timed(lambda one=one: asyncio.run(saturate(one, pictures)))
                seconds.setdefault(name, []).append(saturated)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {name: round(medians["default"] / value, 3) for name, value in medians.items()}


def overhead(client: Client, requests: int) -> dict[str, Any]:
    """Milliseconds around the work, one small image at a time."""
    small = Picture.of(0, (64, 64), "JPEG")
    client.reconnect()
    for _ in range(20):
        client.derain(small)
    answers = [client.derain(small) for _ in range(requests)]
    return {
        "image": "64x64 JPEG",
        "requests": requests,
        "service_clock_ms": percentiles([answer.inside for answer in answers]),
        "client_clock_ms": percentiles([answer.outside for answer in answers]),
        "queue_ms": percentiles([answer.stages["queue"] for answer in answers]),
        "worked_ms": percentiles([answer.worked for answer in answers]),
    }


def neighbours(client: Client, repeats: int) -> dict[str, Any]:
    """What small images lose by arriving while a large one is being restored."""
    large, small = Picture.of(1, (512, 384), "JPEG"), Picture.of(2, (128, 128), "JPEG")
    client.reconnect()
    alone = statistics.median(client.derain(small).seconds for _ in range(20))
    parts: list[float] = []
    sizes: list[int] = []
    with ThreadPoolExecutor(8) as clients:
        for _ in range(repeats):
            running = clients.submit(client.derain, large)
            time.sleep(0.03)
            answers = list(clients.map(client.derain, [small] * 4))
            waited = running.result().stages["inference"]
            sizes += [answer.batch_size for answer in answers]
            parts += [(answer.seconds - alone) / (waited + answer.stages["inference"]) for answer in answers]
    return {
        "small_images": len(parts),
        "mean_batch": round(statistics.mean(sizes), 2),
        "excess_of_batches_waited_for": {
            "median": round(statistics.median(parts), 2),
            "max": round(max(parts), 2),
        },
        "over": sum(part > 1 for part in parts),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile and maximum in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    named = {"median": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(seconds)}
    return {name: round(1000 * value, 2) for name, value in named.items()}


def main(
    repeats: Annotated[int, typer.Option(help="Rounds of the throughput measurement.")] = 3,
    requests: Annotated[int, typer.Option(help="Requests of the overhead measurement.")] = 500,
    output: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
) -> None:
    """Start a service and measure it."""
    keep_freed_memory()  # as the service does, for what is measured in this process
    measured: dict[str, Any] = {"cpu_cores": CORES}
    with service() as running:
        client = Client(running.url)
        for name, measure in {
            "overhead": lambda: overhead(client, requests),
            "neighbours": lambda: neighbours(client, 10),
            "throughput": lambda: throughput(running.url, repeats),
            "settings": lambda: settings(running.url, repeats),
        }.items():
            measured[name] = measure()
            print(name, json.dumps(measured[name], indent=2), flush=True)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
