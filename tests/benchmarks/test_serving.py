"""The comparison with other servers. If its load measured wrongly, its figures would praise the wrong one."""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.process import ROOT, Server
from benchmarks.serving.comparison import Plan, Start, compare
from benchmarks.serving.contenders import OURS, PEERS, Contender, environment
from benchmarks.serving.load import Measured, Post, Summary, arrivals, closed, opened, percentile
from benchmarks.serving.plot import draw

SERVICE_SECONDS = 0.05
SLACK_SECONDS = 0.2
"""Between the server's clock readings and the client's; on a busy machine both are late together."""
POST = Post("/", b"x", "text/plain")


@dataclass
class OneAtATime:
    """A server that works on one request at a time and takes `SERVICE_SECONDS`, at least, for each.

    Attributes:
        answered: clock readings of its answers.
    """

    url: str = ""
    answered: list[float] = field(default_factory=list[float])


@asynccontextmanager
async def one_at_a_time(*, refuse: bool = False) -> AsyncIterator[OneAtATime]:
    turn = asyncio.Lock()
    line = b"HTTP/1.1 503 Busy" if refuse else b"HTTP/1.1 200 OK"
    known = OneAtATime()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # ends when the client closes the connection, or with the event loop
        with suppress(asyncio.IncompleteReadError, asyncio.CancelledError):
            while await reader.readuntil(b"\r\n\r\nx"):
                async with turn:
                    await asyncio.sleep(SERVICE_SECONDS)
                    known.answered.append(time.perf_counter())
                writer.write(line + b"\r\nContent-Length: 3\r\n\r\nabc")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    known.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield known
    finally:
        server.close()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_clients_that_wait_are_as_fast_as_the_server_and_wait_for_each_other(concurrency: int) -> None:
    async def measure() -> tuple[Measured, float]:
        async with one_at_a_time() as server:
            measured = await closed(server.url, [POST] * 20, concurrency=concurrency)
            return measured, server.answered[-1] - server.answered[0]

    measured, busy = asyncio.run(measure())
    assert len(measured.latencies) == 20
    assert measured.answer_bytes == 60
    assert busy < measured.seconds < busy + SERVICE_SECONDS + SLACK_SECONDS
    assert measured.throughput == pytest.approx(20 / measured.seconds)
    # everyone but the first few has waited for the turns of all the others
    assert sum(latency > 0.98 * concurrency * SERVICE_SECONDS for latency in measured.latencies) >= 17
    assert sum(measured.latencies) < concurrency * measured.seconds


def test_a_server_that_falls_behind_cannot_slow_down_the_arrivals() -> None:
    """All arrive at once: the last has waited for all others; a client that held it back would hide it."""

    async def measure() -> tuple[Measured, list[float]]:
        async with one_at_a_time() as server:
            return await opened(server.url, [POST] * 10, [0.0] * 10), server.answered

    measured, answered = asyncio.run(measure())
    latencies = sorted(measured.latencies)
    for turn, (latency, at) in enumerate(zip(latencies, answered, strict=True), start=1):
        assert latency > 0.98 * turn * SERVICE_SECONDS
        assert latency - latencies[0] == pytest.approx(at - answered[0], abs=SLACK_SECONDS)


def test_refusals_count_as_failures_and_not_as_fast_answers() -> None:
    async def measure() -> Summary:
        async with one_at_a_time() as server, one_at_a_time(refuse=True) as busy:
            runs = [await closed(url, [POST] * 3, concurrency=1) for url in (server.url, busy.url)]
            return Summary.of(runs)

    summary = asyncio.run(measure())
    assert (summary.requests, summary.failures) == (3, 3)
    with pytest.raises(ValueError, match="nothing was answered"):
        Summary.of([])


def test_arrivals_are_random_at_the_rate_asked_for_and_the_same_for_everyone() -> None:
    due = arrivals(2000, 4.0, seed=1)
    gaps = [after - before for before, after in itertools.pairwise(due)]
    assert due == arrivals(2000, 4.0, seed=1)
    assert sum(gaps) / len(gaps) == pytest.approx(0.25, rel=0.1)
    # exponential: 1 - 1/e of the gaps are shorter than the mean
    assert sum(gap < 0.25 for gap in gaps) / len(gaps) == pytest.approx(0.632, abs=0.04)


def test_percentiles_are_those_of_the_textbook() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([0.0, 10.0], 99) == pytest.approx(9.9)
    assert percentile([7.0], 99) == 7.0


@pytest.fixture(scope="module")
def ours() -> Iterator[Server]:
    with OURS.running(Path(sys.executable), 4) as server:
        yield server


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_quick_comparison_runs_on_our_service(ours: Server) -> None:
    compared = compare({OURS: lambda: nullcontext(ours)}, Plan({1: 5, 4: 10}, arrivals=5, repeats=1))
    summaries = compared.summaries[OURS.name]
    assert {load: summary.requests for load, summary in summaries.items()} == {"1": 5, "4": 10, "open": 5}
    assert not any(summary.failures for summary in summaries.values())
    assert compared.peak_bytes[OURS.name] > 100 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.package)
def test_a_peer_is_compared_with_ours(peer: Contender, ours: Server, tmp_path: Path) -> None:
    """A peer that failed would be compared in vain."""
    pytest.importorskip("matplotlib", reason="the extra benchmark is not installed")
    python = environment(peer, ROOT / ".cache/serving", install=False)
    if python is None:
        pytest.skip(f"{peer.name} is not installed: python -m benchmarks.serving --install")
    servers: dict[Contender, Start] = {OURS: lambda: nullcontext(ours), peer: lambda: peer.running(python, 4)}
    compared = compare(servers, Plan({1: 5, 8: 10}, arrivals=5, repeats=1))
    assert not any(summary.failures for summary in compared.summaries[peer.name].values())
    assert all(ratio > 0 for loads in compared.ratios()[peer.name].values() for ratio in loads.values())
    draw(compared.ratios(), tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size > 1000


def test_servers_are_ended_with_all_their_processes(ours: Server) -> None:
    """Ours is only borrowed here: a second one is started and has to be gone afterwards."""
    assert ours.process.poll() is None
    with OURS.running(Path(sys.executable), 4) as server:
        assert server.resources().threads > 1
    time.sleep(0.1)
    assert server.process.poll() is not None
    assert server.resources().threads == 0
