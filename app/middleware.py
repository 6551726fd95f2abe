"""Pure ASGI middleware: request ids, request metrics, the last line of defence, and refusals mid-upload."""

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import CLIENT_CLOSED_REQUEST, internal_problem
from app.metrics import Metrics

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""Ids of clients that are taken over; others are replaced."""

LINGER_SECONDS = 2.0
"""How long the rest of a refused upload is read and dropped, so that the client gets to read the answer."""


class RequestContext:
    """Outermost middleware of every HTTP request.

    Sets `request.state.request_id` (the client's `X-Request-ID`, else a new one) and `request.state.started`
    (`time.perf_counter()` seconds), returns the id as a header, counts the request, and turns an exception
    that nobody caught into a 500 problem.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, started=started)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            if status:
                raise
            await internal_problem().response(request_id)(scope, receive, send_with_id)
        finally:
            self._count(scope, status, time.perf_counter() - started)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same for a WebSocket, which is counted when it opens, or is refused."""
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, started=time.perf_counter())

        async def send_with_id(message: Message) -> None:
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
                endpoint: str = getattr(scope.get("route"), "path", "unmatched")
                self._metrics.requests.labels(endpoint, str(message.get("status", 101))).inc()
            await send(message)

        await self._app(scope, receive, send_with_id)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        endpoint: str = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.requests.labels(endpoint, str(status or CLIENT_CLOSED_REQUEST)).inc()
        if endpoint == "/derain":
            self._metrics.request_duration.observe(seconds)


class LingeringClose:
    """Answers before the request body has been read, in such a way that the client can read the answer.

    The answer says `Connection: close`, and for a short while what still arrives is read and dropped: closing
    at once would reset the connection under the client's hands.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        read = False

        async def receive_watched() -> Message:
            nonlocal read
            message = await receive()
            read = read or message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def send_lingering(message: Message) -> None:
            if not read and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            if read or message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            await send({**message, "more_body": True})
            try:
                async with asyncio.timeout(LINGER_SECONDS):
                    while not read:
                        await receive_watched()
            except TimeoutError:
                pass
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, receive_watched, send_lingering)
