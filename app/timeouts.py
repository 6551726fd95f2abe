"""A body that stalls or crawls is given up: it must not hold memory and a place for as long as it likes."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ProblemError
from app.schemas import Limit


class BodyPace:
    """Answers 408 when the bytes of a request's body keep the service waiting.

    Waiting has a credit of `patience_seconds`. Every second of waiting takes from it, every byte that arrives
    gives `1 / bytes_per_second` back, up to the full credit: so nothing at all may come for the patience, a
    crawl lasts a little longer, and what came fast buys no long pause later. Only time spent waiting for the
    client counts.

    Args:
        deadline_seconds: a body may keep the service waiting for so long in all.
    """

    def __init__(
        self, app: ASGIApp, *, patience_seconds: float, bytes_per_second: float, deadline_seconds: float
    ) -> None:
        self._app = app
        self._patience = patience_seconds
        self._pace = bytes_per_second
        self._deadline = deadline_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        clock = asyncio.get_running_loop().time
        credit, left = self._patience, self._deadline
        complete = False

        async def receive_in_time() -> Message:
            nonlocal credit, left, complete
            if complete:
                return await receive()
            started = clock()
            try:
                async with asyncio.timeout(min(credit, left)):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow(out_of_time=left <= credit) from None
            waited = clock() - started
            left = max(0.0, left - waited)
            credit = min(
                self._patience, max(0.0, credit - waited) + len(message.get("body", b"")) / self._pace
            )
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)

    def _too_slow(self, *, out_of_time: bool) -> ProblemError:
        if out_of_time:
            return ProblemError(
                408,
                "body-too-slow",
                f"the body was not complete after {self._deadline:g} seconds",
                limit=Limit(name="body_deadline_seconds", max=self._deadline),
            )
        return ProblemError(
            408,
            "body-too-slow",
            f"for {self._patience:g} seconds the body came not at all, or by fewer than {self._pace:g} bytes "
            "per second",
            limit=Limit(name="body_timeout_seconds", max=self._patience),
        )
