"""What the service takes on, and what it refuses, by cost: images, bytes, and seconds of work that wait."""

import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

from app.batching import AdmissionError


class Ticket:
    """What one request holds of the service's capacity; made by `Admission.admit`."""

    def __init__(self, admission: "Admission", announced_bytes: int) -> None:
        self._admission = admission
        self._announced_bytes = announced_bytes
        self._images = 0
        self._bytes = 0
        self._pixels = 0

    def add_bytes(self, count: int) -> None:
        """Hold more bytes.

        Raises:
            AdmissionError: the service holds as many as it may.
        """
        self._admission.reserve_bytes(count)
        self._bytes += count

    def add_images(self, count: int) -> None:
        """Hold places for images.

        Raises:
            AdmissionError: there are not so many.
        """
        self._admission.reserve_images(count)
        self._images += count

    def add_pixels(self, count: int, wait_seconds: float) -> None:
        """Announce pixels that will be queued.

        Raises:
            AdmissionError: they would not be restored within `wait_seconds`.
        """
        self._admission.expect_pixels(count, wait_seconds, self._announced_bytes)
        self._pixels += count

    def drop_images(self) -> None:
        """Give the places back."""
        self._admission.release_images(self._images)
        self._images = 0

    def drop_pixels(self) -> None:
        """Say that all pixels announced are in the queue, which counts them from now on."""
        self._admission.forget_pixels(self._pixels)
        self._pixels = 0

    def keep_bytes(self, count: int) -> None:
        """Give back all bytes but so many, or keep what there is."""
        kept = min(count, self._bytes)
        self._admission.release_bytes(self._bytes - kept)
        self._bytes = kept

    def release(self) -> None:
        """Give everything back."""
        self.drop_images()
        self.drop_pixels()
        self._admission.release_bytes(self._bytes)
        self._bytes = 0


HEADROOM = 0.7
"""Part of the time that a request has which others' work may take up: estimates are off, and its own images
are to be decoded, restored and encoded as well."""


RECENT_REQUESTS = 32
"""Requests that say how many pixels the next one has, by the bytes that it announces."""

ALIKE = 2.0
"""Requests tell of each other's pixels if one announces no more than so many times the bytes of the other."""


class Admission:
    """Bounds what the service takes on: images not yet restored, bytes in flight, and seconds of backlog.

    A request that was admitted is finished, whatever happens after: `drain` turns away new ones only. Used
    from one thread (the event loop).

    Args:
        max_images: places for images.
        max_bytes: bytes held for all requests together.
        backlog_seconds: seconds until everything in the queue now is done, and pixels more that are not in it
            yet.
        on_refusal: told the reason of every refusal.
    """

    def __init__(
        self,
        *,
        max_images: int,
        max_bytes: int,
        backlog_seconds: Callable[[int], float],
        on_refusal: Callable[[str], None],
    ) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._backlog_seconds = backlog_seconds
        self._on_refusal = on_refusal
        self._draining = False
        self._requests = 0
        self._images = 0
        self._bytes = 0
        self._pixels = 0
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT_REQUESTS)  # bytes, pixels

    @property
    def requests(self) -> int:
        """Requests admitted and not yet answered."""
        return self._requests

    @property
    def images(self) -> int:
        """Images admitted and not yet restored."""
        return self._images

    @property
    def bytes(self) -> int:
        """Bytes held for all requests together."""
        return self._bytes

    @property
    def backlog_seconds(self) -> float:
        """Seconds, by measured throughput, until everything admitted so far is restored."""
        return self._backlog_seconds(self._pixels)

    @property
    def draining(self) -> bool:
        """Whether new requests are turned away because the service is leaving."""
        return self._draining

    def drain(self) -> None:
        """Admit no more requests."""
        self._draining = True

    @contextmanager
    def admit(self, *, wait_seconds: float = math.inf, expected_bytes: int = 0) -> Generator[Ticket]:
        """Take on a request for as long as the context lasts.

        Args:
            wait_seconds: how long its client waits for the answer.
            expected_bytes: what the client announces to send; checked, not held.

        Raises:
            AdmissionError: the service is draining or full.
        """
        self.check(wait_seconds=wait_seconds, expected_bytes=expected_bytes)
        ticket = Ticket(self, expected_bytes)
        self._requests += 1
        try:
            yield ticket
        finally:
            self._requests -= 1
            ticket.release()

    def check(self, *, wait_seconds: float = math.inf, expected_bytes: int = 0) -> None:
        """Refuse what `admit` would refuse.

        What it costs is guessed from the bytes that it announces. In a rush the backlog is always just short
        of too much; to learn from the image itself that it is one too many takes several times as long as to
        refuse it here.

        Raises:
            AdmissionError: the service is draining or full.
        """
        if self._draining:
            raise self._refusal("draining", "the service is shutting down", self.backlog_seconds)
        self._check_backlog(self._guessed_pixels(expected_bytes), wait_seconds)
        self._check_images(1)
        self._check_bytes(expected_bytes)

    def reserve_images(self, count: int) -> None:
        """See `Ticket.add_images`."""
        self._check_images(count)
        self._images += count

    def release_images(self, count: int) -> None:
        """See `Ticket.drop_images`."""
        self._images -= count

    def expect_pixels(self, count: int, wait_seconds: float, announced_bytes: int) -> None:
        """See `Ticket.add_pixels`."""
        self._check_backlog(count, wait_seconds)
        self._pixels += count
        if announced_bytes > 0:
            self._recent.append((announced_bytes, count))

    def forget_pixels(self, count: int) -> None:
        """See `Ticket.drop_pixels`."""
        self._pixels -= count

    def reserve_bytes(self, count: int) -> None:
        """See `Ticket.add_bytes`."""
        self._check_bytes(count)
        self._bytes += count

    def release_bytes(self, count: int) -> None:
        """See `Ticket.release`."""
        self._bytes -= count

    def _guessed_pixels(self, announced_bytes: int) -> int:
        """Those of the least compressed among the last requests of about that length that were taken on; 0
        where there was none.

        Others of another length tell nothing, lest a few tiny files of huge pictures keep everybody out.
        """
        guesses = (
            announced_bytes * pixels / length
            for length, pixels in self._recent
            if length <= ALIKE * announced_bytes and announced_bytes <= ALIKE * length
        )
        return round(min(guesses, default=0))

    def _check_backlog(self, pixels: int, wait_seconds: float) -> None:
        waiting = self.backlog_seconds
        backlog = self._backlog_seconds(self._pixels + pixels)
        # what comes alone is tried, however long it may take
        if waiting > 0.0 and backlog > HEADROOM * wait_seconds:
            detail = f"it would take {backlog:.1f} seconds with what waits now; {wait_seconds:.1f} are left"
            raise self._refusal("backlog", detail, backlog - HEADROOM * wait_seconds)

    def _check_images(self, count: int) -> None:
        if self._images + count > self._max_images:
            excess = (self._images + count - self._max_images) / self._max_images
            raise self._refusal("queue", "too many images are waiting", self.backlog_seconds * excess)

    def _check_bytes(self, count: int) -> None:
        if self._bytes + count > self._max_bytes:
            raise self._refusal("bytes", "too many bytes are in flight", self.backlog_seconds)

    def _refusal(self, reason: str, detail: str, retry_after: float) -> AdmissionError:
        self._on_refusal(reason)
        return AdmissionError(reason, detail, retry_after)
