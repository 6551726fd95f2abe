"""What the page says and offers when something goes wrong. Were this wrong, its visitors would be stuck."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import CAT, COFFEE, Open, restored

Write = Callable[..., Path]


def title(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("alert").locator("#problem-title")).to_have_text(text)


class TestFiles:
    def test_what_is_no_photograph_is_refused_and_the_next_one_is_not(
        self, visit: Open, service_url: str
    ) -> None:
        page = visit(service_url)
        page.set_input_files("#files", Path(__file__))
        title(page, "This is not a photograph that can be read")
        expect(page.locator("#problem-request")).to_have_text(re.compile("^Request [0-9a-f]{32}$"))
        expect(page.get_by_role("button", name="Try again")).to_be_hidden()
        page.set_input_files("#files", CAT)
        restored(page)
        expect(page.locator("#problem")).to_be_hidden()
        page.get_by_role("button", name=re.compile("test_problems.py, failed")).click()
        title(page, "This is not a photograph that can be read")

    def test_a_damaged_photograph(self, visit: Open, service_url: str, tmp_path: Path) -> None:
        page = visit(service_url)
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(CAT.read_bytes()[:9000])
        page.set_input_files("#files", broken)
        title(page, "This file is damaged")

    def test_an_animation(self, visit: Open, service_url: str, write: Write) -> None:
        page = visit(service_url)
        frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
        page.set_input_files("#files", write(frames[0], "two.webp", save_all=True, append_images=frames[1:]))
        title(page, "This file holds more than one picture")


class TestKeys:
    def test_a_key_is_asked_for_and_the_photographs_go_on_with_it(
        self, visit: Open, strict_url: str, key_file: tuple[Path, str], tmp_path: Path
    ) -> None:
        page = visit(strict_url)
        page.set_input_files("#files", CAT)
        title(page, "This service asks for a key")
        key = page.get_by_label("API key")
        key.fill("not-a-key")
        key.press("Enter")
        title(page, "This key is not known")
        key.fill(key_file[1])
        page.get_by_role("button", name="Use this key").click()
        restored(page)
        assert page.evaluate("() => document.activeElement.id") == "work", "the focus is not lost"
        command = page.locator("#curl").text_content() or ""
        assert '-H "Authorization: Bearer $DERAIN_KEY"' in command
        assert key_file[1] not in page.content()

        # a limit is named
        large = tmp_path / "large.png"
        large.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300_000))
        page.set_input_files("#files", large)
        title(page, "This photograph is too large")
        expect(page.locator("#problem-text")).to_contain_text("At most 200 kB")

    def test_a_large_upload_that_is_refused_before_its_end_is_told_of(
        self, visit: Open, strict_url: str, tmp_path: Path
    ) -> None:
        """The service closes the connection under it, and browsers tell no more than that."""
        page = visit(strict_url)
        huge = tmp_path / "huge.jpg"
        huge.write_bytes(b"\xff\xd8\xff" + bytes(40_000_000))
        page.set_input_files("#files", huge)
        title(page, "This service asks for a key")


class TestBusy:
    def test_the_wait_is_counted_down_and_another_try_succeeds(
        self, visit: Open, strict_url: str, key_file: tuple[Path, str], write: Write
    ) -> None:
        page = visit(strict_url)
        page.set_input_files("#files", CAT)
        page.get_by_label("API key").fill(key_file[1])
        wide = write(Image.linear_gradient("L").resize((1800, 1800)).convert("RGB"), "wide.jpg", quality=50)
        form = {
            "content": wide.read_bytes(),
            "headers": {"Authorization": f"Bearer {key_file[1]}", "Content-Type": "image/jpeg"},
            "params": {"prompt": "rain"},
            "timeout": 180,
        }
        other = threading.Thread(target=httpx.post, args=[f"{strict_url}/derain"], kwargs=form)
        other.start()
        while "derain_backlog_seconds 0.0" in httpx.get(f"{strict_url}/metrics").text:
            assert other.is_alive(), "it was refused, or restored too soon"
            time.sleep(0.02)
        page.get_by_role("button", name="Use this key").click()
        title(page, "The service is busy")
        again = page.get_by_role("button", name=re.compile("^Try again in [0-9]+ s$"))
        expect(again).to_have_attribute("aria-disabled", "true")
        again.click(force=True)
        title(page, "The service is busy")
        other.join()
        again = page.get_by_role("button", name="Try again", exact=True)
        expect(again).to_have_attribute("aria-disabled", "false")
        again.click()
        restored(page)


class Relay:
    """Passes bytes on to a service, until it is cut; connections that send more than `limit` bytes break."""

    def __init__(self, url: str, limit: int | None = None) -> None:
        self._limit = limit
        self._target = (urlsplit(url).hostname, urlsplit(url).port)
        self._port = 0
        self._open: list[socket.socket] = []
        self.mend()
        self.url = f"http://127.0.0.1:{self._port}"

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def cut(self) -> None:
        for end in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for arguments in ((near, far, self._limit), (far, near, None)):
                    threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while (data := source.recv(16384)) and (limit is None or passed < limit):
                sink.sendall(data)
                passed += len(data)
            sink.shutdown(socket.SHUT_WR)
            if limit is not None and passed >= limit:
                source.close()


@pytest.fixture
def relay(service_url: str) -> Generator[Relay]:
    relay = Relay(service_url)
    yield relay
    relay.cut()


class TestNetwork:
    def test_a_service_that_is_gone_and_comes_back(self, visit: Open, relay: Relay) -> None:
        page = visit(relay.url)
        relay.cut()
        page.set_input_files("#files", CAT)
        title(page, "The service cannot be reached")
        relay.mend()
        page.get_by_role("button", name="Try again").click()
        restored(page)

    def test_a_connection_that_breaks(self, visit: Open, service_url: str) -> None:
        relay = Relay(service_url, limit=40_000)
        page = visit(relay.url)
        page.set_input_files("#files", COFFEE)  # 79 kB
        title(page, "The connection broke")
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        relay.cut()
