"""What each API key may use: requests in any 60 seconds, and requests at once. Knows no HTTP."""

import math
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from app.keys import Key

WINDOW_SECONDS = 60.0


class QuotaError(Exception):
    """A key has used what it may use for now.

    Attributes:
        reason: a fixed word for metrics.
        limit: the name of the limit, a field of `Key`.
        retry_after: seconds after which the limit has room again.
    """

    def __init__(
        self, reason: Literal["rate", "concurrency"], limit: str, maximum: int, retry_after: float
    ) -> None:
        super().__init__(f"this key's limit of {maximum} {limit.replace('_', ' ')} is reached")
        self.reason = reason
        self.limit = limit
        self.maximum = maximum
        self.retry_after = max(1, math.ceil(retry_after))


@dataclass(slots=True)
class Usage:
    """What one key uses: when its requests of the last minute began, and how many run now."""

    begun: deque[float] = field(default_factory=lambda: deque[float]())
    running: int = 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left after a request: requests, and the seconds until there is one more."""

    limit: int
    remaining: int
    reset_seconds: int


class Quotas:
    """Counts for all keys. Used from one thread (the event loop).

    Requests that are refused are not counted, so that a client that waits as it is told gets in.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usages: dict[str, Usage] = {}

    @contextmanager
    def hold(self, key: Key) -> Generator[Allowance | None]:
        """Count a request of this key for as long as the context lasts; gives what its rate leaves.

        Raises:
            QuotaError: it may not be made now.
        """
        usage = self._usage(key)
        if key.concurrent_requests is not None and usage.running >= key.concurrent_requests:
            raise QuotaError("concurrency", "concurrent_requests", key.concurrent_requests, 1)
        allowance = self._begin(usage, key.requests_per_minute)
        usage.running += 1
        try:
            yield allowance
        finally:
            usage.running -= 1

    def begin(self, key: Key) -> None:
        """Count one more request of this key.

        Raises:
            QuotaError: it may not be made now.
        """
        self._begin(self._usage(key), key.requests_per_minute)

    def _usage(self, key: Key) -> Usage:
        return self._usages.setdefault(key.sha256, Usage())

    def _begin(self, usage: Usage, limit: int | None) -> Allowance | None:
        if limit is None:
            usage.begun.clear()
            return None
        now = self._clock()
        while usage.begun and usage.begun[0] <= now - WINDOW_SECONDS:
            usage.begun.popleft()
        if len(usage.begun) >= limit:
            # the limit may have been lowered: so many must have left before there is room
            wait = usage.begun[len(usage.begun) - limit] + WINDOW_SECONDS - now
            raise QuotaError("rate", "requests_per_minute", limit, wait)
        usage.begun.append(now)
        reset = math.ceil(usage.begun[0] + WINDOW_SECONDS - now)
        return Allowance(limit, limit - len(usage.begun), reset)
