"""A real Ray cluster of several nodes on this machine, and a store that speaks S3."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
import ray
from ray.cluster_utils import Cluster

from benchmarks.process import free_port, tree
from tests.servers import program

STORE_BYTES = 100 * 2**20
PATIENCE_SECONDS = 600
"""Ray's processes are many and slow to start where others compute as well."""

STARTS = 4

RAY = {
    "USAGE_STATS_ENABLED": "0",
    "worker_niceness": "0",  # else they let everybody go first
    "worker_register_timeout_seconds": "600",
    "agent_register_timeout_ms": "300000",
    "health_check_timeout_ms": "60000",  # of a node that is slow; one that is dead does not answer at all
    "SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
"""Variables of Ray."""

Started = TypeVar("Started")


def eventually(check: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until it holds; what httpx raises counts as no."""
    patience = time.monotonic() + seconds
    while True:
        with suppress(httpx.HTTPError):
            if check():
                return
        assert time.monotonic() < patience, f"{what}: not within {seconds} seconds"
        time.sleep(0.1)


class Nodes:
    """The cluster: a head on which nothing is computed, and nodes with one core each."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes = list[object]()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def have(self, count: int) -> None:
        """Add nodes until there are so many."""
        while len(self._nodes) < count:
            add = partial(self._cluster.add_node, num_cpus=1, object_store_memory=STORE_BYTES)
            self._nodes.append(patiently(add))

    def running(self, title: str) -> list[object]:
        """The nodes that run a process with this in its title."""
        return [node for node in self._nodes if any(title in name for name in titles(node))]

    def kill(self, node: object) -> None:
        """Without a word of warning."""
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)


def patiently(start: Callable[[], Started]) -> Started:
    """Start a node. Ray gives it half a minute, which is not enough where everybody computes."""
    for _ in range(STARTS - 1):
        before = set(tree(os.getpid()))
        try:
            return start()
        except Exception as error:
            print(f"once more: {error}")
            for pid in set(tree(os.getpid())) - before:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    return start()


def titles(node: object) -> list[str]:
    """What a node's processes call themselves."""
    found: list[str] = []
    [raylet] = node.all_processes["raylet"]  # pyright: ignore
    for pid in tree(raylet.process.pid):
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip())
    return found


@pytest.fixture(scope="session")
def buckets() -> Generator[str]:
    """The URL of a server that speaks S3; whatever is started later finds it."""
    url = f"http://127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [program("moto_server"), "-H", "127.0.0.1", "-p", url.rpartition(":")[2]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            eventually(lambda: httpx.get(url).status_code < 500, "the store of buckets answers")
            yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def nodes(buckets: str) -> Generator[Nodes]:
    """The cluster, with this process as one of its drivers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY.items():
            patch.setenv(f"RAY_{name}", value)
        arguments = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=arguments))
        on_termination = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            yield Nodes(cluster)
        finally:
            ray.shutdown()
            cluster.shutdown()
            signal.signal(signal.SIGTERM, on_termination)  # Ray has put its own there
