"""API keys over a real socket. Were these wrong, strangers would use the service, or one client all of it."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from app.keys import LOOK_SECONDS, KeyFileError, append_entry, entry_of, new_secret
from app.main import create_app
from app.page import VERSION
from app.settings import Settings

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]
Run = Callable[[Settings], AbstractContextManager[str]]

PROTECTED = [("POST", "/derain"), ("POST", "/perceive"), ("GET", "/models"), ("GET", "/no/such/path")]
OPEN = [
    *("/", f"/static/{VERSION}/main.js", "/docs", "/docs/start.js", "/openapi.json"),
    *("/livez", "/readyz", "/metrics"),
]


class Keys:
    """A file of keys with the keys themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, **limits: Any) -> dict[str, str]:
        """Gives the headers of a request with this key."""
        secret = new_secret()
        append_entry(self.path, entry_of(secret, name, **limits))
        return {"Authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys.toml")


@pytest.fixture(scope="module")
def alice(keys: Keys) -> dict[str, str]:
    return keys.add("alice")


@pytest.fixture(scope="module")
def limited(keys: Keys) -> dict[str, str]:
    return keys.add("limited", requests_per_minute=3)


@pytest.fixture(scope="module")
def single(keys: Keys) -> dict[str, str]:
    return keys.add("single", concurrent_requests=1)


@pytest.fixture(scope="module")
def locked_url(
    run_service: Run, keys: Keys, alice: dict[str, str], limited: dict[str, str], single: dict[str, str]
) -> Generator[str]:
    with run_service(Settings(api_keys_file=keys.path)) as url:
        yield url


@pytest.fixture
def locked(locked_url: str) -> Generator[httpx.Client]:
    with httpx.Client(base_url=locked_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def png(make_image: Make, encode: Encode) -> bytes:
    return encode(make_image(1, 64, 48))


def rejected(client: httpx.Client, reason: str) -> float:
    name = f'derain_rejected_total{{reason="{reason}"}} '
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)


class TestWhoGetsIn:
    @pytest.mark.parametrize(("method", "path"), PROTECTED)
    def test_without_a_key_nothing_is_done(self, locked: httpx.Client, method: str, path: str) -> None:
        before = rejected(locked, "unauthorized")
        response = locked.request(method, path)
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["type"] == "urn:derain:problem:unauthorized"
        assert response.json()["instance"] == f"urn:derain:request:{response.headers['x-request-id']}"
        assert rejected(locked, "unauthorized") == before + 1

    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": "Bearer derain_wrong"},
            {"Authorization": "Bearer"},
            {"Authorization": "Basic YWxpY2U6eA=="},
            {"X-API-Key": "derain_wrong"},
            {"Authorization": b"Bearer \xff\xfe"},
        ],
    )
    def test_nor_with_a_wrong_one(self, locked: httpx.Client, headers: dict[str, str]) -> None:
        response = locked.get("/models", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")

    def test_nor_with_a_key_in_the_query(self, locked: httpx.Client, alice: dict[str, str]) -> None:
        secret = alice["Authorization"].split()[1]
        for name in ("key", "api_key", "access_token", "X-API-Key"):
            assert locked.get("/models", params={name: secret}).status_code == 401

    @pytest.mark.parametrize(
        "path",
        ["//models", "/models/", "/docs/../models", "/livez/../models", "/MODELS", "/docs/%2e%2e/models"],
    )
    def test_nor_by_another_spelling_of_the_path(self, locked_url: str, path: str) -> None:
        address = urlsplit(locked_url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b'"models"' not in answer
        assert answer.split()[1] in (b"401", b"404"), answer

    def test_with_a_key_all_is_done(self, locked: httpx.Client, alice: dict[str, str], png: bytes) -> None:
        secret = alice["Authorization"].split()[1]
        for headers in (alice, {"Authorization": f"bearer {secret}"}, {"X-API-Key": secret}):
            assert locked.get("/models", headers=headers).status_code == 200
        assert locked.post("/derain", files={"image": png}, headers=alice).status_code == 200
        assert locked.post("/perceive", files={"image": png}, headers=alice).status_code == 200

    @pytest.mark.parametrize("path", OPEN)
    def test_probes_metrics_and_documentation_need_none(self, locked: httpx.Client, path: str) -> None:
        assert locked.get(path).status_code == 200

    def test_a_stranger_is_refused_before_the_upload_and_can_read_why(self, locked_url: str) -> None:
        address = urlsplit(locked_url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(
                b"POST /derain HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\n"
                b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
            )
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 401 "), "no 100 Continue: nothing of the body is wanted"
        assert b"connection: close" in answer.lower()

    def test_the_documentation_says_what_needs_a_key(self, locked: httpx.Client) -> None:
        schema = locked.get("/openapi.json").json()
        assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
        locked_paths = {
            path
            for path, operations in schema["paths"].items()
            if all("security" in operation for operation in operations.values())
        }
        models = {"/models", "/v2", "/v2/models/{name}", "/v2/models/{name}/ready"}
        assert locked_paths == {"/derain", "/perceive", "/stream"} | models
        for path in ("/derain", "/perceive"):
            assert {"401", "408", "429"} <= set(schema["paths"][path]["post"]["responses"])


class TestLimits:
    def test_beyond_its_rate_a_key_is_told_when_to_come_again(
        self, locked: httpx.Client, limited: dict[str, str], alice: dict[str, str]
    ) -> None:
        before = rejected(locked, "rate")
        answers = [locked.get("/models", headers=limited) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit"].split(";t=")[0] for answer in answers] == [
            '"requests";r=2',
            '"requests";r=1',
            '"requests";r=0',
            '"requests";r=0',
        ]
        assert answers[0].headers["ratelimit-policy"] == '"requests";q=3;w=60'
        problem = answers[3].json()
        assert problem["limit"] == {"name": "requests_per_minute", "max": 3}
        assert 50 <= int(answers[3].headers["retry-after"]) <= 60
        assert rejected(locked, "rate") == before + 1
        assert "ratelimit" not in locked.get("/models", headers=alice).headers

    def test_a_slow_upload_takes_the_only_place_of_its_key_and_gives_it_back(
        self, locked_url: str, locked: httpx.Client, single: dict[str, str]
    ) -> None:
        before = rejected(locked, "concurrency")
        address = urlsplit(locked_url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(
                b"POST /derain HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n"
                + f"Authorization: {single['Authorization']}\r\n\r\n".encode()
            )
            patience = time.monotonic() + 10
            while (response := locked.get("/models", headers=single)).status_code == 200:
                assert time.monotonic() < patience, "the slow upload did not count"
            assert response.status_code == 429
            assert response.json()["limit"] == {"name": "concurrent_requests", "max": 1}
            assert int(response.headers["retry-after"]) >= 1
            assert rejected(locked, "concurrency") >= before + 1
        patience = time.monotonic() + 10
        while locked.get("/models", headers=single).status_code != 200:
            assert time.monotonic() < patience, "the place of a client that left was not given back"
            time.sleep(0.05)

    def test_many_at_once_are_never_more_than_allowed(
        self, locked_url: str, keys: Keys, locked: httpx.Client, png: bytes
    ) -> None:
        headers = keys.add("pair", concurrent_requests=2)
        time.sleep(LOOK_SECONDS + 0.1)
        barrier = threading.Barrier(8)

        def post(_: int) -> int:
            barrier.wait()
            return httpx.post(
                f"{locked_url}/derain", files={"image": png}, headers=headers, timeout=60
            ).status_code

        with ThreadPoolExecutor(8) as clients:
            statuses = list(clients.map(post, range(8)))
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) >= 2
        assert locked.get("/models", headers=headers).status_code == 200


def test_a_key_made_while_the_service_runs_gets_in_and_a_removed_one_no_longer(
    locked: httpx.Client, keys: Keys
) -> None:
    before = keys.path.read_text()
    headers = keys.add("late")
    patience = time.monotonic() + 5
    while locked.get("/models", headers=headers).status_code != 200:
        assert time.monotonic() < patience
        time.sleep(0.1)
    keys.path.write_text(before)
    patience = time.monotonic() + 5
    while locked.get("/models", headers=headers).status_code != 401:
        assert time.monotonic() < patience
        time.sleep(0.1)


def test_no_label_of_a_metric_tells_a_key_or_its_holder(locked: httpx.Client, alice: dict[str, str]) -> None:
    locked.get("/models", headers=alice)
    series = locked.get("/metrics").text
    for word in ("alice", "limited", alice["Authorization"].split()[1]):
        assert word not in series


def test_a_broken_file_of_keys_does_not_start_a_service_without_them(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("[[key")
    with pytest.raises(KeyFileError):
        create_app(Settings(api_keys_file=path))


def test_without_keys_the_log_says_so_loudly(
    run_app: Callable[[FastAPI], AbstractContextManager[str]], caplog: pytest.LogCaptureFixture
) -> None:
    with run_app(create_app(Settings())) as url:
        assert httpx.get(f"{url}/models").status_code == 200
    (warning,) = [record for record in caplog.records if "no API keys" in record.getMessage()]
    assert warning.levelno >= logging.WARNING
