"""Queue, batch forming, cancellation and drain. Knows neither HTTP nor networks.

The event loop puts; the device's threads take. A batch is formed at the moment a taker is free:
the oldest waiting entry is its head, and it is filled, in order of arrival across the whole queue, with
entries of the head's key up to a budget of pixels. Nothing waits for a batch to become fuller.

A CPU is taken by several threads, the lanes: batches side by side, each on a share of the cores, wait for
nothing but their own, while a network spread over all cores waits for the slowest of them in every layer. An
image that is alone gets all cores.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

Payload = TypeVar("Payload")
Result = TypeVar("Result")


class BatchKey(NamedTuple):
    """What entries of one batch have in common: the model and the padded size in pixels."""

    model: str
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Padded pixels of one image."""
        return self.height * self.width


class AdmissionError(Exception):
    """The work is not taken on now; it may be later.

    Attributes:
        reason: a fixed word for metrics: "draining", "queue", "bytes" or "backlog".
        retry_after: seconds after which another try has a chance, by measured throughput.
    """

    def __init__(self, reason: str, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.reason = reason
        self.retry_after = max(1, math.ceil(retry_after))


class DeadlineError(Exception):
    """The deadline of an entry passed while it waited."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Entry(Generic[Payload, Result]):
    """One image on its way through the queue, with its own clock readings and reply channel.

    Attributes:
        deadline: clock reading in seconds after which nobody waits for the result.
        queued_at, taken_at: clock readings in seconds.
        order: place in the order of arrival over all keys, given by the queue.
        abandoned: nobody waits for the result any more; see `abandon`.
    """

    key: BatchKey
    payload: Payload
    deadline: float = math.inf
    reply: "Future[Result]" = field(default_factory=lambda: Future[Any]())
    queued_at: float = 0.0
    taken_at: float = 0.0
    order: int = -1
    abandoned: bool = False

    def abandon(self) -> None:
        """Say that nobody waits any more: out of the queue at once, or, if running, when the worker asks."""
        self.abandoned = True
        self.reply.cancel()

    @property
    def queue_seconds(self) -> float:
        """Seconds from arrival in the queue until a batch was formed."""
        return self.taken_at - self.queued_at


TELLING_PIXELS = 256 * 256
"""Pixels of a batch that tells as much of the speed as any; smaller ones tell less."""


class Throughput:
    """Measured speed of the device in pixels per second, as a moving average over batches. Thread-safe.

    Attributes:
        overhead: seconds that a batch takes however small it is. Without them, some tiny images would make a
            device look so slow that larger ones are refused.
    """

    def __init__(
        self, pixels_per_second: float = 0.0, *, smoothing: float = 0.2, overhead: float = 0.0
    ) -> None:
        self.overhead = overhead
        self._pixels_per_second = pixels_per_second
        self._smoothing = smoothing
        self._lock = threading.Lock()

    @property
    def pixels_per_second(self) -> float:
        """The current estimate; 0 while nothing has been measured."""
        return self._pixels_per_second

    def observe(self, pixels: int, seconds: float) -> None:
        """Take one batch into the average; one that was little but overhead tells nothing."""
        working = max(seconds - self.overhead, 1e-9)
        with self._lock:
            known = self._pixels_per_second
            if known == 0.0:
                self._pixels_per_second = pixels / working
            elif working > self.overhead:
                weight = self._smoothing * min(1.0, pixels / TELLING_PIXELS)
                self._pixels_per_second = known + weight * (pixels / working - known)

    def seconds(self, pixels: int) -> float:
        """How long so many pixels take; 0 while nothing has been measured."""
        return pixels / self._pixels_per_second if self._pixels_per_second > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class _Running:
    """A batch of so many images, since when, and the part of the device that it takes."""

    key: BatchKey
    images: int
    since: float
    share: float


class BatchQueue(Generic[Payload, Result]):
    """The queue between many producers and the takers, one for each lane of the device.

    Args:
        batch_pixels: padded pixels at most in one batch, or in those of all lanes together; a single larger
            image still makes a batch of its own.
        lanes: takers.
        throughput: speed of the usual model.
        speeds: of models that have one of their own.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        batch_pixels: int,
        lanes: int = 1,
        throughput: Throughput | None = None,
        speeds: Mapping[str, Throughput] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if batch_pixels < 1:
            raise ValueError("batch_pixels must be positive")
        self.batch_pixels = batch_pixels
        self.lanes = lanes
        self.throughput = throughput or Throughput()
        self._speeds = speeds or {}
        self._clock = clock
        self._order = itertools.count()
        self._waiting: dict[BatchKey, dict[int, Entry[Payload, Result]]] = {}
        self._images = 0
        self._running: dict[int, _Running] = {}
        self._busy_seconds = 0.0
        self._closed = False
        self._failure: Exception | None = None
        self._changed = threading.Condition(threading.RLock())

    def speed(self, model: str) -> Throughput:
        """The measured speed of a model."""
        return self._speeds.get(model, self.throughput)

    def weigh(self, model: str, pixels: int) -> int:
        """How many pixels of the usual model take as long as these of another."""
        own = self.speed(model)
        if own is self.throughput or own.pixels_per_second == 0.0:
            return pixels
        return max(1, round(pixels * self.throughput.pixels_per_second / own.pixels_per_second))

    @property
    def images(self) -> int:
        """Images waiting; those being restored are not among them."""
        return self._images

    @property
    def backlog_seconds(self) -> float:
        """Seconds, by measured throughput, until everything waiting and running now is done."""
        with self._changed:
            left = 0.0
            for one in self._running.values():
                whole = self._seconds(one.key, one.images, batches=1)
                left += max(0.0, whole - self._taken(one))
            for key, entries in self._waiting.items():
                left += self._seconds(key, len(entries), batches=math.ceil(len(entries) / self._room(key)))
            return left

    def seconds(self, pixels: int) -> float:
        """How long so many pixels of the usual model will take, in batches that are full."""
        return self.throughput.seconds(pixels) + self.throughput.overhead * pixels / self.batch_pixels

    @property
    def busy_seconds(self) -> float:
        """Seconds so far of the device that went into batches: of a lane alone, its share of them."""
        with self._changed:
            return self._busy_seconds + sum(map(self._taken, self._running.values()))

    def put(self, entries: Sequence[Entry[Payload, Result]]) -> None:
        """Append entries in order; all of them or none. After `abort` they fail as those did that waited.

        Raises:
            AdmissionError: the queue is closed.
        """
        with self._changed:
            now = self._clock()
            if self._failure is not None:
                for entry in entries:
                    entry.queued_at = now
                    entry.reply.set_exception(self._failure)
                return
            if self._closed:
                raise AdmissionError("draining", "the service is shutting down", self.backlog_seconds)
            for entry in entries:
                entry.order = next(self._order)
                entry.queued_at = now
                self._waiting.setdefault(entry.key, {})[entry.order] = entry
                self._images += 1
            self._changed.notify_all()
        for entry in entries:
            # by key and order: an entry that its own reply referred to would outlive its request
            entry.reply.add_done_callback(
                lambda _, key=entry.key, order=entry.order: self._forget(key, order)
            )

    def take(self, lane: int = 0) -> list[Entry[Payload, Result]]:
        """Wait for work and form a batch; the lane's previous batch counts as done.

        Where there are several lanes, an image that is alone in the whole service goes to lane 0, which then
        has the whole device; all others wait for it, as they would on a device without lanes.

        Returns:
            Entries of one key, oldest first, each marked as running. Empty once the queue is closed and
            drained.
        """
        with self._changed:
            done = self._running.pop(lane, None)
            if done is not None:
                self._busy_seconds += self._taken(done)
                self._changed.notify_all()
            while True:
                alone = self._images == 1 and not self._running
                if not self._device_is_taken and (lane == 0 or not alone):
                    batch = self._form()
                    if batch:
                        share = 1.0 if alone or self.lanes == 1 else 1 / self.lanes
                        self._running[lane] = _Running(batch[0].key, len(batch), self._clock(), share)
                        return batch
                if self._closed and not self._images:
                    return []
                self._changed.wait()

    def share(self, lane: int = 0) -> float:
        """Which part of the device is for the batch that this lane has taken."""
        with self._changed:
            return self._running[lane].share

    @property
    def _device_is_taken(self) -> bool:
        return any(one.share == 1.0 for one in self._running.values())

    def _taken(self, one: _Running) -> float:
        return one.share * (self._clock() - one.since)

    def close(self) -> None:
        """Take no more entries; those that wait will still be given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self, error: Exception) -> None:
        """Take no more entries, and fail all that wait, or come yet."""
        with self._changed:
            self._closed, self._failure = True, error
            waiting = [entry for entries in self._waiting.values() for entry in entries.values()]
            self._waiting.clear()
            self._images = 0
            self._changed.notify_all()
        for entry in waiting:
            if entry.reply.set_running_or_notify_cancel():
                entry.reply.set_exception(error)

    def _seconds(self, key: BatchKey, images: int, *, batches: int) -> float:
        speed = self.speed(key.model)
        return speed.seconds(images * key.pixels) + batches * speed.overhead

    def _room(self, key: BatchKey) -> int:
        return max(1, self.batch_pixels // self.lanes // self.weigh(key.model, key.pixels))

    def _form(self) -> list[Entry[Payload, Result]]:
        batch: list[Entry[Payload, Result]] = []
        while not batch and self._waiting:
            key = min(self._waiting, key=lambda key: next(iter(self._waiting[key])))
            room = self._room(key)
            for entry in list(self._waiting[key].values()):
                self._remove(entry)
                if self._start(entry):
                    batch.append(entry)
                if len(batch) == room:
                    break
        return batch

    def _start(self, entry: Entry[Payload, Result]) -> bool:
        """Mark as running; False when nobody waits for it any more."""
        if not entry.reply.set_running_or_notify_cancel():
            return False
        entry.taken_at = self._clock()
        if entry.taken_at > entry.deadline:
            entry.reply.set_exception(DeadlineError("the deadline passed while the image waited"))
            return False
        return True

    def _remove(self, entry: Entry[Payload, Result]) -> None:
        entries = self._waiting[entry.key]
        del entries[entry.order]
        if not entries:
            del self._waiting[entry.key]
        self._images -= 1

    def _forget(self, key: BatchKey, order: int) -> None:
        """Take a cancelled entry out at once, so that it no longer counts as waiting."""
        with self._changed:
            entry = self._waiting.get(key, {}).get(order)
            if entry is not None:
                self._remove(entry)
