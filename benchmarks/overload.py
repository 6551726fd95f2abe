"""What becomes of a service that is asked for more than it can do.

python -m benchmarks.overload --output benchmarks/results/overload.json

`derain serve` runs as a process of its own on 127.0.0.1. What it can do is measured with clients that wait
for their answers. Then requests arrive at random, however many are unanswered: at twice and at ten times that
rate, each with `X-Request-Timeout`. Asked of it: of what it can do, nine tenths are still answered in time;
the slowest in a hundred of what it took on is answered within the deadline; refusals come within 50 ms and
the probe within 100 ms; memory is bounded. Last, a storm: whoever is refused tries again at once, and again.
After it the load is half of what the service can do, and within two deadlines nobody is refused any more.
Everything is told by the client's clock. The client computes on the last core of the machine and the service
on the others, as long as there are two: what a client does to call must not count as what the service loses.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from benchmarks.exchange import Answer, Connection, post
from benchmarks.process import MIB, Server, Watch, compute_on_last_core, service
from benchmarks.serving.load import arrivals, percentile
from benchmarks.serving.pictures import photograph_file

PROMPT = "a photo with heavy rain streaks"
SIZES = ((256, 256), (1280, 720))
CONCURRENCY = 16
PROBE_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
"""How long those wait that find out what the service can do."""

STORM_FACTOR = 5.0
STORM_TRIES = 20


@dataclass
class Caller:
    """Sends one photograph again and again, over connections of its own."""

    url: str
    timeout: float
    size: tuple[int, int] = SIZES[0]

    def __post_init__(self) -> None:
        self._derain = post(
            photograph_file(0, self.size),
            target=f"/derain?prompt={quote(PROMPT)}".encode(),
            kind=b"image/jpeg",
            timeout=self.timeout,
            extra={b"Connection": b"close"},
        )
        self._probe = b"GET /livez HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"

    async def derain(self, due: float | None = None) -> Answer:
        """Post it; time counts from when it was due."""
        return await self._send(self._derain, time.perf_counter() if due is None else due)

    async def probe(self) -> Answer:
        """Ask whether it lives."""
        return await self._send(self._probe, time.perf_counter())

    async def _send(self, request: bytes, since: float) -> Answer:
        async with Connection(self.url) as connection:
            answer = await connection.ask(request, 2 * PATIENCE_SECONDS)
        return replace(answer, seconds=time.perf_counter() - since)


async def capacity(caller: Caller, seconds: float) -> float:
    """Answers per second when `CONCURRENCY` clients wait for theirs."""
    answers: list[Answer] = []
    until = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < until:
            answers.append(await caller.derain())

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    return sum(answer.status == 200 for answer in answers) / (time.perf_counter() - started)


async def flood(caller: Caller, rate: float, seconds: float) -> tuple[list[Answer], list[Answer], float]:
    """Requests at random times, and probes meanwhile.

    Returns:
        The requests' answers, the probes', and the seconds until the last request was answered.
    """
    probes: list[Answer] = []

    async def probe() -> None:
        while True:
            probes.append(await caller.probe())
            await asyncio.sleep(PROBE_SECONDS)

    started = time.perf_counter()

    async def arrive(at: float) -> Answer:
        await asyncio.sleep(started + at - time.perf_counter())
        return await caller.derain(started + at)

    probing = asyncio.create_task(probe())
    answers = await asyncio.gather(*(arrive(at) for at in arrivals(round(rate * seconds), rate, seed=1)))
    lasted = time.perf_counter() - started
    probing.cancel()
    return answers, probes, lasted


async def storm(caller: Caller, rate: float, seconds: float) -> float:
    """Everybody tries again at once, `STORM_TRIES` times; meanwhile and after it comes half of what the
    service can do.

    Returns:
        Seconds from the end of the storm until the last of the others was refused; 0 if none was.
    """
    started = time.perf_counter()
    refused = 0.0

    async def insist(at: float) -> None:
        await asyncio.sleep(started + at - time.perf_counter())
        for _ in range(STORM_TRIES):
            if time.perf_counter() - started > seconds or (await caller.derain()).status == 200:
                return

    async def visit(at: float) -> None:
        nonlocal refused
        await asyncio.sleep(started + at - time.perf_counter())
        if (await caller.derain()).status != 200:
            refused = max(refused, at)

    calm = seconds + 4 * caller.timeout
    insisting = [
        insist(at) for at in arrivals(round(STORM_FACTOR * rate * seconds), STORM_FACTOR * rate, seed=2)
    ]
    visiting = [visit(at) for at in arrivals(round(0.5 * rate * calm), 0.5 * rate, seed=3)]
    await asyncio.gather(*insisting, *visiting)
    return max(0.0, refused - seconds)


def judged(answers: Sequence[Answer], probes: Sequence[Answer], lasted: float) -> dict[str, Any]:
    """Figures of a flood; milliseconds but where named otherwise."""
    taken = [answer.seconds for answer in answers if answer.status == 200]
    refused = [answer.seconds for answer in answers if answer.status == 503]
    alive = [answer.seconds for answer in probes]
    return {
        "requests": len(answers),
        "statuses": dict(Counter(str(answer.status) for answer in answers)),
        "answers_per_second": len(taken) / lasted,
        "taken_on_p99_seconds": round(percentile(taken, 99), 3),
        "refused_ms": {name: round(1000 * percentile(refused, p), 1) for name, p in PERCENTS.items()}
        if refused
        else None,
        "probe_ms": {name: round(1000 * percentile(alive, p), 1) for name, p in PERCENTS.items()},
        "probes_failed": sum(answer.status != 200 for answer in probes),
    }


PERCENTS = {"median": 50.0, "p99": 99.0, "max": 100.0}


def measure(
    server: Server,
    *,
    seconds: float,
    timeout: float,
    factors: Sequence[float],
    size: tuple[int, int] = SIZES[0],
) -> dict[str, Any]:
    """The whole run on a service that has started, with photographs of `size` (width, height)."""
    caller = Caller(server.url, timeout, size)
    patient = Caller(server.url, PATIENCE_SECONDS, size)
    asyncio.run(capacity(patient, min(5.0, seconds)))
    with Watch(server, interval=0.5).running() as calm:
        peak = asyncio.run(capacity(patient, seconds))
    measured: dict[str, Any] = {
        "image": f"{size[0]}x{size[1]} JPEG",
        "deadline_seconds": timeout,
        "seconds": seconds,
        "answers_per_second_calm": round(peak, 2),
        "peak_memory_mib_calm": round(calm.peak_bytes / MIB),
    }
    for factor in factors:
        with Watch(server, interval=0.5).running() as watch:
            found = judged(*asyncio.run(flood(caller, factor * peak, seconds)))
        found["goodput"] = round(found.pop("answers_per_second") / peak, 3)
        found["peak_memory_mib"] = round(watch.peak_bytes / MIB)
        measured[f"at_{factor:g}_times_capacity"] = found
        print(f"at {factor:g} times capacity", json.dumps(found, indent=2), flush=True)
    measured["storm_drained_after_deadlines"] = round(
        asyncio.run(storm(caller, peak, seconds / 2)) / timeout, 2
    )
    return measured


def main(
    seconds: Annotated[float, typer.Option(help="Of every load.")] = 60.0,
    timeout: Annotated[float, typer.Option(help="How long clients wait, seconds.")] = 5.0,
    output: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
) -> None:
    """Start a service and ask too much of it."""
    cores = compute_on_last_core()
    with service(cores) as server:
        loads = [
            measure(server, seconds=seconds, timeout=timeout, factors=(2.0, 10.0), size=size)
            for size in SIZES
        ]
    measured = {"cores": {"service": len(cores) or 1, "client": 1}, "loads": loads}
    print(json.dumps(measured, indent=2))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
