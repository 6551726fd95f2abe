"""What a request passes through between HTTP and the device: decode, perceive, queue, restore, encode."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from torch import Tensor

from app import heic, images
from app.admission import Admission, Ticket
from app.batching import AdmissionError, BatchKey, DeadlineError
from app.cores import usable_cores
from app.errors import ImageProblemError, ProblemError, bad_field
from app.formats import ImageError, ImageFormat
from app.image_headers import ImageHeader, ImageLimits, read_header
from app.images import Photograph
from app.metrics import PROMPTS, Metrics
from app.schemas import Limit
from app.settings import WORKING_BYTES_PER_PIXEL, Settings
from app.tracing import Trace, Tracing, current
from app.worker import (
    DeviceFailedError,
    DeviceWorker,
    Job,
    RestorationEntry,
    RestorationQueue,
    Restored,
    compute_alone,
)
from model.captioner import Captioner
from model.perception import Perceived
from model.prompts import Prompt
from model.restorer import Restorer

logger = logging.getLogger(__name__)

READ_AT_ONCE_BYTES = 1024 * 1024
"""Encoded bytes of which the event loop reads the headers itself: it takes less time than waking a thread."""

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants.

    Attributes:
        images: the encoded images; each is taken out, and empty bytes left, once it is being decoded, so that
            nobody may hold it longer than it is needed.
        formats: of each answer; None: as it came.
        keep_metadata: put EXIF, XMP and comments into the answers.
        prompt: the degradation prompt; None: perceived.
        caption: the semantic prompt; None: the captioner's, where there is one.
        model: the name of a loaded checkpoint.
        perceive: says the degradation prompt of a picture (3, H, W); None: the model's own perception.
        quality: of answers in formats with loss, 1 to 100; None: the service's own.
    """

    images: list[bytes]
    formats: Sequence[ImageFormat | None]
    prompt: str | None
    caption: str | None
    model: str
    keep_metadata: bool = True
    perceive: Callable[[Tensor], str] | None = None
    quality: int | None = None


@dataclass(frozen=True, slots=True)
class Deadline:
    """Until when a client waits: `seconds` from the arrival of its request to the clock reading `at`
    (`time.monotonic()`)."""

    seconds: float
    at: float

    @classmethod
    def of(cls, seconds: float, *, started: float) -> "Deadline":
        """So many seconds after a request began, at `started` (`time.perf_counter()`)."""
        return cls(seconds, time.monotonic() + seconds - (time.perf_counter() - started))

    @property
    def left(self) -> float:
        """Seconds until then; negative when it has passed."""
        return self.at - time.monotonic()


@dataclass(frozen=True, slots=True)
class RestoredFile:
    """An encoded answer, its size in pixels, and the seconds that encoding took."""

    data: bytes
    image_format: ImageFormat
    width: int
    height: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an `Order`; times in seconds, each that of its slowest image.

    Attributes:
        prompt: the degradation prompt used; where several were perceived, all, in order, joined by
            semicolons.
        caption: the semantic prompt used, if any; several written by the captioner are joined likewise.
        perception: what was perceived, if anything, of a single image.
        batch_size: images in the largest batch that one of the images was in.
    """

    files: list[RestoredFile]
    prompt: str
    caption: str | None
    perceived: bool
    perception: Perceived | None
    batch_size: int
    decode_seconds: float
    queue_seconds: float
    inference_seconds: float
    encode_seconds: float


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A photograph, first as it came and then restored, its place among those of the request (from 1), the
    format of its answer, its prompt, what was perceived, and the seconds that all this took."""

    photograph: Photograph
    number: int
    image_format: ImageFormat
    prompt: str
    caption: str | None
    perception: Perceived | None
    seconds: float


class Pipeline:
    """The service without its HTTP: everything that one process needs to restore images.

    Args:
        restorers: the loaded checkpoints by name; must hold `default_model`.
        queue: shared with the worker that `run` starts.
        captioner: says what an image shows where the client does not.
        on_failure: told, in any thread, why the device does not work any more.
        tracing: makes the spans of batches; those of a request go into `app.tracing.current`.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        restorers: Mapping[str, Restorer],
        default_model: str,
        queue: RestorationQueue,
        metrics: Metrics,
        captioner: Captioner | None = None,
        on_failure: Callable[[str], None] = lambda _reason: None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.restorers = restorers
        self.default_model = default_model
        self.metrics = metrics
        self.captioner = captioner
        self._limits = ImageLimits(settings.max_image_pixels, settings.max_image_side)
        self.admission = Admission(
            max_images=settings.max_queue_images,
            max_bytes=settings.max_inflight_bytes,
            backlog_seconds=lambda pixels: queue.backlog_seconds + queue.seconds(pixels),
            on_refusal=lambda reason: metrics.rejected.labels(reason).inc(),
        )
        self._queue = queue
        self._on_failure = on_failure
        self._workers = [
            DeviceWorker(
                restorers,
                queue,
                on_batch=metrics.observe_batch,
                on_failure=self._fail,
                hang_seconds=settings.hang_seconds,
                tracing=tracing,
                lane=lane,
            )
            for lane in range(queue.lanes)
        ]
        self._codecs = ThreadPoolExecutor(
            settings.codec_threads or usable_cores(), "codec", initializer=compute_alone
        )
        metrics.queue_images.set_function(lambda: queue.images)
        metrics.inflight_images.set_function(lambda: self.admission.images)
        metrics.inflight_images_limit.set(settings.max_queue_images)
        metrics.batch_pixels_limit.set_function(lambda: queue.batch_pixels)
        metrics.throughput.set_function(lambda: queue.throughput.pixels_per_second)
        metrics.backlog_seconds.set_function(lambda: self.admission.backlog_seconds)
        metrics.deadline_seconds.set(settings.deadline_seconds)
        metrics.inflight_requests.set_function(lambda: self.admission.requests)
        metrics.inflight_bytes.set_function(lambda: self.admission.bytes)
        metrics.inflight_bytes_limit.set(settings.max_inflight_bytes)
        metrics.watch_device(
            busy_seconds=lambda: queue.busy_seconds,
            steps=lambda: sum(worker.steps for worker in self._workers),
            out_of_memory=lambda: sum(one.out_of_memory for one in (*self._workers, *restorers.values())),
        )

    @property
    def alive(self) -> bool:
        """Whether all threads of the device run."""
        return all(worker.alive for worker in self._workers)

    @property
    def ready(self) -> bool:
        """Whether new work is taken on."""
        return self.alive and not self.admission.draining

    def _fail(self, reason: str) -> None:
        self.admission.drain()
        self._on_failure(reason)

    def start(self) -> None:
        """Start the threads of the device."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Finish what is queued, then end all threads. Blocks."""
        self.admission.drain()
        self._queue.close()
        for worker in self._workers:
            worker.join()
        self._codecs.shutdown(cancel_futures=True)

    def restorer(self, name: str | None) -> Restorer:
        """The restorer of this name, else the default one.

        Raises:
            ProblemError: 404, no such model is loaded.
        """
        restorer = self.restorers.get(name or self.default_model)
        if restorer is None:
            raise ProblemError(
                404, "no-such-model", f"no model named {name!r}; there are: {', '.join(self.restorers)}"
            )
        return restorer

    def check_texts(self, *, prompt: str | None, caption: str | None) -> None:
        """Refuse sentences that are longer than is taken.

        Raises:
            ProblemError: 422.
        """
        limit = self.settings.max_prompt_chars
        for name, text in (("prompt", prompt), ("caption", caption)):
            if len(text or "") > limit:
                raise bad_field(name, f"is longer than {limit} characters")

    def run(self, function: Callable[..., Value], *arguments: object) -> asyncio.Future[Value]:
        """Call a function in a thread that decodes and encodes, on behalf of the current request."""
        context = copy_context()
        return asyncio.get_running_loop().run_in_executor(
            self._codecs, lambda: context.run(function, *arguments)
        )

    async def restore(self, order: Order, ticket: Ticket, deadline: Deadline) -> Outcome:
        """Restore all images of an order; when one fails, the order fails.

        Args:
            ticket: of the request that the order came with; holds the places and the bytes of its images.
            deadline: until when its client waits.

        Raises:
            ImageProblemError: an image is refused or failed.
            ProblemError, AdmissionError: together the images are more than the service can hold, ever or now.
            DeadlineError: the deadline passed.
        """
        outcome = "failed"
        try:
            async with asyncio.timeout(deadline.left):
                result = await self._restore(order, ticket, deadline)
            outcome = "restored"
            return result
        except TimeoutError as error:
            outcome = "expired"
            raise DeadlineError(f"not restored within {deadline.seconds:g} seconds") from error
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except ImageProblemError as error:
            if isinstance(error.error, ImageError):
                outcome = "rejected"
            elif isinstance(error.error, DeadlineError):
                outcome = "expired"
            raise
        except (ProblemError, AdmissionError):
            outcome = "rejected"
            raise
        finally:
            self.metrics.images.labels(outcome).inc(len(order.images))

    async def perceive(self, data: bytes, model: str | None, ticket: Ticket, deadline: Deadline) -> Perceived:
        """Tell what is wrong with an image.

        Raises:
            ImageProblemError: the image is refused.
            AdmissionError: there is no room for it now.
            DeadlineError: the deadline passed.
        """
        restorer = self.restorer(model)
        try:
            async with asyncio.timeout(deadline.left):
                await self._make_room([data], None, ticket)
                photograph = await self.run(self._decode, data)
                return await self.run(self._perceive, restorer, photograph)
        except TimeoutError as error:
            raise DeadlineError(f"not perceived within {deadline.seconds:g} seconds") from error

    async def _restore(self, order: Order, ticket: Ticket, deadline: Deadline) -> Outcome:
        started = time.perf_counter()
        restorer = self.restorer(order.model)
        pixels = await self._make_room(order.images, order.formats, ticket)
        ticket.add_pixels(self._queue.weigh(restorer.name, pixels), deadline.left)

        prepared = await self._each(
            range(len(order.images)), lambda index: self._prepare(order, index, restorer)
        )
        restored = await self._through_queue(prepared, restorer, ticket, deadline)
        ticket.drop_images()
        # from here on nobody holds the rainy pixels
        prepared = [
            replace(item, photograph=item.photograph.with_pixels(answer.image))
            for item, answer in zip(prepared, restored, strict=True)
        ]
        files = await self._each(prepared, partial(self._encode, quality=order.quality))
        self.metrics.observe_restored(
            [file.width * file.height for file in files],
            ["given" if order.prompt else PROMPTS[item.prompt] for item in prepared],
            time.perf_counter() - started,
        )
        prompts = [item.prompt for item in prepared]
        captions = [item.caption for item in prepared if item.caption]
        return Outcome(
            files=files,
            prompt=prompts[0] if len(set(prompts)) == 1 else "; ".join(prompts),
            caption="; ".join(captions if len(set(captions)) > 1 else captions[:1]) or None,
            perceived=order.prompt is None,
            perception=prepared[0].perception if len(prepared) == 1 else None,
            batch_size=max(item.batch_size for item in restored),
            decode_seconds=max(item.seconds for item in prepared),
            queue_seconds=max(item.queue_seconds for item in restored),
            inference_seconds=max(item.inference_seconds for item in restored),
            encode_seconds=max(file.seconds for file in files),
        )

    async def _make_room(
        self, encoded: Sequence[bytes], answers: Sequence[ImageFormat | None] | None, ticket: Ticket
    ) -> int:
        """Check all headers, then hold the places and the working memory of all images, or refuse.

        Args:
            answers: the format of each answer, None: as it came; None where no image is written.

        Returns:
            The pixels of all images.
        """

        def read(data: bytes) -> ImageHeader:
            return read_header(data, self._limits)

        if sum(map(len, encoded)) <= READ_AT_ONCE_BYTES:
            headers = [_blaming(index, len(encoded), read, data) for index, data in enumerate(encoded)]
        else:
            headers = await self._each(encoded, read)
        size = WORKING_BYTES_PER_PIXEL * sum(header.pixels * header.sample_bytes for header in headers)
        for header, answer in zip(headers, answers or (), strict=answers is not None):
            written = answer or heic.answer_format(header.image_format)
            size += written.encoder_bytes * header.pixels
        limit = self.settings.max_inflight_bytes
        if size + sum(map(len, encoded)) > limit:
            raise ProblemError(
                413,
                "request-too-large",
                "the images of this request are together more than the service can hold: send fewer at once",
                limit=Limit(name="inflight_bytes", max=limit, actual=size + sum(map(len, encoded))),
            )
        ticket.add_images(len(encoded))
        ticket.add_bytes(size)
        return sum(header.pixels for header in headers)

    def _decode(self, data: bytes) -> Photograph:
        with current.get().span("decode"):
            return images.decode(data, self._limits)

    def _perceive(self, restorer: Restorer, photograph: Photograph) -> Perceived:
        with current.get().span("perceive"):
            return self._on_device(restorer, lambda: restorer.perceive(photograph.pixels))

    def _on_device(self, restorer: Restorer, look: Callable[[], Value]) -> Value:
        """What looking at an image gives, which takes place on the device as well.

        Raises:
            DeviceFailedError: the device has failed; nothing more is taken.
        """
        try:
            return look()
        except Exception as error:
            if restorer.healthy():
                raise
            reason = f"the device has failed: {error}"
            logger.critical("the device has failed", exc_info=error)
            self._workers[0].give_up(reason)
            raise DeviceFailedError(reason) from error

    def _prepare(self, order: Order, index: int, restorer: Restorer) -> _Prepared:
        trace = current.get()
        number = index + 1
        with trace.span("decode", image=number) as stage:
            photograph = images.decode(_take(order.images, index), self._limits)
            stage.attributes.update(
                format=photograph.image_format.name, width=photograph.width, height=photograph.height
            )
            if not order.keep_metadata:
                photograph = photograph.without_metadata()
            image_format = order.formats[index] or heic.answer_format(photograph.image_format)
            images.check_fits(photograph, image_format)
            prompt, caption, perception = order.prompt, order.caption, None
            if not prompt:
                with stage.span("perceive"):
                    if order.perceive:
                        prompt = order.perceive(photograph.pixels)
                    else:
                        perception = self._on_device(restorer, lambda: restorer.perceive(photograph.pixels))
                        prompt = perception.prompt
            if caption is None and (captioner := self.captioner) is not None:
                with stage.span("caption"):
                    said = self._on_device(restorer, lambda: captioner.caption(photograph.pixels))
                    caption = said or None
        self.metrics.observe_stage("decode", stage.seconds, trace.exemplar)
        return _Prepared(photograph, number, image_format, prompt, caption, perception, seconds=stage.seconds)

    async def _through_queue(
        self, prepared: Sequence[_Prepared], restorer: Restorer, ticket: Ticket, deadline: "Deadline"
    ) -> list[Restored]:
        trace = current.get()
        entries = [
            RestorationEntry(
                key=BatchKey(
                    restorer.name, *restorer.padded_size(item.photograph.height, item.photograph.width)
                ),
                payload=Job(
                    item.photograph.pixels,
                    Prompt(degradation=item.prompt, semantic=item.caption),
                    trace.span("inference", image=item.number),
                ),
                deadline=deadline.at,
            )
            for item in prepared
        ]
        self._queue.put(entries)
        ticket.drop_pixels()
        try:
            restored = await _all([asyncio.wrap_future(entry.reply) for entry in entries])
        finally:
            # where one failed, or the client left: the others are not needed any more, even if they run
            for entry in entries:
                entry.abandon()
                _record_wait(entry, trace)
        for item in restored:
            self.metrics.observe_stage("queue", item.queue_seconds, trace.exemplar)
            self.metrics.observe_stage("inference", item.inference_seconds, trace.exemplar)
        return restored

    def _encode(self, restored: _Prepared, *, quality: int | None) -> RestoredFile:
        trace = current.get()
        photograph = restored.photograph
        with trace.span("encode", image=restored.number, format=restored.image_format.name) as stage:
            data = images.encode(photograph, restored.image_format, quality)
        self.metrics.observe_stage("encode", stage.seconds, trace.exemplar)
        return RestoredFile(data, restored.image_format, photograph.width, photograph.height, stage.seconds)

    async def _each(self, items: Sequence[Item], function: Callable[[Item], Value]) -> list[Value]:
        asked = time.perf_counter()

        def begin(item: Item) -> Value:
            self.metrics.observe_stage("codec_wait", time.perf_counter() - asked)
            return function(item)

        return await _all([self.run(begin, item) for item in items])


def _record_wait(entry: RestorationEntry, trace: Trace) -> None:
    """Record the spans of an entry for which nobody waits any more: in the queue, and on the device if it got
    there."""
    now = time.monotonic()
    error = _failure(entry.reply)
    inference = entry.payload.span
    queue = trace.span("queue", **inference.attributes)
    queue.started, queue.finished = entry.queued_at, entry.taken_at or now
    if not inference.started:
        queue.error = error
        trace.record(queue)
        return
    trace.record(queue)
    inference.finished, inference.error = inference.finished or now, error
    trace.record(inference)
    inference.error = None  # its traceback holds whatever the frames held


def _failure(reply: "Future[Restored]") -> BaseException | None:
    """Why there is no result, if there is none."""
    return CancelledError() if reply.cancelled() or not reply.done() else reply.exception()


def _blaming(index: int, of: int, function: Callable[[Item], Value], item: Item) -> Value:
    """Call a function for one image of several. Raises ImageProblemError around what it raises."""
    try:
        return function(item)
    except Exception as error:
        raise ImageProblemError(index, of, error) from error


def _take(encoded: list[bytes], index: int) -> bytes:
    """The image at `index`, which the list no longer holds."""
    data, encoded[index] = encoded[index], b""
    return data


async def _all(awaitables: Sequence[Awaitable[Value]]) -> list[Value]:
    """Wait for all; at the first failure, or when cancelled, give the others up.

    Raises:
        ImageProblemError: around what the first image to fail raised.
    """
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for index, task in enumerate(tasks):
            if task.done() and (error := task.exception()) is not None:
                if isinstance(error, Exception):
                    raise ImageProblemError(index, len(tasks), error) from error
                raise error
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
