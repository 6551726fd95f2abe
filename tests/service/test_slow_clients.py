"""Clients that take their time, on purpose or not. Were these wrong, a few of them would hold all of the
service's memory and places for as long as they like, with next to no effort."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from app.protocol import HEAD_BYTES, bounded_protocol
from app.settings import Settings

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]

PATIENCE = 1.0
DEADLINE = 4.0
PACE = 1000.0
LINGER = 2.5
"""Seconds after a refusal until the connection is closed, and some more."""


class Connection:
    """A raw connection to a service."""

    def __init__(self, url: str, receive_buffer: int | None = None) -> None:
        address = urlsplit(url)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(30)
        self.socket.connect((address.hostname, address.port))
        self.opened = time.monotonic()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Whether it could still be sent."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of what comes until the service closes; status 0: nothing."""
        received = bytearray()
        try:
            while data := self.socket.recv(65536):
                received += data
        except ConnectionResetError:
            pass
        if not received:
            return 0, {}, b""
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if headers.get("transfer-encoding") == "chunked":
            body = body.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n")[0]
        return int(status.split()[1]), headers, body

    def dribble(self, data: bytes, *, every: float, size: int = 1) -> float:
        """Send little by little until refused; gives the seconds since the connection was opened."""
        self.socket.settimeout(every)
        for start in range(0, len(data), size):
            if not self.send(data[start : start + size]):
                break
            try:
                self.socket.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                pass
            except OSError:
                break
        self.socket.settimeout(30)
        return time.monotonic() - self.opened


def head(length: int | None, kind: str = "image/png") -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST /derain HTTP/1.1\r\nHost: here\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def impatient_url(run_service: Callable[[Settings], AbstractContextManager[str]]) -> Generator[str]:
    """A service whose patience a test can outlast."""
    settings = Settings(
        body_timeout_seconds=PATIENCE, body_bytes_per_second=PACE, body_deadline_seconds=DEADLINE
    )
    with run_service(settings) as url:
        yield url


class TestBodies:
    @pytest.fixture
    def url(self, impatient_url: str) -> str:
        return impatient_url

    def check_refusal(self, connection: Connection, limit: str) -> None:
        status, headers, body = connection.answer()
        assert status == 408
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem["type"] == "urn:derain:problem:body-too-slow"
        assert problem["limit"]["name"] == limit

    @pytest.mark.parametrize("length", [1_000_000, None])
    def test_one_that_never_comes_is_given_up(self, url: str, length: int | None) -> None:
        with Connection(url) as connection:
            connection.send(head(length))
            self.check_refusal(connection, "body_timeout_seconds")
            assert 0.9 * PATIENCE <= time.monotonic() - connection.opened < PATIENCE + LINGER + 1

    def test_one_that_stalls_in_the_middle_is_given_up_however_fast_it_began(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(head(5_000_000) + b"x" * 4_000_000)
            self.check_refusal(connection, "body_timeout_seconds")
            assert time.monotonic() - connection.opened < PATIENCE + LINGER + 1

    def test_one_that_crawls_is_given_up_though_it_never_stalls(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(head(1_000_000))
            seconds = connection.dribble(b"x" * 1000, every=0.05, size=5)  # a tenth of the pace
            assert 0.9 * PATIENCE <= seconds < PATIENCE * 2
            self.check_refusal(connection, "body_timeout_seconds")

    def test_one_that_keeps_the_pace_but_has_no_end_meets_the_deadline(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(head(100_000_000))
            seconds = connection.dribble(b"x" * 1_000_000, every=0.05, size=500)
            assert 0.9 * DEADLINE <= seconds < DEADLINE + 1
            self.check_refusal(connection, "body_deadline_seconds")

    def test_one_that_comes_later_than_its_client_waits_is_not_awaited(self, url: str) -> None:
        patient = head(100_000_000).replace(b"\r\n\r\n", b"\r\nX-Request-Timeout: 0.8\r\n\r\n")
        with Connection(url) as connection:
            connection.send(patient)
            seconds = connection.dribble(b"x" * 1_000_000, every=0.05, size=500)
            assert seconds < DEADLINE - 1
            status, _, body = connection.answer()
        assert (status, json.loads(body)["type"]) == (504, "urn:derain:problem:deadline-passed")

    def test_an_honest_slow_upload_is_served(self, url: str, make_image: Make, encode: Encode) -> None:
        data = encode(make_image(1, 40, 30))
        with Connection(url) as connection:
            connection.send(head(len(data)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            for start in range(0, len(data), len(data) // 5 + 1):
                time.sleep(0.3)
                assert connection.send(data[start : start + len(data) // 5 + 1])
            assert connection.answer()[0] == 200
            assert time.monotonic() - connection.opened > PATIENCE

    def test_a_client_whose_picture_takes_longer_than_the_patience_is_not_disturbed(
        self, url: str, make_image: Make, encode: Encode
    ) -> None:
        data = encode(make_image(1, 1000, 800))
        started = time.monotonic()
        assert httpx.post(f"{url}/derain", files={"image": data}, timeout=120).status_code == 200
        if time.monotonic() - started < PATIENCE:
            pytest.skip("this machine is too fast for the test")

    def test_what_a_client_has_not_read_is_counted(self, url: str, encode: Encode) -> None:
        """Else as many answers as there are slow readers would lie in memory, beside all that is taken on."""
        noise = np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), dtype=np.uint8)
        data = encode(Image.fromarray(noise))
        request = head(len(data)).replace(b"/derain", b"/derain?prompt=leave+it+unchanged")
        held = re.compile(r"^derain_inflight_bytes (\S+)$", re.MULTILINE)

        def in_flight() -> float:
            return float(held.findall(httpx.get(f"{url}/metrics").text)[0])

        with Connection(url, receive_buffer=4096) as connection:
            connection.send(request + data)
            assert connection.socket.recv(9) == b"HTTP/1.1 "
            assert in_flight() > 1_000_000, "nothing is held, though most of the answer is not read yet"
            received = 9
            while received < len(data):
                received += len(connection.socket.recv(1_000_000))
            assert in_flight() == 0

    def test_afterwards_nothing_is_held(self, url: str) -> None:
        nothing = "derain_inflight_bytes 0.0"
        connections = [Connection(url) for _ in range(20)]
        counted = False
        for connection in connections:
            connection.send(head(5_000_000) + b"x" * 1_000_000)
            counted = counted or nothing not in httpx.get(f"{url}/metrics").text
        assert counted, "the uploads were never counted"
        patience = time.monotonic() + PATIENCE + LINGER + 5
        while nothing not in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < patience, "slow uploads still hold memory"
            time.sleep(0.05)
        for connection in connections:
            connection.socket.close()


@contextmanager
def bounded(app: ASGIApp, settings: Settings) -> Generator[str]:
    """Serve with the protocol that `derain serve` uses."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=bounded_protocol(settings), log_config=None, timeout_keep_alive=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


def echo() -> FastAPI:
    app = FastAPI()

    @app.post("/echo")
    async def body(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(
            str(len(await request.body())), headers={"X-Seen": str("x-trailer" in request.headers)}
        )

    @app.get("/huge")
    async def huge() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(bytes(64 * 1024 * 1024))

    return app


@pytest.fixture(scope="module")
def bounded_url() -> Generator[str]:
    """A small application behind the protocol that `derain serve` uses."""
    settings = Settings(header_timeout_seconds=1, body_timeout_seconds=1, body_bytes_per_second=1_000_000)
    with bounded(echo(), settings) as url:
        yield url


class TestHeads:
    @pytest.fixture
    def url(self, bounded_url: str) -> str:
        return bounded_url

    def test_one_that_dribbles_is_given_up(self, url: str) -> None:
        with Connection(url) as connection:
            seconds = connection.dribble(
                b"GET / HTTP/1.1\r\nHost: here\r\nX-Slow: " + b"y" * 1000, every=0.05
            )
            assert 0.9 <= seconds < 1.5
            status, headers, body = connection.answer()
            assert status == 408
            assert headers["content-type"] == "application/problem+json"
            problem = json.loads(body)
            assert problem["limit"] == {"name": "header_timeout_seconds", "max": 1}
            assert headers["x-request-id"] in problem["instance"]

    @pytest.mark.parametrize("sent", [b"", b"\r\n", b"G", b"GET / HTTP/1.1\r\n"])
    def test_so_is_one_that_stops(self, url: str, sent: bytes) -> None:
        with Connection(url) as connection:
            connection.send(sent)
            status, _, _ = connection.answer()
            assert status == (408 if sent else 0)
            assert 0.9 <= time.monotonic() - connection.opened < 2

    def test_so_is_the_second_of_a_connection(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\nx")
            assert connection.socket.recv(65536).startswith(b"HTTP/1.1 200 ")
            seconds = connection.dribble(b"\r\n" * 10 + b"GET / HTTP/1.1\r\nX: " + b"y" * 1000, every=0.1)
            assert seconds < 2.5
            assert connection.answer()[0] == 408

    def test_an_idle_connection_that_was_used_is_closed_in_silence(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(b"GET /none HTTP/1.1\r\nHost: here\r\n\r\n")
            status, _, body = connection.answer()
            assert status == 404
            assert b"408" not in body

    @pytest.mark.parametrize("at_once", [True, False])
    @pytest.mark.parametrize(
        "endless",
        [
            b"GET /" + b"x" * 200_000,
            b"GET / HTTP/1.1\r\nHost: here\r\nX-Long: " + b"y" * 200_000,
            b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X-Many: y\r\n" * 20_000,
            b"POST /echo HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"e" * 200_000,
            b"POST /echo HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
            + b"X-Trailer: y\r\n" * 20_000,
        ],
        ids=["target", "field", "fields", "chunk-extension", "trailer"],
    )
    def test_one_without_end_is_refused_before_it_fills_the_memory(
        self, url: str, endless: bytes, at_once: bool
    ) -> None:
        with Connection(url) as connection:
            if at_once:
                connection.send(endless + b"\r\n\r\n")
            else:
                sent = 0
                while sent < len(endless) and connection.send(endless[sent : sent + 8192]):
                    sent += 8192
                    time.sleep(0.005)
            assert connection.answer()[0] in (431, 0)
            assert time.monotonic() - connection.opened < 1

    def test_a_head_that_is_just_small_enough_is_served(self, url: str) -> None:
        request = b"GET /none HTTP/1.1\r\nHost: here\r\nConnection: close\r\nX-Long: %b\r\n\r\n"
        for length, expected in ((HEAD_BYTES - 100, 404), (HEAD_BYTES + 1, 431)):
            with Connection(url) as connection:
                connection.send(request % (b"y" * length))
                assert connection.answer()[0] == expected

    def test_what_is_not_http_is_refused_with_a_problem(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n")
            status, headers, body = connection.answer()
            assert status == 400
            assert headers["content-type"] == "application/problem+json"
            assert json.loads(body)["type"] == "urn:derain:problem:malformed-request"

    def test_a_trailer_is_not_taken_for_a_header(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(
                b"POST /echo HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: y\r\n\r\n"
            )
            status, headers, body = connection.answer()
            assert (status, headers["x-seen"], body) == (200, "false", b"3")

    def test_a_body_may_take_longer_than_a_head(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(
                b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
            )
            for byte in (b"a", b"b", b"c"):
                time.sleep(0.6)
                connection.send(byte)
            status, _, body = connection.answer()
            assert (status, body) == (200, b"3")

    def test_a_client_that_does_not_read_its_answer_is_cut_off(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(b"GET /huge HTTP/1.1\r\nHost: here\r\n\r\n")
            time.sleep(2.5)
            _, _, body = connection.answer()
            assert len(body) < 64 * 1024 * 1024

    def test_one_that_reads_slowly_but_steadily_gets_it_all(self, url: str) -> None:
        with Connection(url) as connection:
            connection.send(b"GET /huge HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            received = 0
            while data := connection.socket.recv(2**20):
                received += len(data)
                time.sleep(0.03)
            assert received > 64 * 1024 * 1024
            assert time.monotonic() - connection.opened > 1.5
