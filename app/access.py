"""Who may use the service: a key is asked for before the body is read, and its quota is kept."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ProblemError
from app.keys import Key, KeyFile
from app.metrics import Metrics
from app.quotas import WINDOW_SECONDS, Allowance, QuotaError, Quotas
from app.schemas import Limit
from app.tracing import current

OPEN_PATHS = frozenset(
    {"/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
)
OPEN_PREFIXES = ("/static/", "/docs/")
"""What needs no key: the page and the documentation with their files, probes and metrics. All else does, also
what does not exist."""


KEY_PROTOCOL = "derain.key."


class Access:
    """Asks for an API key: `Authorization: Bearer KEY`, or `X-API-Key: KEY`. Never in the query. Pages, which
    cannot set headers of a WebSocket, offer the subprotocol `derain.key.KEY`.

    401 without a valid key; 429 beyond the key's rate or concurrency. Answers to keys with a rate carry
    `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10), whose `t` is the seconds
    until there is room for one more.
    """

    def __init__(self, app: ASGIApp, keys: KeyFile, metrics: Metrics, quotas: Quotas | None = None) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._quotas = quotas or Quotas()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] not in ("http", "websocket") or is_open(path):
            await self._app(scope, receive, send)
            return
        secret = _secret(Headers(scope=scope))
        key = self._keys.find(secret) if secret else None
        if key is None:
            await self._refuse(_unauthorized(given=bool(secret)), "unauthorized", scope, receive, send)
            return
        current.get().key = key.name
        with ExitStack() as held:
            try:
                allowance = held.enter_context(self._quotas.hold(key))
            except QuotaError as error:
                await self._refuse(_too_many(error, key), error.reason, scope, receive, send)
                return
            scope["state"]["count_again"] = partial(self._count, secret)
            await self._app(scope, receive, _telling(send, allowance))

    def _count(self, secret: bytes) -> None:
        """Count one more request of a connection that stays open.

        Raises:
            ProblemError: the key is no longer valid, or its rate is used up.
        """
        key = self._keys.find(secret)
        if key is None:
            raise _unauthorized(given=True)
        try:
            self._quotas.begin(key)
        except QuotaError as error:
            raise _too_many(error, key) from error

    async def _refuse(
        self, problem: ProblemError, reason: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._metrics.rejected.labels(reason).inc()
        await problem.response(scope["state"]["request_id"])(scope, receive, send)


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def describe_keys(app: FastAPI) -> None:
    """Say in the OpenAPI document which operations need a key, and how it is given."""
    original: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        schema = original()
        schema.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for path, operations in schema["paths"].items():
            if not is_open(path):
                for operation in operations.values():
                    operation["security"] = [{"bearer": []}, {"header": []}]
        return schema

    app.openapi = openapi


def _secret(headers: Headers) -> bytes:
    """The key that a request brings; empty where it brings none."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    given = credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    if not given:
        offered = (name.strip() for name in headers.get("sec-websocket-protocol", "").split(","))
        keys = (name.removeprefix(KEY_PROTOCOL) for name in offered if name.startswith(KEY_PROTOCOL))
        given = next(keys, "")
    return given.encode("latin-1")  # as starlette decoded it


def _unauthorized(*, given: bool) -> ProblemError:
    if given:  # RFC 6750, section 3.1
        challenge, detail = 'Bearer error="invalid_token"', "the API key is not known, or has expired"
    else:
        challenge, detail = (
            "Bearer",
            "an API key is needed: send Authorization: Bearer KEY, or X-API-Key: KEY",
        )
    return ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


def _too_many(error: QuotaError, key: Key) -> ProblemError:
    headers = {"Retry-After": str(error.retry_after)}
    if error.reason == "rate":
        headers |= _rate_headers(Allowance(error.maximum, 0, error.retry_after))
    return ProblemError(
        429,
        "too-many-requests",
        f"{error} ({key.name})",
        limit=Limit(name=error.limit, max=error.maximum),
        headers=headers,
    )


def _telling(send: Send, allowance: Allowance | None) -> Send:
    """Adds what is left to the answer."""
    if allowance is None:
        return send
    headers = _rate_headers(allowance)

    async def send_with_rate(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_rate


def _rate_headers(allowance: Allowance) -> dict[str, str]:
    return {
        "RateLimit-Policy": f'"requests";q={allowance.limit};w={WINDOW_SECONDS:.0f}',
        "RateLimit": f'"requests";r={allowance.remaining};t={allowance.reset_seconds}',
    }
