"""Loads that are the same for everyone: a list of requests, so many at once or at given times."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Post:
    """One request: where to, and its body."""

    path: str
    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What a server did with a list of requests.

    Attributes:
        seconds: from the first request, or the first that was due, to the last answer.
        latencies: seconds of every request that was answered with 200. With fixed arrivals they begin when a
            request was due, so that a client that is late does not hide how long a server lets it wait.
        failures: what the others were answered.
        answers: bytes that came back.
    """

    seconds: float
    latencies: list[float]
    failures: list[str]
    answer_bytes: int

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation; of one value, that."""
    if len(values) == 1:
        return values[0]
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = min(int(place), len(ordered) - 2)
    return ordered[low] + (place - low) * (ordered[low + 1] - ordered[low])


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """When requests are due, seconds from the beginning: a Poisson process of `rate` a second."""
    chance = random.Random(seed)
    due: list[float] = []
    now = 0.0
    for _ in range(count):
        now += chance.expovariate(rate)
        due.append(now)
    return due


async def closed(url: str, posts: Sequence[Post], *, concurrency: int) -> Measured:
    """So many clients, each of which sends its next request as soon as it has its answer."""
    record = _Record()
    waiting = iter(posts)

    async def client(session: httpx.AsyncClient) -> None:
        for post in waiting:
            await record.send(session, post, time.perf_counter())

    async with _session(url) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
        return record.measured(time.perf_counter() - started)


async def opened(url: str, posts: Sequence[Post], due: Sequence[float]) -> Measured:
    """Every request at its time, however many are unanswered by then."""
    record = _Record()

    async def arrive(session: httpx.AsyncClient, post: Post, at: float) -> None:
        await asyncio.sleep(at - time.perf_counter())
        await record.send(session, post, at)

    async with _session(url) as session:
        started = time.perf_counter()
        await asyncio.gather(
            *(arrive(session, post, started + at) for post, at in zip(posts, due, strict=True))
        )
        return record.measured(time.perf_counter() - started)


class _Record:
    """Answers as they come."""

    def __init__(self) -> None:
        self._latencies: list[float] = []
        self._failures: list[str] = []
        self._bytes = 0

    async def send(self, session: httpx.AsyncClient, post: Post, since: float) -> None:
        try:
            answer = await session.post(
                post.path, content=post.body, headers={"Content-Type": post.content_type}
            )
        except httpx.HTTPError as error:
            self._failures.append(repr(error))
            return
        if answer.status_code == 200:
            self._latencies.append(time.perf_counter() - since)
            self._bytes += len(answer.content)
        else:
            self._failures.append(f"{answer.status_code}: {answer.text[:200]}")

    def measured(self, seconds: float) -> Measured:
        return Measured(seconds, self._latencies, self._failures, self._bytes)


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False
    ) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Summary:
    """Several runs of one load on one server: answers per second as the median over the runs, latencies in
    seconds over all requests of all runs."""

    throughput: float
    p50: float
    p95: float
    p99: float
    requests: int
    failures: int

    @classmethod
    def of(cls, runs: Sequence[Measured]) -> Summary:
        """Raises ValueError when nothing was answered."""
        latencies = [latency for run in runs for latency in run.latencies]
        if not latencies:
            raise ValueError(f"nothing was answered: {[run.failures[:1] for run in runs]}")
        return cls(
            throughput=statistics.median(run.throughput for run in runs),
            p50=percentile(latencies, 50),
            p95=percentile(latencies, 95),
            p99=percentile(latencies, 99),
            requests=len(latencies),
            failures=sum(len(run.failures) for run in runs),
        )
