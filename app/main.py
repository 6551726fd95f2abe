"""The FastAPI factory and its lifespan."""

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import FrameType

import torch
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app import (
    access,
    api,
    docs,
    errors,
    images,
    inference_protocol,
    logs,
    openapi,
    operations,
    page,
    stream,
    tracing,
)
from app.access import Access
from app.batching import BatchQueue, Throughput
from app.checkpoints import default_model, device_type
from app.cores import usable_cores
from app.device_memory import device_memory
from app.hosts import TrustedHosts
from app.keys import KeyFile
from app.methods import Methods
from app.metrics import Metrics
from app.middleware import NO_TELEMETRY, LastResort, LingeringClose, OneLineStart, RequestContext
from app.origins import Origins
from app.overload import RefuseEarly
from app.pipeline import Pipeline
from app.protocol import bounded_protocol
from app.security_headers import SecurityHeaders
from app.settings import Settings
from app.timeouts import BodyPace
from app.tracing import Tracing, TracingError
from app.worker import MIN_BATCH_PIXELS, RestorationQueue, calibrate
from model import checkpoint_folders, memory
from model.captioner import Captioner
from model.restorer import Restorer

logger = logging.getLogger(__name__)

MOST_LANES = 4
"""Batches that run side by side on a CPU by default. Of many cores each batch has several: more batches would
keep each image waiting for longer."""

LAST_WORDS_SECONDS = 2.0
"""How long answers may take to be sent after the device has failed."""

EXPOSED_HEADERS = (
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Derain-Batch-Size",
    "X-Derain-Model",
    "X-Derain-Perception",
    "X-Derain-Prompt",
    "X-Request-ID",
    "traceparent",
    "tracestate",
)
"""What pages of the origins in `cors_origins` may read of an answer."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the service; checkpoints are loaded and warmed up in its lifespan, before it takes requests.

    Args:
        settings: None takes them from the environment.

    Raises:
        app.keys.KeyFileError: the file of API keys cannot be read.
        app.tracing.TracingError: traces are asked for and cannot be made.
    """
    settings = settings or Settings()
    logs.set_up(settings.log_level, settings.log_format)
    traces = _tracing(settings)
    metrics = Metrics()
    keys = KeyFile(settings.api_keys_file) if settings.api_keys_file is not None else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        images.set_up_codecs(settings.max_image_pixels)
        memory.keep_fewer_convolutions()
        if settings.keep_freed_memory:
            memory.keep_freed_memory()
        with ThreadPoolExecutor(1, "loader") as loader:
            # in a thread that ends: helpers that OpenMP keeps for it would count with those of the device's
            # thread, and where there are more than cores, all go to sleep at every operator's end
            try:
                pipeline = await asyncio.get_running_loop().run_in_executor(
                    loader, _load, settings, metrics, traces, _leave_at_once if _is_process() else _tell
                )
            except (checkpoint_folders.CheckpointError, RuntimeError) as error:
                app.state.refusal = f"cannot start on {settings.device}: {str(error).splitlines()[0]}"
                raise
        app.state.pipeline = pipeline
        traces.start()
        pipeline.start()
        if keys is None:
            logger.warning("no API keys: whoever reaches this service may use it (DERAIN_API_KEYS_FILE)")
        async with AsyncExitStack() as beside:
            if settings.metrics_port is not None:
                app.state.metrics_address = await beside.enter_async_context(
                    operations.serving(
                        operations.create_operations(app.state, metrics),
                        settings.metrics_host,
                        settings.metrics_port,
                        bounded_protocol(settings),
                    )
                )
            _keep_for_good()
            with _on_termination(pipeline.admission.drain):
                yield
                await asyncio.to_thread(pipeline.stop)
        await asyncio.to_thread(traces.stop)

    app = FastAPI(
        title="TVI-Derain",
        description="Takes rain out of photographs, guided by a prompt or by what it perceives itself.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=NO_TELEMETRY,
    )
    app.state.stream_places = stream.StreamPlaces(settings.max_streams)
    app.include_router(api.router)
    app.include_router(stream.router)
    app.include_router(inference_protocol.router)
    app.include_router(api.probes)
    if settings.metrics_port is None:
        app.include_router(api.scraping)
    app.include_router(docs.router)
    app.include_router(page.router)
    errors.install(app)
    openapi.install(app, max_images=settings.max_images)
    _add_middleware(app, settings, metrics, traces, keys)
    return app


def _tracing(settings: Settings) -> Tracing:
    if not tracing.is_wanted(settings.tracing):
        return Tracing()
    try:
        from app.otel import OpenTelemetry
    except ModuleNotFoundError as error:
        raise TracingError(
            f"traces need the extra otel: pip install 'tvi-derain[otel]' ({error}); or set it to false"
        ) from None
    return OpenTelemetry()


def _add_middleware(
    app: FastAPI, settings: Settings, metrics: Metrics, traces: Tracing, keys: KeyFile | None
) -> None:
    """From the innermost, which sees a request last, to the outermost."""
    app.add_middleware(Methods)
    app.add_middleware(
        BodyPace,
        patience_seconds=settings.body_timeout_seconds,
        bytes_per_second=settings.body_bytes_per_second,
        deadline_seconds=settings.body_deadline_seconds,
    )
    app.add_middleware(RefuseEarly)
    if keys is not None:
        app.add_middleware(Access, keys=keys, metrics=metrics)
        access.describe_keys(app)
    if settings.trusted_hosts:
        app.add_middleware(TrustedHosts, hosts=settings.trusted_hosts)
    app.add_middleware(Origins, allowed=settings.cors_origins)
    app.add_middleware(LingeringClose)
    app.add_middleware(LastResort)
    app.add_middleware(OneLineStart)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=(
                "Authorization",
                "X-API-Key",
                "X-Request-ID",
                "X-Request-Timeout",
                "traceparent",
                "tracestate",
            ),
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestContext, metrics=metrics, tracing=traces)


def _load(
    settings: Settings, metrics: Metrics, traces: Tracing, on_failure: Callable[[str], None]
) -> Pipeline:
    """Load and warm up every checkpoint, and load the captioner if there is one.

    Raises:
        model.checkpoint_folders.CheckpointError: one is missing or broken, or there is none.
    """
    names = settings.models or tuple(checkpoint_folders.available(settings.weights_dir))
    default = default_model(names, device_type(settings.device), settings.default_model)
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    usual_first = sorted(names, key=lambda name: name != default)
    restorers = {
        name: Restorer.from_checkpoint(
            settings.weights_dir / name, device=settings.device, precision=settings.precision
        )
        for name in usual_first
    }
    captioner: Captioner | None = None
    if settings.captioner is not None:
        captioner = Captioner(settings.captioner, settings.captioner_pretrained, settings.device)
        captioner.load()
    calibrations = {name: calibrate(restorer) for name, restorer in restorers.items()}
    lanes = settings.device_lanes or (
        min(torch.get_num_threads(), MOST_LANES) if device_type(settings.device) == "cpu" else 1
    )
    speeds = {  # a small batch keeps one lane from the others
        name: Throughput(one.pixels_per_second, overhead=one.overhead / lanes)
        for name, one in calibrations.items()
    }
    queue: RestorationQueue = BatchQueue(
        batch_pixels=settings.batch_pixels
        or max(calibrations[default].batch_pixels, lanes * MIN_BATCH_PIXELS),
        throughput=speeds[default],
        speeds=speeds,
        lanes=lanes,
    )
    for name, restorer in restorers.items():
        precision = str(restorer.precision).removeprefix("torch.")
        metrics.model_info.labels(name, str(restorer.device), precision, str(restorer.parameters)).set(1)
        logger.info("%s is ready on %s in %s", name, restorer.device, precision)
    logger.info(
        "batches hold at most %d pixels, at %.0f pixels per second",
        queue.batch_pixels,
        queue.throughput.pixels_per_second,
    )
    _watch(restorers, metrics)
    return Pipeline(
        on_failure=on_failure,
        settings=settings,
        restorers=restorers,
        default_model=default,
        queue=queue,
        metrics=metrics,
        captioner=captioner,
        tracing=traces,
    )


def _watch(restorers: Mapping[str, Restorer], metrics: Metrics) -> None:
    def text_cache() -> tuple[int, int]:
        infos = [restorer.text_cache_info() for restorer in restorers.values()]
        return sum(info.hits for info in infos), sum(info.misses for info in infos)

    metrics.watch_text_cache(text_cache)
    (device,) = {restorer.device for restorer in restorers.values()}
    metrics.watch_device_memory(lambda: device_memory(device))


def _keep_for_good() -> None:
    """Let the garbage collector look no more at what is there from the start: modules of the libraries above
    all, some 400,000 objects, at which every full collection would stop all threads for a sixth of a second.

    Does nothing in a process that is there for others too.
    """
    if _is_process():
        gc.collect()
        gc.freeze()


def _is_process() -> bool:
    """Whether the process is there for this service alone: not where its loop runs in another thread."""
    return threading.current_thread() is threading.main_thread()


def _tell(reason: str) -> None:
    logger.critical("%s: nothing will be restored any more", reason)


def _leave_at_once(reason: str) -> None:
    """End the process as soon as what waited has been told, so that another takes its place. A device that
    hangs would not let it end in any other way."""
    logger.critical("%s: the process ends", reason)

    def end() -> None:
        time.sleep(LAST_WORDS_SECONDS)
        logging.shutdown()
        os._exit(os.EX_SOFTWARE)

    threading.Thread(target=end, name="end", daemon=True).start()


@contextmanager
def _on_termination(act: Callable[[], None]) -> Generator[None]:
    """Act on SIGTERM and SIGINT at once, then do what the server would do.

    The server itself tells its application only after the last connection has closed. Does nothing outside
    the main thread, where signals cannot be listened to.
    """
    if not _is_process():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        act()
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
