"""Pure ASGI middleware: what a request is known by, the last line of defence, and refusals mid-upload."""

import asyncio
import logging
import random
import re
import time

from fastapi.telemetry import TelemetryConfig
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import CLIENT_CLOSED_REQUEST, internal_problem
from app.logs import log_request
from app.metrics import Metrics
from app.tracing import Trace, Tracing, current

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""Ids of clients that are taken over; others are replaced."""

NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""For applications: FastAPI's own would put queries, and with them prompts, into its spans."""

UNTRACED_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""What is asked all the time, and whose spans would tell nothing."""

LINGER_SECONDS = 2.0
"""How long the rest of a refused upload is read and dropped, so that the client gets to read the answer."""


class RequestContext:
    """Outermost middleware: what a request is known by, and what is told of it when it is over.

    Sets `request.state.request_id` (the client's `X-Request-ID`, else a new one), `request.state.started`
    (`time.perf_counter()` seconds) and `app.tracing.current`; returns the ids as headers; counts, logs and
    traces the request.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        traced = scope["path"] not in UNTRACED_PATHS
        trace = self._tracing.begin(request_id, scope["headers"]) if traced else Trace(request_id)
        scope.setdefault("state", {}).update(request_id=request_id, started=started)

        async def receive_counted() -> Message:
            message = await receive()
            trace.received += len(message.get("body", b""))
            return message

        async def send_with_ids(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                MutableHeaders(scope=message).update(trace.headers)
            else:
                trace.sent += len(message.get("body", b""))
            await send(message)

        token = current.set(trace)
        try:
            await self._app(scope, receive_counted, send_with_ids)
        finally:
            trace.seconds = time.perf_counter() - started
            self._tell(scope, trace)
            current.reset(token)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same for a WebSocket, which is counted when it opens or is refused, and logged when it ends."""
        started = time.perf_counter()
        trace = Trace(_request_id(scope))
        scope.setdefault("state", {}).update(request_id=trace.request_id, started=started)

        async def send_with_id(message: Message) -> None:
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                MutableHeaders(scope=message)["X-Request-ID"] = trace.request_id
                trace.status = message.get("status", 101)
                trace.route = getattr(scope.get("route"), "path", None)
                self._metrics.requests.labels(trace.route or "unmatched", str(trace.status)).inc()
            await send(message)

        token = current.set(trace)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            trace.seconds = time.perf_counter() - started
            trace.scheme, trace.method, trace.path = scope["scheme"], "GET", scope["path"]
            trace.client = scope["client"][0] if scope.get("client") else None
            log_request(trace)
            current.reset(token)

    def _tell(self, scope: Scope, trace: Trace) -> None:
        trace.scheme, trace.method, trace.path = scope.get("scheme", "http"), scope["method"], scope["path"]
        trace.client = scope["client"][0] if scope.get("client") else None
        trace.route = getattr(scope.get("route"), "path", None)
        trace.status = trace.status or CLIENT_CLOSED_REQUEST
        self._metrics.requests.labels(trace.route or "unmatched", str(trace.status)).inc()
        if trace.problem:
            self._metrics.problems.labels(trace.problem).inc()
        if trace.route == "/derain":
            self._metrics.observe_request(trace.seconds, trace.exemplar)
        log_request(trace)
        trace.end()
        trace.error = None  # its traceback holds whatever the frames held


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


class LastResort:
    """Turns an exception that nobody caught into a 500 problem, inside `RequestContext`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            logger.exception("the request failed")
            trace = current.get()
            trace.error = error
            if trace.status:  # the answer has begun
                raise
            await internal_problem().response(scope["state"]["request_id"])(scope, receive, send)


class OneLineStart:
    """Tells in one line why the application cannot start, where its lifespan says so in `app.state.refusal`;
    the framework would tell a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_one_line(message: Message) -> None:
            refusal = getattr(scope["app"].state, "refusal", None)
            if message["type"] == "lifespan.startup.failed" and refusal is not None:
                message = {**message, "message": refusal}
            await send(message)

        await self._app(scope, receive, send_one_line)


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
