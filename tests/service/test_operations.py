"""The port for probes and metrics. Were this wrong, strangers could read the metrics, or nobody could."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from app.main import create_app
from app.settings import Settings
from tests.service.test_lifecycle import process

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]


@pytest.fixture(scope="module")
def urls(run_app: Callable[[FastAPI], AbstractContextManager[str]]) -> Generator[tuple[str, str]]:
    """Of the service, and of its metrics."""
    app = create_app(Settings(metrics_port=0, trusted_hosts=("127.0.0.1",)))
    with run_app(app) as url:
        host, port = app.state.metrics_address
        yield url, f"http://{host}:{port}"


def test_metrics_are_on_their_own_port_and_not_on_the_main_one(urls: tuple[str, str]) -> None:
    main, own = urls
    assert own.startswith("http://127.0.0.1:"), "not beyond this machine unless it is asked for"
    assert httpx.get(f"{main}/models").status_code == 200
    metrics = httpx.get(f"{own}/metrics")
    assert metrics.status_code == 200
    assert 'derain_requests_total{endpoint="/models",status="200"}' in metrics.text
    refused = httpx.get(f"{main}/metrics")
    assert refused.status_code == 404
    assert refused.headers["content-type"] == "application/problem+json"
    assert "/metrics" not in httpx.get(f"{main}/openapi.json").json()["paths"]


def test_probes_are_on_both_whatever_host_they_name(urls: tuple[str, str]) -> None:
    for url in urls:
        for headers in ({}, {"Host": "10.0.0.7:8000"}):
            assert httpx.get(f"{url}/livez", headers=headers).json() == {"status": "alive"}
            assert httpx.get(f"{url}/readyz", headers=headers).json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/derain", "/perceive", "/models", "/docs", "/openapi.json", "/"])
def test_nothing_else_is_on_it(urls: tuple[str, str], path: str) -> None:
    for method in ("GET", "POST"):
        response = httpx.request(method, f"{urls[1]}{path}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-content-type-options"] == "nosniff"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_stays_until_the_last_request_is_answered_and_says_that_the_service_leaves(
    make_image: Make, encode: Encode
) -> None:
    """Under plain uvicorn, whose signals must not be caught by the second server."""
    image = encode(make_image(1, 1600, 1200))
    port = free_port()
    with process(metrics_port=str(port)) as service:
        url, own = service.url(), f"http://127.0.0.1:{port}"
        assert httpx.get(f"{own}/readyz").status_code == 200
        answers: list[httpx.Response] = []
        client = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/derain", files={"image": image}, timeout=120))
        )
        client.start()
        while "derain_inflight_bytes 0.0" in httpx.get(f"{own}/metrics").text:
            assert client.is_alive()
        service.process.send_signal(signal.SIGTERM)
        statuses: set[int] = set()
        while client.is_alive():
            statuses.add(httpx.get(f"{own}/readyz").status_code)
            time.sleep(0.02)
        client.join()
        assert 503 in statuses
        assert answers[0].status_code == 200
        assert service.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in "".join(service.said)


def test_a_port_that_is_taken_stops_the_start() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        process(metrics_port=str(taken.getsockname()[1])) as service,
    ):
        assert service.wait() != 0
        assert "Address already in use" in "".join(service.said)
