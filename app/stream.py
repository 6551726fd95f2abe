"""WS /stream: frames of a camera in, restored frames out, the newest first."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast

import torch
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from app.batching import AdmissionError, DeadlineError
from app.errors import ImageProblemError, ProblemError, field_problem, problem_of
from app.formats import ANSWER_FORMATS
from app.openapi import problem_responses
from app.pipeline import Deadline, Order, Outcome, Pipeline
from app.schemas import StreamFrame, StreamOptions, StreamProblem, StreamTimings
from app.steady_prompt import SteadyPrompt
from model.perception import Perception

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Frames of one connection between arrival and answer: one is decoded or encoded while the other is
restored. With more, each would be older when it is answered."""

TIMEOUT_SECONDS = 30.0
"""How long a frame may take where the client does not say."""

PAUSE_SECONDS = 1.0
"""No frame is tried for so long at most after one was refused for want of capacity."""

PATIENCE_SECONDS = 15.0
"""A connection whose frames have all been refused for so long is closed."""

OPTIONS_CHARS = 16 * 1024
"""Longest text message."""

PROTOCOL = "derain"
"""The subprotocol, for clients that have to offer one."""

REASON_BYTES = 123
"""Longest reason of a close frame (RFC 6455, 5.5)."""

router = APIRouter()


class CloseError(Exception):
    """The connection is to be closed, with a code of RFC 6455 or of its registry."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason.encode()[:REASON_BYTES].decode(errors="ignore")


class StreamPlaces:
    """How many connections there may be at once. Used from one thread (the event loop)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @contextmanager
    def hold(self) -> Generator[None]:
        """Take a place for as long as the context lasts.

        Raises:
            AdmissionError: there is none.
        """
        if self._held >= self._most:
            raise AdmissionError("streams", f"there are {self._held} streams already", PAUSE_SECONDS)
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1


@router.get("/stream", summary="Frames of a camera: a WebSocket", responses=problem_responses(401, 426, 429))
async def explain() -> None:
    """Open it as a WebSocket (RFC 6455). Send each frame as a binary message, in any format that POST /derain
    takes, and before the first, if you like, a text message of options in JSON. Each restored frame comes as
    a binary message after a text message in JSON that tells of it."""
    raise ProblemError(
        426,
        "upgrade-required",
        "open this address as a WebSocket",
        headers={"Upgrade": "websocket", "Connection": "Upgrade"},
    )


@router.websocket("/stream")
async def stream(websocket: WebSocket) -> None:
    """Let a client in, and close with a code and a reason when it is over."""
    pipeline: Pipeline = websocket.app.state.pipeline
    places: StreamPlaces = websocket.app.state.stream_places
    request_id: str = websocket.state.request_id
    try:
        with places.hold():
            pipeline.admission.check()
            offered: list[str] = websocket.scope["subprotocols"]
            await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
            with pipeline.metrics.streams.track_inprogress():
                await _serve(websocket, pipeline, request_id)
    except AdmissionError as error:
        if error.reason == "streams":  # the others are counted where they are found
            pipeline.metrics.rejected.labels(error.reason).inc()
        await websocket.send_denial_response(problem_of(error).response(request_id))


async def _serve(websocket: WebSocket, pipeline: Pipeline, request_id: str) -> None:
    try:
        await FrameStream(websocket, pipeline, request_id).run()
        return
    except WebSocketDisconnect:
        return
    except CloseError as error:
        closing = error
    except Exception:
        logger.exception("stream %s failed", request_id)
        closing = CloseError(1011, "the service failed")
    with suppress(WebSocketDisconnect, RuntimeError):  # it may have left meanwhile
        await websocket.close(closing.code, closing.reason)


@dataclass(slots=True)
class _Frame:
    """A frame that came: its place in the order of arrival, its bytes, and when it came (`perf_counter`)."""

    sequence: int
    data: bytes
    options: StreamOptions
    arrived: float

    def take(self) -> bytes:
        """The bytes, which the frame no longer holds."""
        data, self.data = self.data, b""
        return data


@dataclass(frozen=True, slots=True)
class _Restored:
    """What became of a frame, and the seconds that it waited and took in all."""

    frame: _Frame
    outcome: Outcome
    model: str
    wait_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class _Refused:
    """A frame that was not restored, and for how many seconds no other is to be tried."""

    frame: _Frame
    problem: ProblemError
    pause: float
    overloaded: bool


class FrameStream:
    """One connection.

    A frame that comes while one waits takes its place, and that one is dropped: what is restored is always
    the newest. Answers are in the order of arrival. What a client does not read holds up its own frames
    alone, and no more than `IN_FLIGHT` of them.
    """

    def __init__(self, websocket: WebSocket, pipeline: Pipeline, request_id: str) -> None:
        self._websocket = websocket
        self._pipeline = pipeline
        self._request_id = request_id
        self._count_again: Callable[[], None] | None = websocket.scope["state"].get("count_again")
        self._options = StreamOptions()
        self._steady: dict[str, SteadyPrompt] = {}
        self._sequence = 0
        self._waiting: _Frame | None = None
        self._dropped = 0
        self._dropped_total = 0
        self._leaving = False
        self._changed = asyncio.Event()
        self._active_at = time.monotonic()
        self._paused_until = 0.0
        self._refused_since: float | None = None

    async def run(self) -> None:
        """Restore frames until the client leaves.

        Raises:
            CloseError: the connection is to be closed.
        """
        receiving = asyncio.create_task(self._receive())
        answering = asyncio.create_task(self._answer())
        try:
            await asyncio.wait((receiving, answering), return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                receiving.result()
                if not self._leaving:
                    return
            await answering
        finally:
            receiving.cancel()
            answering.cancel()
            await asyncio.wait((receiving, answering))

    async def _receive(self) -> None:
        """Take in messages until there will be no more."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                if message.get("code") == 1012:  # the server leaves, and can still send
                    self._leave()
                return
            if (text := message.get("text")) is not None:
                self._options = self._read_options(text)
            else:
                self._take_in(message.get("bytes") or b"")

    def _read_options(self, text: str) -> StreamOptions:
        if len(text) > OPTIONS_CHARS:
            raise CloseError(1009, f"options are over the limit of {OPTIONS_CHARS} characters")
        try:
            options = StreamOptions.model_validate_json(text)
            self._pipeline.check_texts(prompt=options.prompt, caption=options.caption)
            self._pipeline.restorer(options.model)
        except ValidationError as error:
            raise CloseError(1008, field_problem(error).detail) from error
        except ProblemError as error:
            raise CloseError(1008, error.detail) from error
        return options

    def _take_in(self, data: bytes) -> None:
        limit = self._pipeline.settings.max_frame_bytes
        if len(data) > limit:
            raise CloseError(1009, f"a frame is over the limit of {limit} bytes")
        if self._waiting is not None:
            self._dropped += 1
            self._dropped_total += 1
            self._pipeline.metrics.stream_frames.labels("dropped").inc()
        self._waiting = _Frame(self._sequence, data, self._options, time.perf_counter())
        self._sequence += 1
        self._active_at = time.monotonic()
        self._changed.set()

    def _leave(self) -> None:
        """Answer what has been begun, and begin nothing more."""
        self._leaving = True
        self._changed.set()

    async def _answer(self) -> None:
        """Begin frames as there is room for them, and send the answers in order."""
        running: deque[asyncio.Task[_Restored | _Refused]] = deque()
        try:
            while True:
                self._changed.clear()
                if running and running[0].done():
                    await self._tell(running.popleft().result())
                    continue
                if self._leaving and not running:
                    raise CloseError(1012, "the service is shutting down")
                if self._may_begin() and len(running) < IN_FLIGHT:
                    frame, self._waiting = self._waiting, None
                    task = asyncio.create_task(self._restore(cast(_Frame, frame)))
                    task.add_done_callback(lambda _: self._changed.set())
                    running.append(task)
                    continue
                await self._wait_for_change(idle=not running)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    def _may_begin(self) -> bool:
        return self._waiting is not None and not self._leaving and time.monotonic() >= self._paused_until

    async def _wait_for_change(self, *, idle: bool) -> None:
        now = time.monotonic()
        patience: float | None = None
        if self._waiting is not None:
            patience = self._paused_until - now if self._paused_until > now else None
        elif idle:
            patience = self._active_at + self._pipeline.settings.stream_idle_seconds - now
            if patience <= 0:
                seconds = self._pipeline.settings.stream_idle_seconds
                raise CloseError(1008, f"no frame came for {seconds:g} seconds")
        try:
            async with asyncio.timeout(patience):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _restore(self, frame: _Frame) -> _Restored | _Refused:
        begun = time.perf_counter()
        options, settings = frame.options, self._pipeline.settings
        longest = min(options.timeout or TIMEOUT_SECONDS, settings.deadline_seconds)
        deadline = Deadline.of(longest, started=frame.arrived)
        restorer = self._pipeline.restorer(options.model)
        if restorer.name not in self._steady:
            self._steady[restorer.name] = SteadyPrompt(cast(Perception, restorer.perception))
        steady = self._steady[restorer.name]

        def perceive(pixels: torch.Tensor) -> str:
            return steady(pixels, frame.arrived)

        try:
            if self._count_again is not None:
                self._count_again()
            with self._pipeline.admission.admit(
                wait_seconds=deadline.left, expected_bytes=len(frame.data)
            ) as ticket:
                ticket.add_bytes(len(frame.data))
                order = Order(
                    images=[frame.take()],
                    formats=[ANSWER_FORMATS[options.format] if options.format else None],
                    prompt=options.prompt,
                    caption=options.caption or "",  # none is written for every frame
                    model=restorer.name,
                    perceive=perceive,
                    quality=options.quality,
                )
                outcome = await self._pipeline.restore(order, ticket, deadline)
        except (AdmissionError, DeadlineError, ImageProblemError, ProblemError) as error:
            return self._refusal(frame, error)
        now = time.perf_counter()
        return _Restored(frame, outcome, restorer.name, begun - frame.arrived, now - frame.arrived)

    def _refusal(self, frame: _Frame, error: Exception) -> _Refused:
        """What to tell of a frame.

        Raises:
            CloseError: there is nothing to be gained by staying.
        """
        problem = problem_of(error)
        if problem.status == 401:
            raise CloseError(1008, problem.detail)
        if isinstance(error, AdmissionError) and error.reason == "draining":
            raise CloseError(1012, problem.detail)
        overloaded = problem.status == 503
        refused = overloaded or problem.status == 429
        self._pipeline.metrics.stream_frames.labels("refused" if refused else "failed").inc()
        pause = float(problem.headers.get("Retry-After", 0))
        return _Refused(frame, problem, min(pause, PAUSE_SECONDS) if overloaded else pause, overloaded)

    async def _tell(self, answer: _Restored | _Refused) -> None:
        dropped, self._dropped = self._dropped, 0
        if isinstance(answer, _Refused):
            now = time.monotonic()
            self._paused_until = max(self._paused_until, now + answer.pause)
            if not answer.overloaded:
                self._refused_since = None
            elif self._refused_since is None:
                self._refused_since = now
            elif now - self._refused_since > PATIENCE_SECONDS:
                raise CloseError(1013, answer.problem.detail)
            problem = StreamProblem(
                sequence=answer.frame.sequence,
                dropped=dropped,
                dropped_total=self._dropped_total,
                problem=answer.problem.details(self._request_id),
                retry_after_seconds=round(answer.pause) or None,
            )
            await self._send(problem.model_dump_json(exclude_none=True), None)
            return
        self._refused_since = None
        self._pipeline.metrics.stream_frames.labels("restored").inc()
        outcome = answer.outcome
        [file] = outcome.files
        frame = StreamFrame(
            sequence=answer.frame.sequence,
            dropped=dropped,
            dropped_total=self._dropped_total,
            media_type=file.image_format.media_type,
            width=file.width,
            height=file.height,
            model=answer.model,
            prompt=outcome.prompt,
            perceived=outcome.perceived,
            batch_size=outcome.batch_size,
            timings_ms=StreamTimings(
                wait=_milliseconds(answer.wait_seconds),
                decode=_milliseconds(outcome.decode_seconds),
                queue=_milliseconds(outcome.queue_seconds),
                inference=_milliseconds(outcome.inference_seconds),
                encode=_milliseconds(outcome.encode_seconds),
                total=_milliseconds(answer.total_seconds),
            ),
        )
        await self._send(frame.model_dump_json(), file.data)

    async def _send(self, text: str, data: bytes | None) -> None:
        """Send a text message and the binary one that belongs to it.

        Raises:
            WebSocketDisconnect: the client has left, or reads nothing.
        """
        try:
            async with asyncio.timeout(self._pipeline.settings.body_deadline_seconds):
                await self._websocket.send_text(text)
                if data is not None:
                    await self._websocket.send_bytes(data)
        except TimeoutError:
            raise WebSocketDisconnect(1006, "reads nothing") from None
        self._active_at = time.monotonic()


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
