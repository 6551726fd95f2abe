"""HTTP/1.1 and WebSockets with bounds that uvicorn's own protocols lack: on slow and endless heads, and on
clients that do not read their answers."""

import asyncio
import uuid
from asyncio import BaseTransport
from http import HTTPStatus
from typing import ClassVar, cast

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.errors import ProblemError
from app.logs import log_request
from app.schemas import Limit
from app.settings import Settings
from app.tracing import Trace

HEAD_BYTES = 32 * 1024
"""Longest head of a request: its line and all header fields. Also of what else is not body: chunk extensions
and trailers."""


def bounded_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """The protocol class to give to uvicorn as `http`."""

    class Bounded(BoundedProtocol):
        head_seconds = settings.header_timeout_seconds
        stall_seconds = settings.body_timeout_seconds
        bytes_per_second = settings.body_bytes_per_second

    return Bounded


def bounded_websocket(settings: Settings) -> type[WebSocketsSansIOProtocol]:
    """The protocol class to give to uvicorn as `ws`."""

    class Bounded(BoundedWebSocket):
        stall_seconds = settings.body_timeout_seconds
        bytes_per_second = settings.body_bytes_per_second

    return Bounded


class ReaderWatch:
    """Aborts a connection whose client reads what is written for it slower than `bytes_per_second`, over
    `stall_seconds`."""

    def __init__(self, transport: asyncio.Transport, stall_seconds: float, bytes_per_second: float) -> None:
        self._transport = transport
        self._stall = stall_seconds
        self._pace = bytes_per_second
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0

    def start(self) -> None:
        """Watch, until all that was written is read."""
        if self._timer is None:
            self._unread = self._transport.get_write_buffer_size()
            self._timer = asyncio.get_running_loop().call_later(self._stall, self._check)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        unread = self._transport.get_write_buffer_size()
        if unread == 0:
            return
        if self._unread - unread < self._pace * self._stall:
            self._transport.abort()
        else:
            self.start()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which waits for the head of a request no longer than `head_seconds`.

    A head that is late is answered 408, one over `HEAD_BYTES` 431, and HTTP that is none 400, each as a
    problem, and the connection is closed. A connection that sends nothing is closed in silence. One whose
    client reads its answer slower than `bytes_per_second`, over `stall_seconds`, is aborted.
    """

    head_seconds: ClassVar[float] = 10.0
    stall_seconds: ClassVar[float] = 20.0
    bytes_per_second: ClassVar[float] = 16 * 1024.0

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _other_bytes = 0  # in a row, that were neither body nor completed a head
    _in_head = True
    _silent = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._reader = ReaderWatch(transport, self.stall_seconds, self.bytes_per_second)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._stop_head_timer()
        self._reader.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what is not body."""
        self._silent = False
        if self._head_timer is None and not self._answering():
            self._expect_head()
        self._other_bytes += len(data)
        super().data_received(data)
        if self._other_bytes > HEAD_BYTES and not self.transport.is_closing():
            self._head_bytes = self._other_bytes
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A new head."""
        self._head_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field; one of a trailer is dropped, lest it be taken for one of the head."""
        self._count_head(len(name) + len(value))
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop_head_timer()
        self._other_bytes = 0
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._other_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Watch the client read the last of an answer after which the connection closes."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._reader.start()

    def timeout_keep_alive_handler(self) -> None:
        """Close, even if the client does not read what was sent."""
        super().timeout_keep_alive_handler()
        self._reader.start()

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer is written."""
        super().pause_writing()
        self._reader.start()

    def resume_writing(self) -> None:
        """It has caught up."""
        if not self.transport.is_closing():
            self._reader.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, or too much of it; called by uvicorn."""
        if self._head_bytes > HEAD_BYTES:
            problem = ProblemError(
                431,
                "head-too-large",
                f"the head of the request is over the limit of {HEAD_BYTES} bytes",
                limit=Limit(name="head_bytes", max=HEAD_BYTES),
            )
        else:
            problem = ProblemError(400, "malformed-request", msg)
        self._refuse(problem)

    def _answering(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # there is none before the first head
        return cycle is not None and not cycle.response_complete

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > HEAD_BYTES:
            raise ValueError("the head is too large")  # the parser stops, and send_400_response is called

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._silent:
            self.transport.close()
            return
        problem = ProblemError(
            408,
            "head-too-slow",
            f"the head of the request was not complete after {self.head_seconds:g} seconds",
            limit=Limit(name="header_timeout_seconds", max=self.head_seconds),
        )
        self._refuse(problem)

    def _refuse(self, problem: ProblemError) -> None:
        """Answer and close; in the middle of an answer only close."""
        self._stop_head_timer()
        if not (self._answering() and self.cycle.response_started):
            request_id = uuid.uuid4().hex
            response = problem.response(request_id)
            response.headers["X-Request-ID"] = request_id
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Connection"] = "close"
            head = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n".encode()
            fields = [*self.server_state.default_headers, *response.raw_headers]
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
            self.transport.write(head + lines + b"\r\n" + bytes(response.body))
            if not self._answering():  # else the application knows of the request, and logs it
                trace = Trace(request_id)
                trace.status, trace.problem = problem.status, problem.kind
                trace.client = self.client[0] if self.client else None
                log_request(trace)
        self.transport.close()
        self._reader.start()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which aborts connections whose clients do not read, and leaves the last word to the
    application when the server ends."""

    stall_seconds: ClassVar[float] = 20.0
    bytes_per_second: ClassVar[float] = 16 * 1024.0

    def connection_made(self, transport: BaseTransport) -> None:
        """Made by an upgrade."""
        super().connection_made(transport)
        self._reader = ReaderWatch(self.transport, self.stall_seconds, self.bytes_per_second)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._reader.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than messages are written."""
        super().pause_writing()
        self._reader.start()

    def resume_writing(self) -> None:
        """It has caught up."""
        if not self.transport.is_closing():
            self._reader.stop()
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        """Close, even if the client does not read what was sent."""
        super().keepalive_timeout()
        self._reader.start()

    async def send(self, message: ASGISendEvent) -> None:
        """Send; a refusal completes the handshake too, or uvicorn would log an error."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True

    def shutdown(self) -> None:
        """Tell the application, by code 1012, that the server ends: it finishes what it has begun."""
        if self.handshake_complete and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012, "reason": None})
        else:
            super().shutdown()
