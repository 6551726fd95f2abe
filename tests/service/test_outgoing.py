"""Nothing that a client sends makes the service fetch anything. Were this wrong, it would be a way into the
network that it stands in."""

import socket
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.settings import Settings

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]

WATCHED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"}
_watching: list[list[str]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event in WATCHED and _watching and threading.current_thread() is not threading.main_thread():
        _watching[-1].append(f"{event} {arguments[1:]}")


sys.addaudithook(_hook)  # cannot be taken away again; does nothing while nobody watches


@contextmanager
def watched() -> Generator[list[str]]:
    """What threads other than the test's own open or look up meanwhile, by Python's own account."""
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


class Bait:
    """A server on this machine that tells whether anybody came, by whatever means."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/rain.png"

    def visited(self) -> bool:
        """Whether anybody has connected until now."""
        self._listener.settimeout(0.2)
        try:
            connection, _ = self._listener.accept()
        except TimeoutError:
            return False
        connection.close()
        return True

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def bait() -> Generator[Bait]:
    bait = Bait()
    yield bait
    bait.close()


def test_the_watch_and_the_bait_would_notice(bait: Bait) -> None:
    with watched() as seen, ThreadPoolExecutor(1) as visitor:
        visit = visitor.submit(httpx.get, bait.url, timeout=5)
        assert bait.visited()
        assert isinstance(visit.exception(), httpx.TransportError), "the bait only looks like a server"
    assert [event for event in seen if event.startswith("socket.connect ")]


def test_no_url_is_fetched_wherever_it_stands(
    bait: Bait,
    run_service: Callable[[Settings], AbstractContextManager[str]],
    make_image: Make,
    encode: Encode,
) -> None:
    url = bait.url
    described = PngInfo()
    described.add_text("XML:com.adobe.xmp", f'<x xmlns:x="{url}"><link href="{url}"/></x>')
    described.add_text("URL", url)
    buffer = BytesIO()
    make_image(1, 40, 30).save(buffer, format="PNG", pnginfo=described)
    png = buffer.getvalue()
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'.encode()
    playlist = f"#EXTM3U\n{url}\n".encode()
    headers = {
        "Referer": url,
        "Origin": url,
        "X-Forwarded-For": "127.0.0.1",
        "X-Original-URL": url,
        "X-Request-ID": url,
    }
    with (
        watched() as seen,
        run_service(Settings()) as service,
        httpx.Client(base_url=service, timeout=60) as client,
    ):
        taken = client.post(
            "/derain",
            files={"image": (url, png)},
            data={"prompt": f"rain, see {url}", "caption": url},
            headers=headers,
        )
        assert taken.status_code == 200
        for fields in ({"model": url}, {"format": url}, {"image_url": url}, {"url": url}):
            client.post("/derain", files={"image": png}, data=fields, headers=headers)
            client.post("/perceive", files={"image": png}, data=fields, headers=headers)
        for body in (url.encode(), svg, playlist, b"file:///etc/passwd", b"\\\\host\\share"):
            for kind in ("image/svg+xml", "image/png", "application/octet-stream"):
                response = client.post("/derain", content=body, headers={**headers, "Content-Type": kind})
                assert response.status_code == 415
        assert client.post("/derain", json={"image": url}).status_code == 415
        assert client.post("/derain", files={"image": (None, url)}).status_code == 415
        assert client.post("/derain", params={"image": url, "url": url}).status_code == 415
        client.get("/docs", headers=headers)
    assert not bait.visited()
    assert not seen
