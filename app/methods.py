"""Pure ASGI middleware for the methods that every resource has: HEAD beside GET, and OPTIONS."""

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Methods:
    """HEAD is answered as GET is (RFC 9110, 9.3.2; the server leaves the body out), OPTIONS with what a path
    allows (9.3.7), and so is a method that it does not allow (15.5.6)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and (allowed := allowed_methods(scope)):
            await Response(status_code=204, headers={"Allow": ", ".join(allowed)})(scope, receive, send)
            return

        async def send_with_allow(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 405:
                MutableHeaders(scope=message)["Allow"] = ", ".join(allowed_methods(scope))
            await send(message)

        if scope["method"] == "HEAD" and "GET" in allowed_methods(scope):
            inner = {**scope, "method": "GET"}
            await self._app(inner, receive, send)
            # under which template the request is counted
            scope["route"] = inner.get("route")
            return
        await self._app(scope, receive, send_with_allow)


METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


def allowed_methods(scope: Scope) -> list[str]:
    """The methods that the path of a request takes, in alphabetical order; none where there is no such
    path."""
    application: Starlette = scope["app"]
    methods = {
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in application.routes)
    }
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods | {"OPTIONS"}) if methods else []
