"""Whether a service stays as it was: hours of mixed requests, watched from outside.

python -m benchmarks.soak --minutes 120 --output benchmarks/results/soak.json

`derain serve` runs as a process of its own on 127.0.0.1. A few clients send photographs of many sizes and
formats, one and several at once, with prompts and without; files that are broken or no images; and some leave
before their answer, or in the middle of their upload. After a warm-up, and again at the end, everybody rests
for some seconds: resident memory must be within 5 % of what it was then, and neither threads nor file
descriptors may have become more. Every answer must be of the status that its request deserves. Fails (exit
status 1) where one of these does not hold.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from PIL import Image

from benchmarks.process import MIB, ROOT, Resources, Server, Watch, service

PHOTOGRAPHS = sorted((ROOT / "tests/data/pairs/input").glob("*.jpg"))
SIZES = [(64, 64), (96, 160), (300, 200), (256, 256), (384, 256), (321, 481), (512, 384), (800, 600)]
FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
PROMPTS = ["a photo with heavy rain streaks", "light rain", "remove the rain lightly", "leave it unchanged"]
REST_SECONDS = 20.0
"""Before anything is counted at rest: libvips lets its threads go after 15 idle seconds."""

MEMORY_GROWTH = 0.05
HELD = (
    "derain_inflight_bytes",
    "derain_inflight_requests",
    "derain_inflight_images",
    "derain_queue_images",
    "derain_backlog_seconds",
)


@dataclass
class Traffic:
    """A bounded number of clients that visit a service, and what became of their visits.

    Attributes:
        rate: visits per second that are begun at most.
        answers: how many visits of each kind had each outcome.
        surprises: what a visit got that it did not deserve.
    """

    url: str
    clients: int
    rate: float
    seed: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    surprises: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._kinds: dict[Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]], int] = {
            self.image: 10,
            self.several: 3,
            self.perceive: 2,
            self.nonsense: 3,
            self.leave_early: 2,
            self.break_off: 1,
            self.look_around: 1,
        }

    async def run(self, seconds: float) -> None:
        """Visit for so long."""
        until = time.monotonic() + seconds
        async with httpx.AsyncClient(base_url=self.url, timeout=300) as client:
            await asyncio.gather(*(self._visit(client, until) for _ in range(self.clients)))

    async def everything(self) -> None:
        """Every client makes every kind of visit, at once: the most that the service will hold."""
        async with httpx.AsyncClient(base_url=self.url, timeout=300) as client:
            for visit in self._kinds:
                await asyncio.gather(*(visit(client) for _ in range(self.clients)))
            largest = picture(self._random, size=SIZES[-1], image_format="png")
            posts = (client.post("/derain", content=largest, headers=PNG) for _ in range(self.clients))
            await asyncio.gather(*posts)

    async def _visit(self, client: httpx.AsyncClient, until: float) -> None:
        while time.monotonic() < until:
            [visit] = self._random.choices(list(self._kinds), list(self._kinds.values()))
            await asyncio.gather(self._bear(visit, client), asyncio.sleep(self.clients / self.rate))

    async def _bear(
        self, visit: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]], client: httpx.AsyncClient
    ) -> None:
        """A connection that breaks is a surprise, and not the end."""
        try:
            await visit(client)
        except httpx.TransportError as error:
            self.surprises.append(f"{visit.__name__}: {error!r}")

    async def image(self, client: httpx.AsyncClient) -> None:
        """One photograph as the body of a request."""
        image_format = self._random.choice(list(FORMATS))
        options = {"prompt": self._prompt()} if self._random.random() < 0.6 else {}
        if self._random.random() < 0.3:
            options["format"] = self._random.choice(list(FORMATS))
        answer = await client.post(
            "/derain",
            params=options,
            content=picture(self._random, image_format=image_format),
            headers={"Content-Type": f"image/{image_format}"},
        )
        self._expect("image", answer, 200)

    async def several(self, client: httpx.AsyncClient) -> None:
        """Several photographs in a form, answered in a container."""
        files = [("image", picture(self._random)) for _ in range(self._random.randint(2, 4))]
        accept = self._random.choice(["application/json", "application/zip"])
        form = {"prompt": self._prompt()} if self._random.random() < 0.5 else {}
        answer = await client.post("/derain", files=files, data=form, headers={"Accept": accept})
        self._expect("several", answer, 200)

    async def perceive(self, client: httpx.AsyncClient) -> None:
        """Ask what is wrong with a photograph."""
        answer = await client.post("/perceive", files={"image": picture(self._random)})
        self._expect("perceive", answer, 200)

    async def nonsense(self, client: httpx.AsyncClient) -> None:
        """What is the client's fault."""
        whole = picture(self._random, image_format="png")
        half = whole[: len(whole) // 2]
        match self._random.randrange(6):
            case 0:
                answer, status = (
                    await client.post("/derain", content=half, headers=PNG),
                    422,
                )
            case 1:
                answer, status = await client.post("/derain", content=b"no image at all", headers=PNG), 415
            case 2:
                answer, status = await client.post("/derain?model=none", content=whole, headers=PNG), 404
            case 3:
                answer, status = await client.post("/derain?format=gif", content=whole, headers=PNG), 422
            case 4:
                answer, status = await client.post("/derain?prompt=" + "rain " * 200, content=whole), 422
            case _:
                files = [("image", whole), ("image", b"")]
                answer, status = await client.post("/derain", files=files), 415
        self._expect("nonsense", answer, status)

    async def leave_early(self, client: httpx.AsyncClient) -> None:
        """Send a photograph and do not wait for it."""
        try:
            async with asyncio.timeout(self._random.uniform(0.0, 0.4)):
                await client.post("/derain", content=picture(self._random, image_format="png"), headers=PNG)
        except TimeoutError:
            self.answers["leave_early: left"] += 1
        else:
            self.answers["leave_early: answered"] += 1

    async def break_off(self, client: httpx.AsyncClient) -> None:
        """Leave in the middle of an upload."""
        url = client.base_url
        _, writer = await asyncio.open_connection(url.host, url.port)
        whole = picture(self._random, image_format="png")
        head = (
            f"POST /derain HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\nContent-Length: {len(whole)}"
        )
        writer.write(head.encode() + b"\r\n\r\n" + whole[: len(whole) // 2])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await writer.wait_closed()
        self.answers["break_off: left"] += 1

    async def look_around(self, client: httpx.AsyncClient) -> None:
        """What a scraper and a person ask."""
        for path in ("/metrics", "/readyz", "/models", "/openapi.json"):
            self._expect("look_around", await client.get(path), 200)

    def _prompt(self) -> str:
        """One of a few, now and then one that was never seen before."""
        if self._random.random() < 0.1:
            return f"a photo with rain, number {self._random.randrange(10**9)}"
        return self._random.choice(PROMPTS)

    def _expect(self, kind: str, answer: httpx.Response, status: int) -> None:
        self.answers[f"{kind}: {answer.status_code}"] += 1
        if answer.status_code != status:
            self.surprises.append(f"{kind}: {answer.status_code}, not {status}: {answer.text[:300]}")


PNG = {"Content-Type": "image/png"}


def picture(
    chance: random.Random, *, size: tuple[int, int] | None = None, image_format: str | None = None
) -> bytes:
    """A photograph of tests/data as a file, of some size and format where none is given."""
    with Image.open(chance.choice(PHOTOGRAPHS)) as photograph:
        scaled = photograph.convert("RGB").resize(size or chance.choice(SIZES), Image.Resampling.BILINEAR)
    file = BytesIO()
    image_format = image_format or chance.choice(list(FORMATS))
    options = {"compress_level": 1} if image_format == "png" else {"quality": 90}
    scaled.save(file, FORMATS[image_format], **options)
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a run showed; resources at rest after the warm-up and at rest in the end."""

    minutes: float
    memory_growth_allowed: float
    visits: dict[str, int]
    surprises: list[str]
    warm: Resources
    final: Resources
    loaded_first_bytes: int
    loaded_last_bytes: int
    peak_bytes: int
    left_behind: dict[str, float]
    exit_status: int

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words."""
        found: list[str] = []
        grown = self.final.resident_bytes / self.warm.resident_bytes - 1
        if grown > self.memory_growth_allowed:
            found.append(f"resident memory grew by {grown:.1%}")
        if self.final.threads > self.warm.threads:
            found.append(f"threads grew from {self.warm.threads} to {self.final.threads}")
        if self.final.descriptors > self.warm.descriptors:
            found.append(f"file descriptors grew from {self.warm.descriptors} to {self.final.descriptors}")
        if self.surprises:
            found.append(f"{len(self.surprises)} answers were not deserved, the first: {self.surprises[0]}")
        found += [f"{name} is {value:g} at rest" for name, value in self.left_behind.items() if value]
        if self.exit_status not in (0, -15):
            found.append(f"the service ended with status {self.exit_status}")
        return found


def soak(
    minutes: float,
    *,
    warm_up_minutes: float,
    clients: int,
    rate: float,
    memory_growth: float = MEMORY_GROWTH,
    log: bool = False,
) -> Soaked:
    """Start a service, visit it for so long, and end it; its memory may grow by this share after the
    warm-up."""
    with service() as server:
        traffic = Traffic(server.url, clients, rate)
        asyncio.run(traffic.everything())
        asyncio.run(traffic.run(60 * warm_up_minutes))
        warm = at_rest(server)
        watch = Watch(server, interval=min(5.0, minutes))
        with watch.running():
            asyncio.run(_told(traffic, watch, 60 * (minutes - warm_up_minutes), log=log))
        final = at_rest(server)
        held = left_behind(server)
    sizes = [resources.resident_bytes for _, resources in watch.samples]
    tenth = max(1, len(sizes) // 10)
    return Soaked(
        minutes=minutes,
        memory_growth_allowed=memory_growth,
        visits=dict(sorted(traffic.answers.items())),
        surprises=traffic.surprises,
        warm=warm,
        final=final,
        loaded_first_bytes=int(statistics.median(sizes[:tenth])),
        loaded_last_bytes=int(statistics.median(sizes[-tenth:])),
        peak_bytes=max(sizes),
        left_behind=held,
        exit_status=server.process.returncode,
    )


async def _told(traffic: Traffic, watch: Watch, seconds: float, *, log: bool) -> None:
    """Run the traffic and, every minute, say how large the service is."""
    running = asyncio.create_task(traffic.run(seconds))
    while log and not (await asyncio.wait((running,), timeout=60))[0]:
        elapsed, now = watch.samples[-1]
        print(
            f"{elapsed / 60:.0f} min: {now.resident_bytes / MIB:.0f} MiB, {now.threads} threads, "
            f"{now.descriptors} descriptors, {traffic.answers.total()} visits",
            flush=True,
        )
    await running


def at_rest(server: Server, seconds: float = REST_SECONDS) -> Resources:
    """The medians of five seconds, after so many in which nobody asks for anything, connections closed
    before."""
    time.sleep(seconds)
    samples: list[Resources] = []
    for _ in range(10):
        samples.append(server.resources())
        time.sleep(0.5)
    return Resources(
        resident_bytes=int(statistics.median(sample.resident_bytes for sample in samples)),
        threads=int(statistics.median(sample.threads for sample in samples)),
        descriptors=int(statistics.median(sample.descriptors for sample in samples)),
    )


def left_behind(server: Server) -> dict[str, float]:
    """What the service itself says it still holds; all of it should be zero."""
    found = server.series()
    return {name: found[name] for name in HELD}


def main(
    minutes: Annotated[float, typer.Option(help="How long, warm-up included.")] = 90.0,
    warm_up_minutes: Annotated[float | None, typer.Option(help="Of these; else a tenth.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="Visits at the same time at most.")] = 4,
    rate: Annotated[float, typer.Option(help="Visits per second at most.")] = 4.0,
    output: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
) -> None:
    """Soak a service and judge it."""
    warm_up = minutes / 10 if warm_up_minutes is None else warm_up_minutes
    soaked = soak(minutes, warm_up_minutes=warm_up, clients=clients, rate=rate, log=True)
    report = asdict(soaked) | {"failures": soaked.failures}
    print(json.dumps(report, indent=2))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=2) + "\n")
    raise typer.Exit(1 if soaked.failures else 0)


if __name__ == "__main__":
    typer.run(main)
