"""A server in a process group of its own, and what Linux counts of it and all its descendants (/proc)."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
STARTUP_SECONDS = 600.0
LEAVING_SECONDS = 30.0
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Resources:
    """What a tree of processes holds.

    Attributes:
        resident_bytes: pages in memory. Those that processes of the tree share are counted once, and those
            shared with others, libraries above all, in full, so that it does not depend on who else runs.
        threads, descriptors: of all processes together.
    """

    resident_bytes: int
    threads: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it answers, and the first of its processes."""

    url: str
    process: subprocess.Popen[bytes]

    def resources(self) -> Resources:
        """What it holds now."""
        return resources(self.process.pid)

    def memory(self, kind: str) -> int:
        """Bytes of its first process: `VmRSS` now, or `VmHWM`, the most since the last reset."""
        return 1024 * _numbers(Path(f"/proc/{self.process.pid}/status"))[kind]

    def series(self) -> dict[str, float]:
        """What it tells of itself at /metrics."""
        return series(httpx.get(f"{self.url}/metrics").text)

    def reset_peak(self) -> None:
        """Let VmHWM begin at what is resident now (proc(5), clear_refs)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def series(text: str) -> dict[str, float]:
    """The numbers of a Prometheus text by names and labels."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(number) for name, number in lines}


def compute_on_last_core() -> list[int]:
    """Leave all cores but the last to a service; gives those left to it, none where there is but one."""
    *cores, last = sorted(os.sched_getaffinity(0))
    if cores:
        os.sched_setaffinity(0, {last})
    return cores


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    found += tree(int(child))
    return found


def resources(pid: int) -> Resources:
    """What a process and its descendants hold; those that end meanwhile count as nothing."""
    own = files = threads = descriptors = 0
    for one in tree(pid):
        with suppress(OSError, KeyError):
            shares = _numbers(Path(f"/proc/{one}/smaps_rollup"))
            status = _numbers(Path(f"/proc/{one}/status"))
            own += 1024 * (shares["Pss_Anon"] + shares["Pss_Shmem"])
            files = max(files, 1024 * status["RssFile"])
            threads += status["Threads"]
            descriptors += sum(1 for _ in Path(f"/proc/{one}/fd").iterdir())
    return Resources(own + files, threads, descriptors)


def _numbers(file: Path) -> dict[str, int]:
    """Names and numbers of a /proc file of lines such as `Threads: 4` and `RssFile: 12 kB`."""
    return {name: int(number) for name, number in re.findall(r"^(\w+):\s+(\d+)", file.read_text(), re.M)}


@dataclass
class Watch:
    """Samples of a server's resources, taken by a thread of their own every `interval` seconds."""

    server: Server
    interval: float
    samples: list[tuple[float, Resources]] = field(default_factory=list[tuple[float, Resources]])

    @contextmanager
    def running(self) -> Iterator[Watch]:
        """Take samples for as long as the context lasts; times are seconds since it began."""
        ended = threading.Event()
        started = time.monotonic()

        def sample() -> None:
            while True:
                self.samples.append((time.monotonic() - started, self.server.resources()))
                if ended.wait(self.interval):
                    return

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()

    @property
    def peak_bytes(self) -> int:
        """The most that was resident at a sample."""
        return max(resources.resident_bytes for _, resources in self.samples)


@contextmanager
def serving(
    command: Sequence[str],
    *,
    port: int,
    ready: Callable[[str], bool],
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator[Server]:
    """Start a server that listens on `port` of 127.0.0.1, and end its whole process group afterwards.

    Args:
        ready: told the URL, whether it answers yet; what httpx raises counts as no.
        environment: beside this process's own.

    Raises:
        RuntimeError: it ended or did not get ready within `STARTUP_SECONDS`; with the end of its log.
    """
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            patience = time.monotonic() + STARTUP_SECONDS
            while not _answers(ready, url):
                if process.poll() is not None or time.monotonic() > patience:
                    raise RuntimeError(f"{' '.join(command)} did not start:\n{_end_of(log.fileno())}")
                time.sleep(0.2)
            yield Server(url, process)
        finally:
            end(process)


@contextmanager
def service(cores: Collection[int] = (), port: int | None = None, /, **settings: str) -> Iterator[Server]:
    """Start our service, with these settings over the environment's, until ready; ends it.

    Args:
        cores: the only ones that it may run on; none: those of this process.
        port: None: a free one.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--log-level", "warning"]
    if cores:
        command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]

    def ready(url: str) -> bool:
        return httpx.get(f"{url}/readyz").is_success

    with serving(command, port=port, ready=ready, environment=settings) as server:
        yield server


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to leave, then kill what is left of its group and of its descendants."""
    descendants = tree(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LEAVING_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in descendants[1:]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _answers(ready: Callable[[str], bool], url: str) -> bool:
    try:
        return ready(url)
    except httpx.HTTPError:
        return False


def _end_of(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, 8192, max(0, size - 8192)).decode(errors="replace")
