"""Pure ASGI middleware: what cannot be taken on is refused before anything else is done for it."""

import asyncio
import time
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.batching import AdmissionError
from app.errors import problem_of
from app.pipeline import Pipeline

ADMITTED_PATHS = frozenset({"/derain", "/perceive"})
"""What takes the device's time."""


READING_SECONDS = 0.02
"""Of the time that a client waits, what reading its request takes at least on a busy service. Asked without
it, the backlog would now and then be found too long for a request only after that was read."""


@dataclass(frozen=True, slots=True)
class RefusedRoute:
    """Stands where the router would have put the route, for whoever counts requests by it."""

    path: str


class RefuseEarly:
    """Asks the admission before the router, the options and the body are looked at.

    In a rush most requests are refused: at ten times what the service can do, whatever a refusal costs is
    paid a hundred times a second by the cores that restore images.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._coalescing = WakeupCoalescing()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in ADMITTED_PATHS:
            try:
                _check(scope)
            except AdmissionError as error:
                self._coalescing.refused()
                scope["route"] = RefusedRoute(scope["path"])
                await problem_of(error).response(scope["state"]["request_id"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


PERIOD_SECONDS = 0.02
"""From one look of the event loop at what came in to the next, in a rush."""

TURNS = 12
"""Of the event loop in one look: a connection is accepted, read and answered in fewer."""


class WakeupCoalescing:
    """In a rush the event loop looks at the network fifty times a second instead of at once, as network
    drivers moderate their interrupts.

    Each time a connection wakes the loop, the cores' caches are full of what the network computes with, and
    a request that costs a third of a millisecond alone costs a whole one. Together they cost less. It begins
    with two refusals within `PERIOD_SECONDS` and ends when none came for two periods.
    """

    def __init__(self) -> None:
        self._last = -1.0  # when somebody was refused
        self._looked = 0.0  # when the loop last began to look
        self._active = False

    def refused(self) -> None:
        """Call in the event loop, whenever a request is refused."""
        now = time.monotonic()
        if not self._active and now - self._last < PERIOD_SECONDS:
            self._active = True
            self._looked = now
            asyncio.get_running_loop().call_soon(self._turn, TURNS)
        self._last = now

    def _turn(self, left: int) -> None:
        if left == 0:
            if time.monotonic() - self._last > 2 * PERIOD_SECONDS:
                self._active = False
                return
            # blocking is meant: what comes meanwhile waits in the sockets
            time.sleep(max(0.0, self._looked + PERIOD_SECONDS - time.monotonic()))
            self._looked = time.monotonic()
            left = TURNS
        asyncio.get_running_loop().call_soon(self._turn, left - 1)


def _check(scope: Scope) -> None:
    application: Starlette = scope["app"]
    pipeline: Pipeline = application.state.pipeline
    headers = Headers(scope=scope)
    waits = _number(headers.get("x-request-timeout"), pipeline.settings.deadline_seconds)
    pipeline.admission.check(
        wait_seconds=max(0.0, waits - READING_SECONDS),
        # no more is ever read
        expected_bytes=min(int(_number(headers.get("content-length"), 0)), pipeline.settings.max_body_bytes),
    )


def _number(text: str | None, otherwise: float) -> float:
    """A positive number of a header; nonsense is left to the endpoint to refuse."""
    try:
        number = float(text or "")
    except ValueError:
        return otherwise
    return number if 0 < number < float("inf") else otherwise
