"""Which hosts the service answers for: a page of somebody else's that points its own name here is not one."""

from collections.abc import Sequence

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ProblemError

PROBES = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Answered whatever host they name: an orchestrator names addresses."""


class TrustedHosts:
    """Starlette's check of the `Host` header, with a problem as its refusal.

    Args:
        hosts: names, or `*.example.com` for all names below one.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        trusted = False

        async def note(_scope: Scope, _receive: Receive, _send: Send) -> None:
            nonlocal trusted
            trusted = True

        async def drop(_message: Message) -> None:
            pass

        await TrustedHostMiddleware(note, self._hosts, www_redirect=False)(scope, receive, drop)
        if trusted:
            await self._app(scope, receive, send)
            return
        problem = ProblemError(
            400, "unknown-host", "this service does not answer for the host that was named"
        )
        await problem.response(scope["state"]["request_id"])(scope, receive, send)
