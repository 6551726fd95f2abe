"""As little HTTP client as there can be: bytes go out as they are, and one answer is read."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 20.0
"""What a request asks for by X-Request-Timeout, unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: 0 where nothing came, or nothing that could be read.
        trouble: why the status is 0.
        seconds: from the first byte sent to the last one read.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    seconds: float = 0.0
    trouble: str = ""


def address(url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 80)


class Connection:
    """A connection to a service, opened when it is needed."""

    def __init__(self, url: str) -> None:
        self._address = address(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def ask(self, request: bytes, patience: float) -> Answer:
        """Send a request and read its answer; stays open where the service leaves it open."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                answer = await self._ask(request)
        except TimeoutError:
            answer = Answer(0, trouble="too late")
        except (OSError, EOFError, ValueError) as error:
            answer = Answer(0, trouble=f"{type(error).__name__}: {error}"[:200])
        if not answer.status or answer.headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(answer.status, answer.headers, answer.body, time.monotonic() - started, answer.trouble)

    async def _ask(self, request: bytes) -> Answer:
        fresh = self._streams is None
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if fresh or error.partial:
                raise
            self.close()  # the service closed an idle connection just then, as it may
            return await self._ask(request)
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        status = int(first.split(" ", 2)[1])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if request.lstrip(b"\r\n").startswith(b"HEAD "):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = await _chunks(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


def post(
    data: bytes,
    *,
    target: bytes = b"/derain",
    method: bytes = b"POST",
    kind: bytes = b"image/png",
    timeout: float = TIMEOUT_SECONDS,
    extra: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """A request with `data` as its body, whose client waits `timeout` seconds; what `extra` names takes the
    place of what would be there."""
    fields = {
        b"Host": b"here",
        b"Content-Type": kind,
        b"X-Request-Timeout": b"%g" % timeout,
        b"Content-Length": b"%d" % len(data),
    } | dict(extra or {})
    head = b"".join(name + b": " + value + b"\r\n" for name, value in fields.items())
    return method + b" " + target + b" HTTP/1.1\r\n" + head + b"\r\n" + data


def leave(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """Close a connection, orderly or by RST."""
    if reset:
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
