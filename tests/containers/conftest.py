"""The image, built, and the composition, up. Both take minutes, so all tests share them.

A Docker engine, `docker compose` or docker-compose, and the base images have to be at hand. Set
TORCH_INDEX_URL to build the variant for CPUs.
"""

import os
import socket
import time
from collections.abc import Generator

import pytest

from tests.containers.engine import Compose, Composition, eventually, inspect, run, succeeds

IMAGE = "tvi-derain:test"
LABELS = {"SOURCE": "https://example.com/tvi-derain", "REVISION": "0123456789abcdef0123456789abcdef01234567"}
"""Arguments of the build that become labels."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def image() -> str:
    """The name of the image, built from the repository as it is."""
    if not succeeds("docker", "info"):
        pytest.skip("no Docker engine")
    arguments = dict(LABELS)
    if index := os.environ.get("TORCH_INDEX_URL"):
        arguments["TORCH_INDEX_URL"] = index
    started = time.monotonic()
    run(
        *("docker", "build", "--network", "host", "--tag", IMAGE),
        *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
        ".",
    )
    print(f"built in {time.monotonic() - started:.0f} s")
    return IMAGE


@pytest.fixture(scope="session")
def composes(image: str) -> list[Compose]:
    """Every Compose that is at hand."""
    found = [
        command for command in (("docker", "compose"), ("docker-compose",)) if succeeds(*command, "version")
    ]
    if not found:
        pytest.skip("neither docker compose nor docker-compose")
    environment = {
        "DERAIN_IMAGE": image,
        "DERAIN_CPUS": str(min(2, os.cpu_count() or 1)),
        "DERAIN_PUBLISH": str(free_port()),
        "PROMETHEUS_PUBLISH": str(free_port()),
    }
    return [Compose(command, "derain-test", environment) for command in found]


@pytest.fixture(scope="session")
def composition(composes: list[Compose]) -> Generator[Composition]:
    """The service and Prometheus, started in their order by the first Compose; without Grafana."""
    compose = composes[0]
    print(compose("version"))
    try:
        started = time.monotonic()
        compose("up", "--detach", "--no-build", "derain")
        running = Composition(
            compose,
            service=f"http://127.0.0.1:{compose.environment['DERAIN_PUBLISH']}",
            prometheus=f"http://127.0.0.1:{compose.environment['PROMETHEUS_PUBLISH']}",
            at_start={name: inspect(container) for name, container in compose.containers().items()},
        )
        eventually(running.is_ready, seconds=600, what="the service is ready")
        print(f"up and ready in {time.monotonic() - started:.0f} s")
        yield running
        print(compose("logs", "--no-color", "derain"))
    finally:
        compose("down", "--volumes")
