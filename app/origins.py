"""Which pages may open a WebSocket: browsers let any page do so, and ask nobody before."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import ProblemError


class Origins:
    """Refuses WebSockets that name another origin than the service's own and those allowed. Programs name
    none.

    Args:
        allowed: origins (https://example.com), or `*` for all.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not self._admits(Headers(scope=scope)):
            problem = ProblemError(
                403, "foreign-origin", "pages of this origin may not use the service (DERAIN_CORS_ORIGINS)"
            )
            await problem.response(scope["state"]["request_id"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admits(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or origin in self._allowed or "*" in self._allowed:
            return True
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
