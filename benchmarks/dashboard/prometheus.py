"""A real Prometheus, configured as in deploy/prometheus but for its target and its intervals."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.process import ROOT, free_port, serving

SHIPPED = ROOT / "deploy/prometheus"
TARGET = "derain:8000"


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels, and its samples as seconds since the epoch and values."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus. All methods raise httpx.HTTPStatusError for what it does not understand."""

    url: str

    def instant(self, expression: str, *, at: float | None = None) -> list[Series]:
        """What an expression gives now, or gave at seconds since the epoch; one sample each."""
        found = self._get("query", query=expression, time=time.time() if at is None else at)["result"]
        return [_series(item["metric"], [item["value"]]) for item in found]

    def range(self, expression: str, *, start: float, end: float, step: float) -> list[Series]:
        """What an expression gave from `start` to `end`, seconds since the epoch, every `step` seconds."""
        found = self._get("query_range", query=expression, start=start, end=end, step=step)["result"]
        return [_series(item["metric"], item["values"]) for item in found]

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with how they fare."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: str | float) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60)
        answer.raise_for_status()
        return answer.json()["data"]


@contextmanager
def prometheus(target: str, *, interval: str, program: Path = Path("prometheus")) -> Iterator[Prometheus]:
    """Start one that scrapes `target` (host:port) and evaluates its rules every `interval`; ends it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(SHIPPED / "rules", folder / "rules")
        configuration = folder / "prometheus.yml"
        configuration.write_text(configured((SHIPPED / "prometheus.yml").read_text(), target, interval))
        port = free_port()
        command = [
            str(program),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]

        def ready(url: str) -> bool:
            return httpx.get(f"{url}/-/ready").is_success

        with serving(command, port=port, ready=ready, folder=folder) as server:
            yield Prometheus(server.url)


def configured(text: str, target: str, interval: str) -> str:
    """The shipped configuration with another target and another interval, and nothing else."""
    if TARGET not in text:
        raise ValueError(f"the shipped configuration does not scrape {TARGET}")
    return re.sub(r"((?:scrape|evaluation)_interval): \w+", rf"\1: {interval}", text.replace(TARGET, target))


def _series(labels: dict[str, str], samples: list[tuple[float, str]]) -> Series:
    return Series(labels, [moment for moment, _ in samples], [float(value) for _, value in samples])
