"""The tries of one call: how much time is left, and whether and when another one is made."""

import random
import ssl
import time
import uuid
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import httpx

from app.client.errors import DerainConnectionError, DerainError, DerainTimeoutError, problem_of

BUSY = frozenset({429, 503})
"""Statuses that pass."""

CONNECT_SECONDS = 10.0
"""Longest wait for a connection."""

FIRST_BACKOFF, LONGEST_BACKOFF = 0.25, 8.0
"""Seconds between tries where the service does not say, doubled each time; half of it by chance, so that
clients which were refused together do not come back together."""

LATER = 1.5
"""For the same reason, up to so many times as late as the service says."""

BROKEN = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
)


class Attempts:
    """Counts the tries of one call.

    Args:
        timeout: seconds for the call.
        retries: tries after the first.
    """

    def __init__(self, timeout: float, retries: int) -> None:
        self.request_id = uuid.uuid4().hex
        self._timeout = timeout
        self._until = time.monotonic() + timeout
        self._retries = retries
        self._made = 0

    def left(self) -> float:
        """Seconds until the call's time is over. Raises DerainTimeoutError when it is."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise self.out_of_time()
        return left

    def headers(self) -> dict[str, str]:
        """What the service is to know of the next try."""
        return {"X-Request-ID": self.request_id, "X-Request-Timeout": f"{self.left():.3f}"}

    def timeouts(self) -> httpx.Timeout:
        """What no step of the next try may take longer than."""
        left = self.left()
        return httpx.Timeout(left, connect=min(left, CONNECT_SECONDS))

    def refused(self, response: httpx.Response, body: bytes) -> float:
        """Seconds to wait after an answer that is an error.

        Raises:
            DerainError: the error, where another try can do nothing, or comes too late.
        """
        retry_after = _retry_after(response.headers)
        return self._wait(problem_of(response, body, retry_after), response.status_code in BUSY)

    def broken(self, error: httpx.TransportError) -> float:
        """Seconds to wait after a connection that broke before it was answered.

        Raises:
            DerainError: what happened, where another try can do nothing, or comes too late.
        """
        return self._wait(self.lost(error), _may_pass(error), error)

    def lost(self, error: httpx.TransportError) -> DerainError:
        """The error of a call whose connection broke for good, or was too slow."""
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return self.out_of_time()
        detail = f"{type(error).__name__}: {error}"
        return DerainConnectionError(detail, title="No answer", request_id=self.request_id)

    def out_of_time(self) -> DerainTimeoutError:
        """The error of a call that took too long."""
        return DerainTimeoutError(f"not done within {self._timeout:g} seconds", request_id=self.request_id)

    def _wait(self, error: DerainError, may_pass: bool, cause: Exception | None = None) -> float:
        backoff = min(FIRST_BACKOFF * 2**self._made, LONGEST_BACKOFF)
        if error.retry_after is None:
            wait = random.uniform(backoff / 2, backoff)
        else:
            wait = max(error.retry_after, FIRST_BACKOFF) * random.uniform(1, LATER)
        if not may_pass or self._made >= self._retries or wait >= self.left():
            raise error from cause
        self._made += 1
        return wait


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, of either form of Retry-After (RFC 9110, section 10.2.3)."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _may_pass(error: httpx.TransportError) -> bool:
    """Whether it was the connection that broke, before a byte of an answer came."""
    if not isinstance(error, BROKEN):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLSyscallError):
            return False
        cause = cause.__cause__ or cause.__context__
    return not isinstance(error, httpx.RemoteProtocolError) or str(error).startswith("Server disconnected")
