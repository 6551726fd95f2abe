"""Every contender under every load, in turn, and what came of it as parts of ours."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.process import Server, Watch
from benchmarks.serving.contenders import OURS, Contender
from benchmarks.serving.load import Measured, Summary, arrivals, closed, opened
from benchmarks.serving.pictures import SIZES, photographs

OPEN = "open"
OPEN_LOAD = 0.7
"""Rate of the open load, in parts of what we answer at the largest concurrency."""

WARM_UP = 2 * len(SIZES)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked of everyone.

    Attributes:
        closed: requests by concurrency.
        arrivals: requests of the open load.
        repeats: rounds in which everyone has a turn at every load.
    """

    closed: Mapping[int, int]
    arrivals: int
    repeats: int


FULL = Plan({1: 20, 8: 60, 32: 90}, arrivals=50, repeats=2)
QUICK = Plan({1: 10, 8: 30, 32: 40}, arrivals=20, repeats=1)


@dataclass(frozen=True, slots=True)
class Compared:
    """Summaries by contender and load ("1", "8", "32", "open"), and the most that each had resident."""

    summaries: dict[str, dict[str, Summary]]
    peak_bytes: dict[str, int]
    open_rate: float

    def ratios(self) -> dict[str, dict[str, dict[str, float]]]:
        """Of every peer to ours, by load: throughput (below 1: it answers fewer), p50, p95 and p99 (above 1:
        it lets wait longer)."""
        ours = self.summaries[OURS.name]
        return {
            name: {
                load: {
                    measure: round(getattr(summary, measure) / getattr(ours[load], measure), 3)
                    for measure in ("throughput", "p50", "p95", "p99")
                }
                for load, summary in summaries.items()
            }
            for name, summaries in self.summaries.items()
            if name != OURS.name
        }

    def memory_ratios(self) -> dict[str, float]:
        """Peak resident memory of the whole tree of processes, in parts of ours."""
        ours = self.peak_bytes[OURS.name]
        return {name: round(peak / ours, 2) for name, peak in self.peak_bytes.items() if name != OURS.name}

    def report(self) -> dict[str, Any]:
        """Everything, as it goes into the file of results."""
        return {
            "ratios": self.ratios(),
            "memory_ratios": self.memory_ratios(),
            "measured": {
                name: {load: asdict(summary) for load, summary in summaries.items()}
                for name, summaries in self.summaries.items()
            },
            "peak_resident_bytes": self.peak_bytes,
            "open_rate": round(self.open_rate, 3),
        }


Start = Callable[[], AbstractContextManager[Server]]
"""Starts a server, and ends it."""


def compare(servers: Mapping[Contender, Start], plan: Plan, *, log: bool = False) -> Compared:
    """Drive every server with the same requests.

    Each has the machine to itself in its turn, since some take a good part of a core with waiting alone. Who
    begins changes by round; ours does in the first, by which the rate of the open load is set.
    """
    contenders = [OURS, *(one for one in servers if one != OURS)]
    runs: dict[Contender, dict[str, list[Measured]]] = {one: {} for one in contenders}
    peaks = dict.fromkeys(contenders, 0)
    rate = 0.0

    def drive(
        contender: Contender, server: Server, load: str, requests: Coroutine[Any, Any, Measured]
    ) -> None:
        with Watch(server, interval=0.5).running() as watch:
            measured = asyncio.run(requests)
        runs[contender].setdefault(load, []).append(measured)
        peaks[contender] = max(peaks[contender], watch.peak_bytes)
        if log:
            print(
                f"{contender.name}, {load}: {measured.throughput:.2f}/s, {len(measured.failures)} failures",
                file=sys.stderr,
                flush=True,
            )

    for round_number in range(plan.repeats):
        first = round_number % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            with servers[contender]() as server:
                requests = partial(_requests, contender, server)
                asyncio.run(requests(WARM_UP, concurrency=4))
                for concurrency, count in plan.closed.items():
                    drive(contender, server, str(concurrency), requests(count, concurrency=concurrency))
                rate = rate or OPEN_LOAD * runs[OURS][str(max(plan.closed))][0].throughput
                due = arrivals(plan.arrivals, rate, seed=round_number)
                drive(contender, server, OPEN, requests(plan.arrivals, due=due))
    return Compared(
        summaries={
            contender.name: {load: Summary.of(measured) for load, measured in loads.items()}
            for contender, loads in runs.items()
        },
        peak_bytes={contender.name: peak for contender, peak in peaks.items()},
        open_rate=rate,
    )


async def _requests(
    contender: Contender,
    server: Server,
    count: int,
    *,
    concurrency: int = 0,
    due: Sequence[float] | None = None,
) -> Measured:
    """So many at once, or each when it is due."""
    posts = contender.posts(photographs(count))
    if due is None:
        return await closed(server.url, posts, concurrency=concurrency)
    return await opened(server.url, posts, due)
