"""Overload, quotas, broken networks and wrong requests. Were the client wrong here, it would give up what a
moment later would have been done, ask again and again for what can never be, or wait for ever."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.client import AsyncDerain, Derain, DerainConnectionError, DerainError, DerainTimeoutError, Limit
from tests.client.conftest import MAX_PIXELS
from tests.client.relay import Relay

PROMPT = "heavy rain"


class Counted(httpx.Client):
    """Counts its requests."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, event_hooks={"request": [self._count]})
        self.tries = 0

    def _count(self, _request: httpx.Request) -> None:
        self.tries += 1


@pytest.fixture
def counted() -> Generator[Counted]:
    with Counted() as http:
        yield http


@pytest.fixture(scope="module")
def large() -> bytes:
    """It keeps a CPU busy for a while."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((800, 800), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def too_large() -> bytes:
    file = BytesIO()
    Image.new("1", (2000, 1000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "options", "status", "kind"),
    [
        (b"no picture", {}, 415, "unsupported-image-format"),
        (b"\x89PNG\r\n\x1a\nbut not more", {}, 422, "undecodable-image"),
        (too_large(), {}, 413, "image-too-large"),
        (None, {"model": "nothing"}, 404, "no-such-model"),
        (None, {"caption": "long " * 200}, 422, "bad-field"),
        (None, {"format": "gif"}, 422, "bad-field"),
    ],
)
def test_a_problem_is_raised_with_all_that_it_says_and_never_tried_again(
    url: str,
    keys: dict[str, str],
    photos: list[Path],
    counted: Counted,
    image: bytes | None,
    options: Any,
    status: int,
    kind: str,
) -> None:
    derain = Derain(url, api_key=keys["open"], http=counted)
    with pytest.raises(DerainError) as caught:
        derain.restore(photos[0] if image is None else image, **options)
    error = caught.value
    assert (error.status, error.type) == (status, f"urn:derain:problem:{kind}")
    assert error.title.lower().replace(" ", "-") == kind
    assert str(error) == f"{status} {error.title}: {error.detail} (request {error.request_id})"
    assert counted.tries == 1
    if status == 413:
        assert error.limit == Limit("image_pixels", MAX_PIXELS, 2_000_000)
    assert [one.field for one in error.errors] == (list(options) if kind == "bad-field" else [])


@pytest.mark.parametrize("key", ["wrong", None])
def test_without_a_key_that_is_known_nothing_is_done(
    url: str, counted: Counted, key: str | None, photos: list[Path]
) -> None:
    derain = Derain(url, api_key=key, http=counted)
    with pytest.raises(DerainError) as caught:
        derain.restore(photos[0])
    assert (caught.value.status, counted.tries) == (401, 1)
    assert derain.ready(), "a probe needs no key"


def test_a_key_may_come_from_the_environment(
    url: str, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DERAIN_API_KEY", keys["open"])
    with Derain(url) as derain:
        assert derain.models()


def test_in_a_rush_everybody_waits_as_told_and_is_served(
    small_url: str, counted: Counted, large: bytes
) -> None:
    hasty = Derain(small_url, http=counted, retries=0)
    got = list(hasty.restore_many([large] * 4, prompt=PROMPT, return_errors=True))
    refused = [one for one in got if isinstance(one, DerainError)]
    assert 0 < len(refused) < len(got) == counted.tries
    for refusal in refused:
        assert (refusal.status, refusal.type) == (503, "urn:derain:problem:overloaded")
        assert refusal.retry_after is not None
        assert refusal.retry_after >= 1
    counted.tries = 0
    patient = Derain(small_url, http=counted, timeout=240, retries=1000)
    restored = list(patient.restore_many([large] * 3, prompt=PROMPT))
    assert [one.image().size for one in restored] == [(800, 800)] * 3
    assert counted.tries > 3, "nobody was refused"


def test_nobody_waits_beyond_the_time_there_is(
    url: str, keys: dict[str, str], counted: Counted, photos: list[Path]
) -> None:
    derain = Derain(url, api_key=keys["slow"], http=counted)
    derain.models()
    started = time.monotonic()
    with pytest.raises(DerainError) as caught:
        derain.restore(photos[0], timeout=20)
    assert time.monotonic() - started < 20
    assert (caught.value.status, caught.value.limit) == (429, Limit("requests_per_minute", 1))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 20
    assert counted.tries == 2


def test_a_key_for_one_request_at_a_time_serves_many_one_after_the_other(
    url: str, keys: dict[str, str], photos: list[Path]
) -> None:
    with Derain(url, api_key=keys["single"], timeout=240, retries=1000) as derain:
        assert len(list(derain.restore_many(photos[:3], concurrency=3, prompt=PROMPT))) == 3


def test_connections_that_break_before_an_answer_are_made_again(
    url: str, keys: dict[str, str], photos: list[Path]
) -> None:
    with Relay(url, drop=2) as relay, Derain(relay.url, api_key=keys["open"], timeout=240) as derain:
        assert derain.restore(photos[0], prompt=PROMPT).prompt == PROMPT
    assert relay.connections == 3


def test_an_answer_that_breaks_off_is_told_and_not_asked_for_again(
    url: str, keys: dict[str, str], photos: list[Path], tmp_path: Path
) -> None:
    with Relay(url, cut_after=2000) as relay, Derain(relay.url, api_key=keys["open"], timeout=240) as derain:
        with pytest.raises(DerainConnectionError) as caught:
            derain.restore_to_file(photos[1], tmp_path / "a.png", prompt=PROMPT)
        assert len(caught.value.request_id or "") == 32
    assert relay.connections == 1
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_listens_it_is_tried_again_a_few_times(counted: Counted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    derain = Derain(closed, http=counted, retries=2)
    with pytest.raises(DerainConnectionError, match="No answer"):
        derain.models()
    assert counted.tries == 3
    assert not derain.ready()
    assert counted.tries == 4


def test_a_service_that_comes_up_meanwhile_is_found(url: str, keys: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        ThreadPoolExecutor(1) as beside,
        Derain(f"http://127.0.0.1:{port}", timeout=240, retries=50) as derain,
    ):
        asked = beside.submit(derain.ready)
        assert asked.result() is False
        waiting = beside.submit(derain.models)
        time.sleep(0.5)
        with socket.create_server(("127.0.0.1", port)) as late:
            connection, _ = late.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"models": []}')
                assert waiting.result() == []


def test_what_speaks_another_protocol_is_not_asked_again(url: str, counted: Counted) -> None:
    with pytest.raises(DerainConnectionError):
        Derain(url.replace("http:", "https:"), http=counted).models()
    assert counted.tries == 1
    with talking(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as ssh, pytest.raises(DerainConnectionError):
        Derain(ssh, http=counted).models()
    assert counted.tries == 2


def test_the_answer_of_a_proxy_is_told_as_it_is() -> None:
    with talking(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 14\r\n\r\n<h1>nginx</h1>") as proxy:
        with Derain(proxy) as derain, pytest.raises(DerainError) as caught:
            derain.models()
        assert str(caught.value) == "502 Bad Gateway: <h1>nginx</h1>"
        with Derain(proxy) as derain, pytest.raises(DerainError, match="502"):
            derain.ready()


@pytest.mark.parametrize(
    "members", ['{"limit": 100}', '{"limit": {"max": 3}}', '{"errors": null}', '{"errors": ["x"]}', "[1]"]
)
def test_json_of_a_gateway_is_an_error_like_any_other(members: str) -> None:
    body = members.encode()
    answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with talking(answer) as gateway, Derain(gateway) as derain, pytest.raises(DerainError) as caught:
        derain.models()
    assert (caught.value.status, caught.value.limit, caught.value.errors) == (403, None, ())


def test_a_page_is_not_taken_for_a_restored_image(tmp_path: Path, photos: list[Path]) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 14\r\n\r\n<h1>Login</h1>"
    with talking(page) as portal, Derain(portal) as derain:
        for call in (
            lambda: derain.restore(photos[0]),
            lambda: derain.restore_to_file(photos[0], tmp_path / "a.png"),
            lambda: derain.perceive(photos[0]),
            derain.models,
        ):
            with pytest.raises(DerainError, match=r"200 .*: not an answer of the service"):
                call()
    assert list(tmp_path.iterdir()) == []


@contextmanager
def talking(*pieces: bytes, pause: float = 0.0) -> Generator[str]:
    """Something that says this to whoever connects, whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def talk() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    try:
                        for piece in pieces:
                            connection.sendall(piece)
                            ended.wait(pause)
                    except OSError:
                        pass

        threading.Thread(target=talk, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)


TRICKLE = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"


def blocking(url: str, image: bytes) -> None:
    with Derain(url, timeout=1) as derain:
        derain.restore(image)


def in_asyncio(url: str, image: bytes) -> None:
    async def restore() -> None:
        async with AsyncDerain(url, timeout=1) as derain:
            await derain.restore(image)

    asyncio.run(restore())


@pytest.mark.parametrize("restore", [blocking, in_asyncio])
@pytest.mark.parametrize("pieces", [[b""], [TRICKLE, *[b"."] * 1000]])
def test_a_call_ends_in_time_whatever_the_other_side_does(
    restore: Callable[[str, bytes], None], pieces: list[bytes], photos: list[Path]
) -> None:
    """The one is silent; the other always says a little more."""
    with talking(*pieces, pause=600 if len(pieces) == 1 else 0.1) as url:
        started = time.monotonic()
        with pytest.raises(DerainTimeoutError, match="not done within 1 seconds"):
            restore(url, photos[0].read_bytes())
        assert 0.9 < time.monotonic() - started < 30


def test_the_service_is_told_how_long_a_client_waits(
    url: str, keys: dict[str, str], large: bytes, counted: Counted
) -> None:
    with pytest.raises(DerainError) as caught:
        Derain(url, api_key=keys["open"], http=counted).restore(large, prompt=PROMPT, timeout=0.3)
    assert caught.value.status in (None, 503, 504)


async def _restored(url: str, key: str, photos: list[Path], tmp_path: Path) -> None:
    async with AsyncDerain(url, api_key=key, timeout=240) as derain:
        assert await derain.ready()
        assert (await derain.models())[0].default
        perceived = await derain.perceive(photos[0])
        restored = await derain.restore(photos[0])
        assert (restored.prompt, restored.perceived) == (perceived.prompt, True)
        file = await derain.restore_to_file(photos[0], tmp_path / "a.png", prompt=PROMPT)
        assert file.prompt == PROMPT
        with Image.open(file.path) as image:
            assert image.size == restored.image().size
        sizes = [one.image().size async for one in derain.restore_many(photos, concurrency=3)]
        assert sizes == [Image.open(path).size for path in photos]
        images = [photos[0], b"no picture", photos[1]]
        got = [type(one).__name__ async for one in derain.restore_many(images, return_errors=True)]
        assert got == ["Restored", "DerainError", "Restored"]
        with pytest.raises(DerainError, match="415"):
            async for _ in derain.restore_many(images):
                pass


async def _broken(url: str, key: str, photos: list[Path], _tmp_path: Path) -> None:
    with Relay(url, drop=2) as relay:
        async with AsyncDerain(relay.url, api_key=key, timeout=240) as derain:
            assert (await derain.restore(photos[0], prompt=PROMPT)).prompt == PROMPT
    assert relay.connections == 3
    with Relay(url, cut_after=2000) as relay:
        async with AsyncDerain(relay.url, api_key=key, timeout=240) as derain:
            with pytest.raises(DerainConnectionError):
                await derain.restore(photos[1], prompt=PROMPT)
    assert relay.connections == 1


async def _cancelled(url: str, key: str, _photos: list[Path], _tmp_path: Path) -> None:
    """What was left is not restored for nobody."""
    noise = Image.effect_noise((1200, 1200), 50)
    async with AsyncDerain(url, api_key=key, timeout=240) as derain, httpx.AsyncClient(base_url=url) as http:

        async def count(series: str) -> float:
            found = re.search(f"^{re.escape(series)} (.*)$", (await http.get("/metrics")).text, re.MULTILINE)
            return float(found[1]) if found else 0.0

        async def counts_one_more(series: str, before: float) -> None:
            async with asyncio.timeout(120):
                while await count(series) == before:  # noqa: ASYNC110 - it is the service that we wait for
                    await asyncio.sleep(0.05)

        decoded = 'derain_stage_duration_seconds_count{stage="decode"}'
        cancelled = 'derain_images_total{outcome="cancelled"}'
        before = await count(decoded), await count(cancelled)
        task = asyncio.create_task(derain.restore(noise, prompt=PROMPT))
        await counts_one_more(decoded, before[0])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await counts_one_more(cancelled, before[1])


@pytest.mark.parametrize("story", [_restored, _broken, _cancelled])
def test_the_same_in_asyncio(
    story: Callable[[str, str, list[Path], Path], Coroutine[Any, Any, None]],
    url: str,
    keys: dict[str, str],
    photos: list[Path],
    tmp_path: Path,
) -> None:
    asyncio.run(story(url, keys["open"], photos, tmp_path))
