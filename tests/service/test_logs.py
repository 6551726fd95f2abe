"""What a real process writes. Were this wrong, keys, prompts or photographs of clients would lie in logs."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image

from app.keys import PREFIX, append_entry, entry_of, new_secret

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]

ROOT = Path(__file__).parents[2]
PLAIN = ["-m", "uvicorn", "--factory", "app.main:create_app", "--port", "0"]
OURS = ["-m", "app.cli", "serve", "--port", "0", "--log-level", "debug"]

PROMPT = "my-own-words " * 30
CAPTION = "a-street-that-is-mine"


class Process:
    """A service in a process of its own, with all that it writes."""

    def __init__(self, command: list[str], environment: dict[str, str], **settings: str) -> None:
        settings = {f"DERAIN_{name.upper()}": value for name, value in settings.items()}
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.written = bytearray()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.written += line

    def url(self) -> str:
        """Where it serves, once it does."""
        patience = time.monotonic() + 300
        while not (found := re.search(rb"running on (http://[\d.:]+)", self.written)):
            assert self.process.poll() is None, self.written.decode()
            assert time.monotonic() < patience, self.written.decode()
            time.sleep(0.05)
        return found[1].decode()

    def end(self) -> str:
        """All that it wrote, once it has ended."""
        self.process.terminate()
        self.process.wait(timeout=60)
        self._listener.join(timeout=10)
        return self.written.decode()


@contextmanager
def process(
    command: list[str], environment: dict[str, str] | None = None, **settings: str
) -> Generator[Process]:
    service = Process(command, environment or {}, **settings)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.wait()


@pytest.mark.parametrize("command", [PLAIN, OURS], ids=["uvicorn", "derain serve"])
def test_no_key_no_prompt_and_no_picture_is_written(
    command: list[str], tmp_path: Path, make_image: Make, encode: Encode
) -> None:
    secret, path = new_secret(), tmp_path / "keys.toml"
    append_entry(path, entry_of(secret, "alice", requests_per_minute=100))
    png = encode(make_image(1, 64, 48))
    key = {"X-API-Key": secret}
    bare = {**key, "Content-Type": "image/png"}
    with (
        process(command, api_keys_file=str(path)) as service,
        httpx.Client(base_url=service.url(), timeout=60) as client,
    ):
        words = {"prompt": PROMPT, "caption": CAPTION}
        assert client.post("/derain", content=png, headers=bare, params=words).status_code == 200
        assert client.post("/derain", files={"image": png}, data=words, headers=key).status_code == 200
        wrong = {**words, "format": PROMPT}
        assert client.post("/derain", content=png, headers=bare, params=wrong).status_code == 422
        assert client.post("/derain", files={"image": png}, data=wrong, headers=key).status_code == 422
        assert client.post("/derain", content=png, headers=bare, params={"model": PROMPT}).status_code == 404
        assert client.post("/derain", content=png[:-50], headers=bare, params=words).status_code == 422
        assert client.post("/derain", content=b"--x\r\n" + png, headers=key).status_code == 415
        torn = {**key, "Content-Type": f"multipart/form-data; boundary={CAPTION}"}
        assert client.post("/derain", content=png, headers=torn).status_code == 400
        assert client.get("/models", params={"api_key": secret}).status_code == 401
        assert client.get("/models", headers={"Authorization": f"Bearer {secret}x"}).status_code == 401
        address = urlsplit(str(client.base_url))
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(f"{secret} {CAPTION} HTTP/9\r\n\r\n".encode())
            connection.recv(65536)
        written = service.end()
    lines = re.findall(r"INFO app.requests: (\S+ \S+ \d+) .* request_id=\S+$", written, re.MULTILINE)
    assert lines == [
        *["POST /derain 200"] * 2,
        *["POST /derain 422"] * 2,
        "POST /derain 404",
        "POST /derain 422",
        "POST /derain 415",
        "POST /derain 400",
        *["GET /models 401"] * 2,
        *(["- - 400"] if command is OURS else []),
    ], "one line for each request, whoever made it"
    assert written.count(" key=alice ") == 8
    assert "HTTP/1.1" not in written, "uvicorn's own are gone"
    for forbidden in (secret, PREFIX, "my-own-words", CAPTION, quote(PROMPT), "IHDR", "IDAT", "\\x89PNG"):
        assert forbidden not in written
    assert "Traceback" not in written
    assert max(map(len, written.splitlines())) < 500


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_service_that_asks_for_no_key_says_so_the_louder_the_farther_it_can_be_reached(host: str) -> None:
    with process([*OURS, "--host", host]) as service:
        service.url()
        written = service.end()
    assert "WARNING app.main: no API keys" in written
    assert ("WARNING app.cli: ANYBODY WHO REACHES 0.0.0.0" in written) == (host == "0.0.0.0")


def test_a_service_that_asks_for_keys_does_not_warn(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    append_entry(path, entry_of(new_secret(), "alice"))
    with process([*OURS, "--host", "0.0.0.0"], api_keys_file=str(path)) as service:
        service.url()
        written = service.end()
    assert "no API key" not in written


def test_a_broken_file_of_keys_is_explained_and_nothing_is_served(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('[[key]]\nname = "alice"\nsha256 = "derain_a-key-instead-of-its-hash"\n')
    with process(OURS, api_keys_file=str(path)) as service:
        assert service.process.wait(timeout=120) == 1
        written = service.end()
    assert "DERAIN_API_KEYS_FILE" in written
    assert "sha256" in written
    assert "a-key-instead" not in written
    assert "Traceback" not in written


def test_derain_serve_gives_up_a_head_that_dribbles_and_refuses_one_without_end() -> None:
    with process(OURS, header_timeout_seconds="1") as service:
        address = urlsplit(service.url())
        for sent, expected in ((b"GET / HTTP/1.1\r\nX: ", b"408"), (b"GET /" + b"x" * 200_000, b"431")):
            with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
                connection.sendall(sent)
                assert connection.recv(65536).split()[1] == expected


def test_what_is_broken_has_the_line_of_its_request_and_no_other(make_image: Make, encode: Encode) -> None:
    """Else whoever likes fills the operator's disk, or hides among warnings."""
    picture = encode(make_image(1, 64, 64))
    place = picture.index(b"IDAT") + 8
    deep = np.zeros((64, 64, 3), np.uint16)
    file = BytesIO()
    tifffile.imwrite(file, deep, photometric="rgb", compression="zlib", metadata=None)
    broken = {
        "png": picture[:place] + bytes(20) + picture[place + 20 :],
        "tiff": file.getvalue().replace(b"\x1a\x01\x05\0", b"\x1a\x01\x0c\0"),  # XResolution, of another type
    }
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    with process(OURS, log_level="info") as service:
        url = service.url()
        begun = len(service.written)
        for data in broken.values():
            httpx.post(f"{url}/derain", files={"image": data}, timeout=60)
        assert httpx.post(f"{url}/derain", content=b"--x\r\na b\r\n\r\n", headers=form).status_code == 400
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(b"no HTTP\r\n\r\n")
            assert connection.recv(65536).split()[1] == b"400"
        time.sleep(0.3)
        written = service.written[begun:].decode().splitlines()
    loggers = [line.split(" ")[2] for line in written]
    assert loggers == ["app.requests:"] * 4, "\n".join(written)
