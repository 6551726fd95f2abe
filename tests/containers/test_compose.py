"""Builds the image, brings the whole composition up, and uses it as an operator would.

Not in the default run: `make containers`, with a Docker engine, docker-compose (or the compose plugin)
and the base images at hand.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "derain-test"

pytestmark = pytest.mark.containers


def run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command in the repository, show its output when it fails, give its standard output."""
    print("$", *command, flush=True)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        timeout=3600,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(check: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait until `check` holds; it may raise httpx.TransportError before it does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if check():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"{what}: not within {seconds:.0f} seconds")


@dataclass(frozen=True)
class Composition:
    service: str
    prometheus: str
    container: str
    """Identifier of the service's container."""

    def query(self, expression: str) -> list[dict[str, object]]:
        """The samples that an instant query of Prometheus gives."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression})
        return answer.json()["data"]["result"]


def pixels(data: bytes) -> npt.NDArray[np.float64]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)


def compose_command() -> list[str]:
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine")
    if shutil.which("docker-compose"):
        return ["docker-compose", "-p", PROJECT]
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose", "-p", PROJECT]
    pytest.skip("no docker-compose")


@pytest.fixture(scope="module")
def composition() -> Iterator[Composition]:
    compose = compose_command()
    run("docker", "build", "--network", "host", "--tag", "tvi-derain:latest", ".")
    service, prometheus = free_port(), free_port()
    ports = {"DERAIN_PUBLISH": str(service), "PROMETHEUS_PUBLISH": str(prometheus)}
    try:
        run(*compose, "up", "--detach", "--no-build", environment=ports)
        running = Composition(
            service=f"http://127.0.0.1:{service}",
            prometheus=f"http://127.0.0.1:{prometheus}",
            container=run(*compose, "ps", "--quiet", "derain", environment=ports),
        )
        eventually(
            lambda: httpx.get(f"{running.service}/readyz").is_success,
            seconds=600,
            what="the service is ready",
        )
        yield running
        print(run(*compose, "logs", "--no-color", "derain", environment=ports))
    finally:
        subprocess.run([*compose, "down", "--volumes"], cwd=ROOT, env={**os.environ, **ports}, check=False)


def test_a_photograph_comes_back_restored(composition: Composition) -> None:
    photograph = sorted((ROOT / "tests/data/pairs/input").iterdir())[0]
    target = ROOT / "tests/data/pairs/target" / photograph.name
    answer = httpx.post(
        f"{composition.service}/derain",
        content=photograph.read_bytes(),
        headers={"Content-Type": "image/jpeg"},
        timeout=60,
    )
    print(answer.status_code, dict(answer.headers))
    assert answer.status_code == 200, answer.text
    rainy, clean, restored = (
        pixels(data) for data in (photograph.read_bytes(), target.read_bytes(), answer.content)
    )
    assert restored.shape == rainy.shape
    assert np.square(restored - clean).mean() < np.square(rainy - clean).mean()


def test_prometheus_sees_the_service_and_its_requests(composition: Composition) -> None:
    httpx.get(f"{composition.service}/models").raise_for_status()

    def scraped() -> bool:
        up = composition.query('up{job="derain"}')
        requests = composition.query("sum(derain_requests_total)")
        print("up:", json.dumps(up), "requests:", json.dumps(requests), flush=True)
        return [sample["value"][1] for sample in up] == ["1"] and float(requests[0]["value"][1]) >= 1  # type: ignore[index]

    eventually(
        lambda: bool(composition.query("sum(derain_requests_total)")) and scraped(),
        seconds=60,
        what="scraped",
    )


def test_docker_reports_the_service_healthy(composition: Composition) -> None:
    def healthy() -> bool:
        return (
            run("docker", "inspect", "--format", "{{.State.Health.Status}}", composition.container)
            == "healthy"
        )

    eventually(healthy, seconds=90, what="healthy")


def test_the_service_has_no_rights_to_lose(composition: Composition) -> None:
    assert run("docker", "exec", composition.container, "id", "-u") == "10001"
    refused = subprocess.run(
        ["docker", "exec", composition.container, "touch", "/opt/derain/weights/x"],
        capture_output=True,
        text=True,
    )
    assert refused.returncode != 0


def test_a_stop_reaches_the_service(composition: Composition) -> None:
    """Without exec form SIGTERM would be lost, and the stop would take the whole grace period."""
    started = time.monotonic()
    run("docker", "stop", "--time", "60", composition.container)
    assert time.monotonic() - started < 30
    code = run("docker", "inspect", "--format", "{{.State.ExitCode}}", composition.container)
    assert code in ("0", "143")
