"""WS /stream over a real socket. Were this wrong, a camera would see the past, one camera would take all of
the device, or one that does not read would take all of the memory."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from app.keys import append_entry, entry_of, new_secret
from app.main import create_app
from app.protocol import bounded_protocol, bounded_websocket
from app.settings import Settings
from benchmarks.rainy_clip import Frame, rainy_frames, read_clip, write_clip

PHOTOGRAPH = Path(__file__).parents[1] / "data/pairs/target/coffee-heavy-rain.jpg"
SECONDS = 60
"""Of patience with a machine that does other things."""

FRIEND = "https://photos.example"

Answer = tuple[dict[str, Any], Image.Image | None]


class Service:
    """A service as `derain serve` runs it, whose end can be called for."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)  # what is not read is soon felt
        self.server = uvicorn.Server(
            uvicorn.Config(
                self.app,
                http=bounded_protocol(settings),
                ws=bounded_websocket(settings),
                ws_max_size=settings.max_frame_bytes,
                ws_per_message_deflate=False,
                log_config=None,
            )
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.05)
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"

    def open(self, **options: Any) -> ClientConnection:
        """A client's connection."""
        return connect(f"ws://{self.address}/stream", open_timeout=SECONDS, **options)

    def series(self) -> dict[str, float]:
        """What /metrics says now."""
        lines = httpx.get(f"http://{self.address}/metrics", timeout=SECONDS).text.splitlines()
        return {
            name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        }

    def wait_until(self, condition: Callable[[dict[str, float]], bool]) -> None:
        """Wait until the metrics are so."""
        patience = time.monotonic() + SECONDS
        while not condition(series := self.series()):
            assert time.monotonic() < patience, {k: v for k, v in series.items() if "stream" in k}
            time.sleep(0.1)


@contextmanager
def running(settings: Settings) -> Generator[Service]:
    service = Service(settings)
    try:
        yield service
    finally:
        service.server.should_exit = True
        service.thread.join(timeout=SECONDS)
        assert not service.thread.is_alive(), "the service did not stop"


@pytest.fixture(scope="module")
def service() -> Generator[Service]:
    settings = Settings(
        max_streams=3,
        max_frame_bytes=512 * 1024,
        stream_idle_seconds=4,
        body_timeout_seconds=2,
        cors_origins=(FRIEND,),
    )
    with running(settings) as service:
        yield service


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Service, Path]]:
    """A service that asks for keys and answers for its address alone, and its file of keys."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.touch()
    with running(Settings(api_keys_file=path, trusted_hosts=("127.0.0.1",))) as service:
        yield service, path


@pytest.fixture(scope="module")
def photograph() -> Frame:
    with Image.open(PHOTOGRAPH) as image:
        return np.array(image.convert("RGB").resize((192, 128)))


@pytest.fixture(scope="module")
def frames(photograph: Frame, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """JPEGs of the frames of a clip that was encoded and decoded, as a camera would send them."""
    path = tmp_path_factory.mktemp("clip") / "rain.mp4"
    write_clip(path, rainy_frames(photograph, 40, rain=0.1, noise=1.5))
    return [jpeg(frame) for frame in read_clip(path)]


def jpeg(frame: Frame) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def answer(connection: ClientConnection) -> Answer:
    """The next text message, and the picture that belongs to it."""
    told = json.loads(connection.recv(timeout=SECONDS))
    if told["type"] != "frame":
        return told, None
    picture = Image.open(BytesIO(bytes(connection.recv(timeout=SECONDS, decode=False))))
    picture.load()
    return told, picture


def closing(connection: ClientConnection) -> tuple[int, str]:
    """Code and reason with which the service closes."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            connection.recv(timeout=SECONDS)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def error(picture: Image.Image | bytes, clean: Frame) -> float:
    """Mean squared error."""
    if isinstance(picture, bytes):
        picture = Image.open(BytesIO(picture))
    return float(((np.asarray(picture, np.float32) - clean) ** 2).mean())


class TestFrames:
    def test_a_clip_that_is_faster_than_the_device_is_seen_at_its_newest(
        self, service: Service, frames: list[bytes], photograph: Frame
    ) -> None:
        with service.open() as connection:
            for frame in frames:
                connection.send(frame)
            answers = [answer(connection)]
            while answers[-1][0]["sequence"] < len(frames) - 1:
                answers.append(answer(connection))
        told = [one for one, _ in answers]
        sequences = [one["sequence"] for one in told]
        assert sequences == sorted(set(sequences)), "answers come in the order of their frames"
        assert len(sequences) < len(frames) / 2, "the device was meant to be behind"
        assert sum(one["dropped"] for one in told) == len(frames) - len(told)
        assert told[-1]["dropped_total"] == len(frames) - len(told)
        assert len({one["prompt"] for one in told}) == 1
        for one, picture in answers:
            assert picture is not None
            assert (one["media_type"], picture.format) == ("image/jpeg", "JPEG")
            assert picture.size == (one["width"], one["height"]) == (192, 128)
            assert error(picture, photograph) < error(frames[one["sequence"]], photograph) / 3
            timings = one["timings_ms"]
            assert set(timings) == {"wait", "decode", "queue", "inference", "encode", "total"}
            parts = sum(time for stage, time in timings.items() if stage != "total")
            assert 0 < timings["inference"] < parts <= timings["total"] + 0.1
        begun = told[2]["sequence"]
        assert begun > 10, "the third was the newest when the first was done, not the next in line"

    def test_who_waits_for_each_answer_gets_a_share_beside_who_floods(
        self, service: Service, frames: list[bytes]
    ) -> None:
        answered, ended = [0], threading.Event()

        def flood() -> None:
            with service.open() as connection:
                reader = threading.Thread(target=read, args=(connection,))
                reader.start()
                while not ended.wait(0.01):
                    connection.send(frames[0])
            reader.join()

        def read(connection: ClientConnection) -> None:
            try:
                while answer(connection):
                    answered[0] += 1
            except ConnectionClosed:
                pass

        other = threading.Thread(target=flood)
        other.start()
        try:
            patience = time.monotonic() + SECONDS
            while not answered[0]:
                assert time.monotonic() < patience
                time.sleep(0.01)
            before = answered[0]
            with service.open() as connection:
                for sequence in range(5):
                    connection.send(frames[sequence])
                    told, _ = answer(connection)
                    assert (told["sequence"], told["dropped_total"]) == (sequence, 0)
            assert answered[0] - before <= 3 * 5, "one at a time, it gets a third at least"
        finally:
            ended.set()
            other.join(timeout=SECONDS)

    def test_options_hold_for_the_frames_that_follow(self, service: Service, frames: list[bytes]) -> None:
        sizes: list[int] = []
        with service.open() as connection:
            for quality in (30, 90):
                connection.send(json.dumps({"format": "webp", "quality": quality, "prompt": "heavy rain"}))
                connection.send(frames[0])
                told = json.loads(connection.recv(timeout=SECONDS))
                assert (told["media_type"], told["prompt"], told["perceived"]) == (
                    "image/webp",
                    "heavy rain",
                    False,
                )
                sizes.append(len(connection.recv(timeout=SECONDS)))
        assert sizes[0] < sizes[1] / 2

    def test_a_frame_that_is_none_is_told_of_and_stops_nothing(
        self, service: Service, frames: list[bytes]
    ) -> None:
        with service.open() as connection:
            connection.send(frames[0][:-400])
            told, _ = answer(connection)
            assert (told["type"], told["sequence"], told["problem"]["status"]) == ("problem", 0, 422)
            connection.send(frames[0])
            assert answer(connection)[0]["sequence"] == 1


class TestEnds:
    @pytest.mark.parametrize(
        ("message", "code", "reason"),
        [
            ('{"format": "gif"}', 1008, "format"),
            ('{"promt": "rain"}', 1008, "promt"),
            ('{"model": "nothing"}', 1008, "no model named"),
            (json.dumps({"prompt": "x" * 501}), 1008, "500 characters"),
            ("x" * 20_000, 1009, "16384"),
            (b"x" * (512 * 1024 + 1), 1009, ""),
        ],
    )
    def test_what_is_not_taken_closes_with_a_code_and_a_reason(
        self, service: Service, message: str | bytes, code: int, reason: str
    ) -> None:
        with service.open() as connection:
            connection.send(message)
            closed = closing(connection)
        assert closed[0] == code
        assert reason in closed[1]

    def test_who_sends_nothing_does_not_keep_a_place(self, service: Service) -> None:
        with service.open() as connection:
            assert closing(connection) == (1008, "no frame came for 4 seconds")

    def test_there_are_only_so_many_places_and_they_are_given_back(self, service: Service) -> None:
        with ExitStack() as connections:
            for _ in range(3):
                connections.enter_context(service.open())
            with pytest.raises(InvalidStatus) as refused:
                service.open()
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        service.wait_until(lambda series: series["derain_streams"] == 0)
        with service.open():
            pass

    def test_who_leaves_takes_its_frames_along(self, service: Service, frames: list[bytes]) -> None:
        with service.open() as connection:
            for frame in frames[:4]:
                connection.send(frame)
            connection.socket.shutdown(socket.SHUT_RDWR)
        service.wait_until(lambda series: series["derain_streams"] == series["derain_inflight_bytes"] == 0)

    def test_who_does_not_read_is_left_and_nothing_is_kept_for_it(
        self, service: Service, photograph: Frame
    ) -> None:
        noise = np.random.default_rng(0).integers(0, 256, photograph.shape, dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        before = service.series()
        host, port = service.address.split(":")
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            raw.connect((host, int(port)))
            # the library reads nothing until it is asked to, as its buffer holds one message
            with service.open(sock=raw, max_queue=1) as connection:
                patience = time.monotonic() + SECONDS
                with pytest.raises((ConnectionClosed, OSError)):
                    while time.monotonic() < patience:
                        connection.send(buffer.getvalue())
                        time.sleep(0.02)
        service.wait_until(lambda series: series["derain_streams"] == series["derain_inflight_bytes"] == 0)
        after = service.series()
        restored, dropped = (
            after[name] - before.get(name, 0)
            for name in (
                'derain_stream_frames_total{outcome="restored"}',
                'derain_stream_frames_total{outcome="dropped"}',
            )
        )
        assert dropped > restored

    def test_a_service_that_ends_answers_what_it_has_begun_and_says_so(self, photograph: Frame) -> None:
        large = np.tile(photograph, (5, 5, 1))
        with running(Settings()) as service, service.open() as connection:
            connection.send(jpeg(large))
            service.wait_until(lambda series: series["derain_inflight_bytes"] > 0)
            service.app.state.pipeline.admission.drain()
            service.server.should_exit = True
            picture = answer(connection)[1]
            assert picture is not None
            assert picture.size == (960, 640)
            assert closing(connection)[0] == 1012


class TestWhoGetsIn:
    def test_pages_of_others_do_not_and_programs_and_friends_do(
        self, service: Service, frames: list[bytes]
    ) -> None:
        for origin in ("https://evil.example", "null", f"http://{service.address}.evil.example"):
            with pytest.raises(InvalidStatus) as refused:
                service.open(origin=origin)
            assert refused.value.response.status_code == 403
            assert b"foreign-origin" in refused.value.response.body
        for origin in (None, FRIEND, f"http://{service.address}"):
            with service.open(origin=origin) as connection:
                connection.send(frames[0])
                assert answer(connection)[0]["type"] == "frame"

    def test_who_asks_without_a_websocket_is_told_what_to_do(self, service: Service) -> None:
        response = httpx.get(f"http://{service.address}/stream")
        assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
        assert response.headers["content-type"] == "application/problem+json"

    def test_addresses_are_logged_without_their_queries(
        self, service: Service, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("app", "uvicorn"):
            caplog.set_level(logging.INFO, name)
        with connect(f"ws://{service.address}/stream?prompt=my-words", open_timeout=SECONDS):
            pass
        patience = time.monotonic() + SECONDS
        while "GET /stream 101" not in caplog.text:
            assert time.monotonic() < patience, caplog.text
            time.sleep(0.05)
        assert "my-words" not in caplog.text

    def test_only_with_a_key_and_for_as_long_as_it_is_valid_and_as_often_as_it_may(
        self, locked: tuple[Service, Path], frames: list[bytes]
    ) -> None:
        service, path = locked
        secret = new_secret()
        append_entry(path, entry_of(secret, "alice", requests_per_minute=4, concurrent_requests=1))
        time.sleep(1.1)  # the file is looked at once a second
        for headers in ({}, {"Authorization": "Bearer derain_wrong"}):
            with pytest.raises(InvalidStatus) as refused:
                service.open(additional_headers=headers)
            assert refused.value.response.status_code == 401
        with service.open(subprotocols=["derain", f"derain.key.{secret}"]) as connection:
            assert connection.subprotocol == "derain"
            with pytest.raises(InvalidStatus) as refused:
                service.open(additional_headers={"X-API-Key": secret})
            assert refused.value.response.status_code == 429
            connection.send(frames[0])
            assert answer(connection)[0]["type"] == "frame"
        service.wait_until(lambda series: series["derain_streams"] == 0)
        with service.open(additional_headers={"Authorization": f"Bearer {secret}"}) as connection:
            assert connection.response is not None
            assert connection.response.headers["RateLimit-Policy"] == '"requests";q=4;w=60'
            connection.send(frames[0])
            assert answer(connection)[0]["type"] == "frame"
            connection.send(frames[0])
            told, _ = answer(connection)
            assert told["problem"]["status"] == 429
            assert 1 <= told["retry_after_seconds"] <= 60
        service.wait_until(lambda series: series["derain_streams"] == 0)
        other = new_secret()
        path.write_text(entry_of(other, "bob"))
        time.sleep(1.1)
        with service.open(additional_headers={"X-API-Key": other}) as connection:
            path.write_text("")
            time.sleep(1.1)
            connection.send(frames[0])
            assert closing(connection)[0] == 1008

    def test_only_by_the_names_of_the_service(self, locked: tuple[Service, Path]) -> None:
        service, _ = locked
        with pytest.raises(InvalidStatus) as refused:
            connect(
                f"ws://localhost:{service.address.split(':')[1]}/stream", open_timeout=SECONDS, proxy=None
            )
        assert refused.value.response.status_code == 400
