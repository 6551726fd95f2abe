"""The threads of the device: they take batches off the queue and run them through the network."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch

from app.batching import BatchQueue, Entry
from app.tracing import NOBODY, Span, Tracing
from model.lanes import compute_on
from model.prompts import Prompt
from model.restorer import AbandonedError, is_out_of_memory

logger = logging.getLogger(__name__)

MIN_BATCH_PIXELS = 256 * 256
"""Small images share a batch, on each lane, even where a disturbed warm-up saw no use in it: it saves the
calls between them."""


REGROW_SECONDS = 60.0
"""After a lack of memory the pixels of a batch are doubled so often, until they are as many as before."""


class Network(Protocol):
    """What the worker needs of `model.restorer.Restorer`."""

    def restore(
        self,
        images: Sequence[torch.Tensor],
        prompts: Sequence[Prompt],
        *,
        in_place: bool = False,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[torch.Tensor]:
        """Restore uint8 `(3, H, W)` images of one padded size, each by its prompt.

        Raises:
            AbandonedError: `cancelled` said that nobody waits any more.
        """
        ...

    def healthy(self) -> bool:
        """Whether the device still computes."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One image to restore: uint8 `(3, H, W)` on the CPU, which may be overwritten, its prompt, and the span
    of being restored, to which the worker gives its clock readings."""

    image: torch.Tensor
    prompt: Prompt
    span: Span = field(default_factory=lambda: NOBODY.span("inference"))


@dataclass(frozen=True, slots=True)
class Restored:
    """The answer to a `Job`.

    Attributes:
        image: uint8 `(3, H, W)`, as large as the job's.
        batch_size: images in the batch that it was restored in.
        queue_seconds: time until the batch was formed.
        inference_seconds: time that the batch took, failed attempts included.
    """

    image: torch.Tensor
    batch_size: int
    queue_seconds: float
    inference_seconds: float


class RestorationError(RuntimeError):
    """The network failed on this one image."""


class DeviceFailedError(RuntimeError):
    """The device, or the thread that owns it, does not work any more, and will not in this process."""


RestorationEntry = Entry[Job, Restored]
RestorationQueue = BatchQueue[Job, Restored]


class DeviceWorker:
    """A lane of the device, all of it where there is one: one thread, one batch at a time.

    When a batch fails it is halved, and the halves again, until only the image that is to blame fails. After
    a lack of memory the queue's pixel budget is halved as well, and doubled again as time passes. Where the
    device itself has failed, or hangs, all that it was to do fails at once, and nothing more is taken.

    Args:
        networks: by model name, the first field of the batch key.
        on_batch: told images and padded pixels of every batch that was restored.
        on_failure: told, once and in any thread, why the device does not work any more.
        hang_seconds: a run of the network that takes longer will never end.
        tracing: makes the spans of batches.
        lane: of those that the queue has.

    Attributes:
        steps: runs of the network begun so far: one for a batch, one for each tile of a large image.
        out_of_memory: batches so far for which memory did not suffice.
    """

    def __init__(
        self,
        networks: Mapping[str, Network],
        queue: RestorationQueue,
        *,
        on_batch: Callable[[int, int], None],
        on_failure: Callable[[str], None] = lambda _reason: None,
        hang_seconds: float = math.inf,
        tracing: Tracing | None = None,
        lane: int = 0,
    ) -> None:
        self._networks = networks
        self._lane = lane
        self._queue = queue
        self._on_batch = on_batch
        self._on_failure = on_failure
        self._hang_seconds = hang_seconds
        self._batch_pixels = 0  # before memory did not suffice
        self._regrow_at = 0.0
        self._running: list[RestorationEntry] = []
        self._step_at: float | None = None  # while the network runs, since when
        self._failed = False
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.steps = 0
        self.out_of_memory = 0
        self._tracing = tracing or Tracing()
        self._cores = torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the device works; once started it ends only after the queue is closed."""
        return self._thread.is_alive() and not self._failed

    def start(self) -> None:
        """Begin to take batches."""
        self._thread.start()
        self._watchdog.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait, at most `timeout` seconds, until the closed queue is drained; not for a device that hangs."""
        self._thread.join(0 if self._failed else timeout)

    def _run(self) -> None:
        try:
            while self._restore_next():
                pass
        except BaseException as error:
            logger.critical("the device thread dies", exc_info=error)
            self.give_up(f"the device thread died of {error!r}")
        finally:
            self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._hang_seconds / 4)):
            began = self._step_at
            if began is not None and time.monotonic() - began > self._hang_seconds:
                self.give_up(f"a run of the network has not ended in {self._hang_seconds:g} seconds")
                return

    def give_up(self, reason: str) -> None:
        """Fail all that is running or waits, and say so: the device does not work any more."""
        with self._lock:
            if self._failed:
                return
            self._failed = True
        error = DeviceFailedError(reason)
        self._queue.abort(error)
        for entry in list(self._running):
            with suppress(InvalidStateError):
                entry.reply.set_exception(error)
        self._on_failure(reason)

    def _restore_next(self) -> bool:
        """Restore one batch and let go of it; False when the queue is closed and drained."""
        entries = self._queue.take(self._lane)
        if entries:
            compute_on(self._cores_of(self._queue.share(self._lane)))
            self._regrow()
            self._running = entries
            try:
                self._restore(entries, time.monotonic())
            finally:
                self._step_at = None
            self._running = []
        return bool(entries) and not self._failed

    def _cores_of(self, share: float) -> int:
        """How many cores this lane has now; of cores that do not come out even, the first lanes have one
        more."""
        if share == 1.0:
            return self._cores
        each, more = divmod(self._cores, self._queue.lanes)
        return max(1, each + (self._lane < more))

    def _regrow(self) -> None:
        if self._queue.batch_pixels < self._batch_pixels and time.monotonic() >= self._regrow_at:
            self._queue.batch_pixels = min(2 * self._queue.batch_pixels, self._batch_pixels)
            self._regrow_at = time.monotonic() + REGROW_SECONDS

    def _restore(self, entries: list[RestorationEntry], started: float) -> None:
        key = entries[0].key
        self._step_at = time.monotonic()
        jobs = [entry.payload for entry in entries]
        spans = [job.span for job in jobs]
        pixels = len(entries) * key.pixels
        for span in spans:
            span.started = started

        def given_up() -> bool:  # asked before every run of the network, and by several threads
            with self._lock:
                self.steps += 1
            self._step_at = time.monotonic()
            return self._failed or all(entry.abandoned for entry in entries)

        images: list[torch.Tensor] | None = None
        attempt = self._tracing.batch(spans, model=key.model, batch_size=len(entries), padded_pixels=pixels)
        try:
            with attempt:
                images = self._networks[key.model].restore(
                    [job.image for job in jobs],
                    [job.prompt for job in jobs],
                    # a batch may be tried again in halves, and needs its images for that
                    in_place=len(jobs) == 1,
                    cancelled=given_up,
                )
        except AbandonedError:
            for entry in entries:
                # a new one: what was raised refers to the images by its traceback
                self._fail(entry, AbandonedError("nobody waits for this image any more"))
            return
        except Exception as error:
            if is_out_of_memory(error):
                self.out_of_memory += 1
                self._batch_pixels = max(self._batch_pixels, self._queue.batch_pixels)
                one = self._queue.weigh(key.model, key.pixels)
                self._queue.batch_pixels = max(one, self._queue.batch_pixels // 2)
                self._regrow_at = time.monotonic() + REGROW_SECONDS
                logger.warning("out of memory: batches now hold at most %d pixels", self._queue.batch_pixels)
            elif not self._networks[key.model].healthy():
                logger.critical("the device has failed", exc_info=error)
                self.give_up(f"the device has failed: {error}")
                return
            if len(entries) == 1:
                logger.error("restoration failed", exc_info=error, extra={"trace": spans[0].trace})
                self._fail(entries[0], RestorationError("the network failed on this image"))
                return
            logger.warning("a batch of %d failed (%s): trying its halves", len(entries), repr(error))
        if images is None:
            # outside of the handler, whose traceback holds what the network had computed
            middle = len(entries) // 2
            self._restore(entries[:middle], started)
            self._restore(entries[middle:], started)
            return
        finished = attempt.finished
        self._queue.speed(key.model).observe(pixels, attempt.seconds * self._queue.share(self._lane))
        self._on_batch(len(entries), pixels)
        for entry, image in zip(entries, images, strict=True):
            entry.payload.span.finished = finished
            answer = Restored(
                image=image,
                batch_size=len(entries),
                queue_seconds=entry.queue_seconds,
                inference_seconds=finished - started,
            )
            with suppress(InvalidStateError):  # it was taken for hung, and failed
                entry.reply.set_result(answer)

    def _fail(self, entry: RestorationEntry, error: Exception) -> None:
        entry.payload.span.finished = time.monotonic()
        with suppress(InvalidStateError):
            entry.reply.set_exception(error)


def compute_alone() -> None:
    """Let this thread compute without helpers: perceiving must not take the cores that restoring runs on."""
    compute_on(1)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What warm-up measured: pixels per second, the pixels of a batch beyond which it gets no faster, and the
    seconds that the smallest batch takes."""

    pixels_per_second: float
    batch_pixels: int
    overhead: float


def calibrate(
    network: Network,
    *,
    side: int = 128,
    gain: float = 1.03,
    max_seconds: float = 0.25,
    max_images: int = 1024,
) -> Calibration:
    """Warm a network up, and find the smallest batch that uses the device well.

    Batches of `side` x `side` images are doubled until that has not made them `gain` times as fast per pixel
    twice in a row (a second image may only move from all cores to one of its own, a third and a fourth share
    the calls of the first two), or a batch would take longer than `max_seconds`.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
    pixels = side * side
    network.restore([image], [Prompt()])
    overhead = min(_seconds(network, [image[:, :8, :8]]) for _ in range(4))
    best = Calibration(pixels_per_second=0.0, batch_pixels=pixels, overhead=overhead)
    count, in_vain = 1, 0
    while count <= max_images and in_vain < 2:
        seconds = min(_seconds(network, [image] * count) for _ in range(3))
        speed = count * pixels / seconds
        if speed < gain * best.pixels_per_second:
            in_vain += 1
        else:
            best = Calibration(pixels_per_second=speed, batch_pixels=count * pixels, overhead=overhead)
            in_vain = 0
        if 2 * seconds > max_seconds:
            break
        count *= 2
    return best


def _seconds(network: Network, images: list[torch.Tensor]) -> float:
    started = time.monotonic()
    network.restore(images, [Prompt()] * len(images))
    return max(time.monotonic() - started, 1e-6)
