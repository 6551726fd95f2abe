"""What traces cost.

python -m benchmarks.tracing --output benchmarks/results/tracing.json

Two services run on 127.0.0.1, one without traces and one whose every request is traced and exported to a
collector on the same cores. They are asked in turn, round by round: for one small photograph at a time, its
prompt given, and for the list of models, in which there is next to nothing but what every request costs. Told
are processor seconds of the whole process, exporter included, and the client's time, as medians over rounds
and as ratios of the same round.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

import typer

from benchmarks.process import Server, service
from benchmarks.serving.pictures import photograph_file
from tests.collector import collecting

PROMPT = "a photo with heavy rain streaks"
SIDE = 64
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    """Milliseconds of the processor, and the median of the client's, for one request."""

    processor: float
    client: float


class Client:
    """Asks one server again and again over one connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        address = urlsplit(server.url)
        self._connection = HTTPConnection(str(address.hostname), address.port, timeout=120)
        self._photograph = photograph_file(0, (SIDE, SIDE))

    def derain(self) -> None:
        """Post the photograph."""
        path = f"/derain?prompt={quote(PROMPT)}"
        self._send("POST", path, self._photograph, {"Content-Type": "image/jpeg"})

    def models(self) -> None:
        """Ask what is loaded."""
        self._send("GET", "/models", None, {})

    def round(self, kind: str, requests: int) -> Round:
        """So many requests of one kind."""
        seconds: list[float] = []
        before = self._processor_seconds()
        for _ in range(requests):
            started = time.perf_counter()
            getattr(self, kind)()
            seconds.append(time.perf_counter() - started)
        used = self._processor_seconds() - before
        return Round(1000 * used / requests, 1000 * statistics.median(seconds))

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read().decode())
        response.read()

    def _processor_seconds(self) -> float:
        fields = Path(f"/proc/{self._server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def compare(clients: dict[str, Client], kind: str, rounds: int, requests: int) -> dict[str, object]:
    """Medians of every client, and of its ratios to the first."""
    for client in clients.values():
        client.round(kind, requests // 4)
    measured: dict[str, list[Round]] = {name: [] for name in clients}
    for number in range(rounds):
        order = list(clients.items())
        for name, client in order if number % 2 else reversed(order):
            measured[name].append(client.round(kind, requests))
    first = measured[next(iter(clients))]
    told: dict[str, object] = {}
    for name, found in measured.items():
        told[name] = {
            what: {
                "milliseconds": round(statistics.median(asdict(one)[what] for one in found), 4),
                "ratio": round(
                    statistics.median(
                        asdict(one)[what] / asdict(other)[what]
                        for one, other in zip(found, first, strict=True)
                    ),
                    4,
                ),
            }
            for what in ("processor", "client")
        }
    return told


def main(
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 20,
    requests: Annotated[int, typer.Option(min=4, help="Of each kind in each round.")] = 200,
) -> None:
    """Measure, and print what was found."""
    with ExitStack() as running:
        collector = running.enter_context(
            collecting(Path(running.enter_context(tempfile.TemporaryDirectory())))
        )
        clients = {
            "off": Client(running.enter_context(service(DERAIN_TRACING="false"))),
            "on": Client(
                running.enter_context(
                    service(DERAIN_TRACING="true", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
                )
            ),
        }
        found = {kind: compare(clients, kind, rounds, requests) for kind in ("derain", "models")}
        found["spans"] = {"exported": len(collector.spans())}
    text = json.dumps({"rounds": rounds, "requests": requests, "side": SIDE, **found}, indent=2)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
