"""Photographs on disk, through the network in batches: read, decoded, restored, encoded, written. No HTTP."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from app import heic, inputs
from app.batching import BatchKey, BatchQueue
from app.formats import HEIC, ImageError, ImageFormat, UnencodableImageError
from app.image_headers import ImageLimits
from app.images import Photograph, check_fits, decode, encode
from app.inputs import PIPE, reason
from app.outputs import Task
from app.whole_files import write_whole
from app.worker import DeviceWorker, Job, RestorationEntry, RestorationQueue, Restored, compute_alone
from model.perception import Perceived
from model.prompts import Prompt
from model.restorer import AbandonedError, Restorer

CPU_BATCH_PIXELS = 512 * 512
ACCELERATOR_BATCH_PIXELS = 8 * 1024 * 1024
"""Padded pixels in one batch; a CPU gains nothing from larger ones."""

HELD_BATCHES = 4
"""Pixels of so many batches are held: one is restored, one waits, the others become one or are written."""

STOP_SECONDS = 0.2
"""A run looks so often whether it is to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for.

    Attributes:
        prompt: the degradation prompt; None: perceived for each photograph.
        caption: the semantic prompt; None: none.
        keep_metadata: put EXIF, XMP and comments into restored files.
        limits: the largest photograph taken.
    """

    prompt: str | None = None
    caption: str | None = None
    keep_metadata: bool = True
    limits: ImageLimits


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file.

    Attributes:
        path: the input.
        destination: the restored file; None when it failed.
        prompt: the degradation prompt used; None when it failed before, or was skipped.
        width, height: pixels; 0 when it failed before it was decoded, or was skipped.
        error: why it failed; None when it did not.
    """

    path: Path
    status: Literal["restored", "skipped", "failed"]
    destination: Path | None = None
    prompt: str | None = None
    width: int = 0
    height: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A photograph that is ready for the network, or comes from it."""

    task: Task
    photograph: Photograph
    image_format: ImageFormat
    prompt: Prompt

    @property
    def pixels(self) -> int:
        return self.photograph.height * self.photograph.width

    def failed(self, error: Exception) -> Outcome:
        return Outcome(self.task.path, "failed", prompt=self.prompt.degradation, error=reason(error))


class Restoration:
    """A run over many files: threads decode and encode while another keeps the device busy, by the queue and
    the worker of the service.

    Args:
        jobs: threads that decode and encode.
    """

    def __init__(self, restorer: Restorer, order: Order, *, jobs: int) -> None:
        self._restorer = restorer
        self._order = order
        self._jobs = jobs
        self._batch_pixels = CPU_BATCH_PIXELS if restorer.device.type == "cpu" else ACCELERATOR_BATCH_PIXELS
        self._queue: RestorationQueue = BatchQueue(batch_pixels=self._batch_pixels)
        self._loading: set[Future[_Decoded | Outcome]] = set()
        self._restoring: dict[Future[Restored], tuple[_Decoded, RestorationEntry]] = {}
        self._writing: dict[Future[Outcome], _Decoded] = {}
        self._stopped = False

    def stop(self) -> None:
        """Begin no more files and give up those that are not restored yet. A signal handler may call it."""
        self._stopped = True

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Restore files; each gives one outcome, as soon as it is known, but for those that `stop` gives up.

        A file that fails does not stop the others; each result appears whole or not at all.
        """
        waiting = iter(tasks)
        worker = DeviceWorker({self._restorer.name: self._restorer}, self._queue, on_batch=_ignore)
        worker.start()
        with ThreadPoolExecutor(self._jobs, "codec", initializer=compute_alone) as pool:
            try:
                while True:
                    while not self._stopped and self._has_room() and (task := next(waiting, None)):
                        self._loading.add(pool.submit(self._load, task))
                    running: list[Future[Any]] = [*self._loading, *self._restoring, *self._writing]
                    if not running:
                        break
                    wait(running, STOP_SECONDS, return_when=FIRST_COMPLETED)
                    yield from self._advance(pool)
                    if self._stopped:
                        self._give_up()
            finally:
                self._give_up()
                self._queue.close()
                worker.join()

    def _has_room(self) -> bool:
        """Whether another file may be decoded: so that a batch always waits, and memory is bounded by the
        size of batches, or where images are larger than those, by a few images."""
        if len(self._loading) >= 2 * self._jobs:
            return False
        held = sum(decoded.pixels for decoded, _ in self._restoring.values())
        held += sum(decoded.pixels for decoded in self._writing.values())
        if held < HELD_BATCHES * self._batch_pixels:
            return True
        return self._queue.images + len(self._loading) < 2 and len(self._writing) < 2 * self._jobs

    def _advance(self, pool: ThreadPoolExecutor) -> Iterator[Outcome]:
        """Take every file that is done with one stage to the next."""
        for loading in [future for future in self._loading if future.done()]:
            self._loading.remove(loading)
            if loading.cancelled():
                continue
            decoded = loading.result()
            if isinstance(decoded, Outcome):
                yield decoded
            elif not self._stopped:
                self._put(decoded)
        for reply in [future for future in self._restoring if future.done()]:
            decoded, _ = self._restoring.pop(reply)
            if reply.cancelled() or isinstance(reply.exception(), AbandonedError):
                continue
            error = reply.exception()
            if isinstance(error, Exception):
                yield decoded.failed(error)
                continue
            restored = replace(decoded, photograph=decoded.photograph.with_pixels(reply.result().image))
            self._writing[pool.submit(_write, restored)] = restored
        for writing in [future for future in self._writing if future.done()]:
            del self._writing[writing]
            yield writing.result()

    def _give_up(self) -> None:
        for future in self._loading:
            future.cancel()
        for _, entry in self._restoring.values():
            entry.abandon()

    def _put(self, decoded: _Decoded) -> None:
        photograph = decoded.photograph
        size = self._restorer.padded_size(photograph.height, photograph.width)
        entry = RestorationEntry(
            key=BatchKey(self._restorer.name, *size), payload=Job(photograph.pixels, decoded.prompt)
        )
        self._restoring[entry.reply] = decoded, entry
        self._queue.put([entry])

    def _load(self, task: Task) -> _Decoded | Outcome:
        try:
            photograph = decode(inputs.read(task.path), self._order.limits)
            if not self._order.keep_metadata:
                photograph = photograph.without_metadata()
            image_format = task.image_format or heic.answer_format(photograph.image_format)
            if image_format is HEIC and not heic.is_writable():
                raise UnencodableImageError("HEIC cannot be written here")
            check_fits(photograph, image_format)
            prompt = self._order.prompt or self._restorer.perceive(photograph.pixels).prompt
        except Exception as error:  # whatever it is, the other files go on
            return Outcome(task.path, "failed", error=reason(error))
        return _Decoded(task, photograph, image_format, Prompt(prompt, self._order.caption))


def perceive_files(
    restorer: Restorer, paths: Iterable[Path], limits: ImageLimits, *, jobs: int
) -> Iterator[tuple[Path, Perceived | Exception]]:
    """Say of each file, in order, what is wrong with the picture, or why it cannot be told."""

    def perceive(path: Path) -> Perceived | Exception:
        try:
            return restorer.perceive(decode(inputs.read(path), limits).pixels)
        except Exception as error:  # whatever it is, the other files go on
            return error

    with ThreadPoolExecutor(jobs, "codec", initializer=compute_alone) as pool:
        ahead: deque[tuple[Path, Future[Perceived | Exception]]] = deque()
        try:
            for path in paths:
                ahead.append((path, pool.submit(perceive, path)))
                if len(ahead) > 2 * jobs:
                    first, perceived = ahead.popleft()
                    yield first, perceived.result()
            for first, perceived in ahead:
                yield first, perceived.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _ignore(_images: int, _pixels: int) -> None:
    """Nobody counts batches here."""


def _write(restored: _Decoded) -> Outcome:
    """Encode and write."""
    task, photograph = restored.task, restored.photograph
    try:
        data = encode(photograph, restored.image_format)
        if task.destination == PIPE:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            write_whole(task.destination, data)
    except Exception as error:  # whatever it is, the other files go on
        if isinstance(error, ImageError):
            return restored.failed(error)
        return replace(restored.failed(error), error=f"cannot write {task.destination}: {reason(error)}")
    return Outcome(
        task.path,
        "restored",
        destination=task.destination,
        prompt=restored.prompt.degradation,
        width=photograph.width,
        height=photograph.height,
    )
