"""Start and stop of a real process. Were these wrong, a deployment would lose requests at every rollout."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI
from PIL import Image

from app.main import create_app
from app.settings import Settings

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]
Decode = Callable[[bytes], Image.Image]

ROOT = Path(__file__).parents[2]


class Process:
    """A service in a process of its own, with what it says."""

    def __init__(self, factory: str = "app.main:create_app", **settings: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", factory, "--port", "0"],
            cwd=ROOT,
            env=os.environ | {f"DERAIN_{name.upper()}": value for name, value in settings.items()},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def url(self) -> str:
        """Where it serves, once it does."""
        patience = time.monotonic() + 120
        while not (found := re.search(r"running on (http://\S+)", "".join(self.said))):
            assert self.process.poll() is None, "".join(self.said)
            assert time.monotonic() < patience, "".join(self.said)
            time.sleep(0.05)
        return found[1]

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(timeout=60)
        self._listener.join(timeout=10)
        return code


@contextmanager
def process(factory: str = "app.main:create_app", **settings: str) -> Generator[Process]:
    service = Process(factory, **settings)
    try:
        yield service
    finally:
        service.process.kill()
        service.wait()


def test_sigterm_under_load_finishes_what_was_admitted(
    make_image: Make, encode: Encode, decode: Decode
) -> None:
    image = encode(make_image(1, 1000, 750))
    with process(deadline_seconds="300") as service, ThreadPoolExecutor(12) as clients:
        url = service.url()
        assert httpx.get(f"{url}/readyz").json() == {"status": "ready"}

        def derain() -> httpx.Response:
            return httpx.post(f"{url}/derain", files={"image": image}, timeout=60)

        first = [clients.submit(derain) for _ in range(12)]
        while (taken := admitted(url)) < 12:
            assert not any(answer.done() for answer in first), f"only {taken} requests were in flight at once"
        service.process.send_signal(signal.SIGTERM)
        answers = [answer.result() for answer in first]
        assert [answer.status_code for answer in answers] == [200] * 12
        assert all(decode(answer.content).size == (1000, 750) for answer in answers)
        assert service.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in "".join(service.said)
        assert refused(clients.submit(derain))


def admitted(url: str) -> int:
    """Requests that the service has taken on and not yet answered."""
    found = re.search(r"^derain_inflight_requests (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def refused(answer: Future[httpx.Response]) -> bool:
    return isinstance(answer.exception(timeout=30), httpx.ConnectError)


def test_while_it_drains_it_finishes_the_old_and_refuses_the_new(
    run_app: Callable[[FastAPI], AbstractContextManager[str]], make_image: Make, encode: Encode
) -> None:
    image = encode(make_image(1, 800, 800))
    app = create_app(Settings())
    with (
        run_app(app) as url,
        ThreadPoolExecutor(1) as clients,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        admitted_before = clients.submit(httpx.post, f"{url}/derain", files={"image": image}, timeout=60)
        while not app.state.pipeline.admission.images:
            assert not admitted_before.done()
        app.state.pipeline.admission.drain()
        for response in (
            client.post("/derain", files={"image": image}),
            client.post("/perceive", content=b""),
        ):
            assert response.status_code == 503
            assert response.json()["type"] == "urn:derain:problem:draining"
            assert int(response.headers["retry-after"]) >= 1
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        assert 'derain_rejected_total{reason="draining"} 2.0' in client.get("/metrics").text
        assert admitted_before.result().status_code == 200


def test_starting_leaves_no_thread_behind_that_slows_the_device_down(
    run_service: Callable[[Settings], AbstractContextManager[str]],
) -> None:
    """One that had computed would keep OpenMP's helpers: with more of them than cores, all sleep between any
    two operators, and a service of two cores answers a fifth less."""
    before = set(threading.enumerate())
    with run_service(Settings()):
        started = [thread.name for thread in set(threading.enumerate()) - before]
    others = [name for name in started if name not in ("device", "watchdog")]
    assert len(started) - len(others) == 2, "one computes, the other watches it"
    assert len(others) == 1, "that of the server alone"


def test_without_weights_it_does_not_start_and_says_why(tmp_path: Path) -> None:
    with process(weights_dir=str(tmp_path)) as service:
        assert service.wait() != 0
        said = "".join(service.said)
        assert "cannot start on auto: there is no restoration checkpoint" in said
        assert "Traceback" not in said
