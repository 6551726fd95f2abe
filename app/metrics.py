"""Every Prometheus series of the service, in one place and in a registry of its own.

One process by design: a process owns one device, so there is nothing to add up inside a machine, and
`prometheus_client` needs no folder shared between workers. More devices are more processes, each scraped for
itself; Prometheus adds them up.

No label carries anything that a client chooses: endpoints are route templates, models are loaded checkpoints,
and the rest come from fixed lists. Those of the lists below begin at zero, so that the first of a kind is
seen as an increase. docs/observability.md says what each series is good for.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from model.prompts import DENSITIES, DIRECTIONS, PERHAPS_RAIN, SURELY_CLEAN, TYPES, describe

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""From 256x256 on a GPU to the default deadline, which 100 megapixels on two cores come near to. Targets of
the alerts are among them."""

STAGE_SECONDS = (0.001, 0.0025, *SECONDS)
"""An idle queue, and codecs of small images, take less than any request."""

IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)

PIXELS = tuple(float(2**exponent) for exponent in (12, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27))
"""From 64x64 to the largest image taken; closest where photographs are."""

SIZES = {"tiny": 2**16, "small": 2**19, "medium": 2**21, "large": 2**23}
"""Classes of size by their most pixels: 256x256, 800x600, Full HD and 4K are the largest usual sizes in them.
What is larger is `huge`."""

ENDPOINTS = ("/derain", "/perceive")
STATUSES = ("200", "500", "503", "504")
STAGES = ("read", "codec_wait", "decode", "queue", "inference", "encode")
OUTCOMES = ("restored", "rejected", "failed", "expired", "cancelled")
REASONS = ("draining", "queue", "bytes", "backlog", "unauthorized", "rate", "concurrency", "streams")
FRAMES = ("restored", "dropped", "refused", "failed")
PROBLEMS = (
    "animated-image",
    "bad-field",
    "body-too-large",
    "body-too-slow",
    "deadline-passed",
    "device-failed",
    "draining",
    "head-too-large",
    "head-too-slow",
    "image-too-large",
    "internal-error",
    "malformed-body",
    "malformed-request",
    "no-such-model",
    "not-acceptable",
    "not-alive",
    "not-found",
    "not-ready",
    "overloaded",
    "request-too-large",
    "restoration-failed",
    "too-many-requests",
    "unauthorized",
    "undecodable-image",
    "unencodable-image",
    "unknown-host",
    "unsupported-content-encoding",
    "unsupported-image-format",
    "unsupported-media-type",
)
"""Kinds that are there from the start: of a series that appears with its first events, none are counted."""

PROMPTS = {
    describe(kind, density, direction): f"{density} rain" if kind in ("rain", "rain and haze") else kind
    for kind, density, direction in product(TYPES, DENSITIES, DIRECTIONS)
} | {describe(SURELY_CLEAN): "clean", describe(PERHAPS_RAIN): "rain"}
"""Classes of prompts that are perceived, by their sentences."""


def size_class(pixels: int) -> str:
    """The class of `SIZES` that so many pixels fall into."""
    return [*SIZES, "huge"][bisect_left(list(SIZES.values()), pixels)]


class Metrics:
    """The series, ready to be fed; `registry` is what `/metrics` renders."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "derain_requests_total",
            "Requests answered, by route and status.",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.request_duration = Histogram(
            "derain_request_duration_seconds",
            "POST /derain from the first byte of the request to the last of the answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.problems = Counter(
            "derain_problems_total",
            "Requests answered with a problem, by the end of its type (urn:derain:problem:...).",
            ["problem"],
            registry=self.registry,
        )
        self.restore_duration = Histogram(
            "derain_restore_duration_seconds",
            "From a request read to its last image encoded, where all went well, by the pixels of its "
            "images: tiny (to 256x256), small (to 2^19, 800x600), medium (to 2^21, Full HD), large (to 2^23, "
            "4K), huge.",
            ["size"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stage_duration = Histogram(
            "derain_stage_duration_seconds",
            "Time of one image in one stage: codec_wait (for a thread that decodes or encodes), decode (with "
            "perceiving), queue, inference, encode; and of one request's body: read.",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        self.images = Counter(
            "derain_images_total",
            "Images taken on, by what became of them: restored, rejected, failed, expired, cancelled.",
            ["outcome"],
            registry=self.registry,
        )
        self.image_pixels = Histogram(
            "derain_image_pixels",
            "Pixels of one restored image, padding left out.",
            buckets=PIXELS,
            registry=self.registry,
        )
        self.prompts = Counter(
            "derain_prompts_total",
            "Restored images by their prompt: given by the client, else what was perceived.",
            ["prompt"],
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "derain_batch_size", "Images in one batch.", buckets=IMAGES, registry=self.registry
        )
        self.batch_pixels = Histogram(
            "derain_batch_pixels", "Padded pixels in one batch.", buckets=PIXELS, registry=self.registry
        )
        self.batch_pixels_limit = Gauge(
            "derain_batch_pixels_limit",
            "Most padded pixels in one batch of several, in pixels of the default model; halved when memory "
            "runs out.",
            registry=self.registry,
        )
        self.throughput = Gauge(
            "derain_throughput_pixels_per_second",
            "Measured speed of the device while it works, in pixels of the default model; the backlog is "
            "reckoned from it.",
            registry=self.registry,
        )
        self.inflight_requests = Gauge(
            "derain_inflight_requests", "Requests taken on and not yet answered.", registry=self.registry
        )
        self.inflight_images = Gauge(
            "derain_inflight_images", "Images taken on and not yet restored.", registry=self.registry
        )
        self.inflight_images_limit = Gauge(
            "derain_inflight_images_limit",
            "Most images taken on and not yet restored; beyond it requests are refused.",
            registry=self.registry,
        )
        self.queue_images = Gauge(
            "derain_queue_images", "Images waiting for the device.", registry=self.registry
        )
        self.backlog_seconds = Gauge(
            "derain_backlog_seconds",
            "Seconds, by measured throughput, until everything waiting and running is done.",
            registry=self.registry,
        )
        self.deadline_seconds = Gauge(
            "derain_deadline_seconds",
            "Longest that a request may take; one whose backlog would come near it is refused.",
            registry=self.registry,
        )
        self.inflight_bytes = Gauge(
            "derain_inflight_bytes", "Bytes held for requests in flight.", registry=self.registry
        )
        self.inflight_bytes_limit = Gauge(
            "derain_inflight_bytes_limit",
            "Most bytes held for requests in flight; beyond it they are refused.",
            registry=self.registry,
        )
        self.rejected = Counter(
            "derain_rejected_total",
            "Requests turned away, for want of capacity: draining, queue, bytes, backlog, streams; or of an "
            "API key: unauthorized, rate, concurrency.",
            ["reason"],
            registry=self.registry,
        )
        self.streams = Gauge("derain_streams", "Open connections of WS /stream.", registry=self.registry)
        self.stream_frames = Counter(
            "derain_stream_frames_total",
            "Frames that came over WS /stream, by what became of them: restored, dropped (for a newer one), "
            "refused (for want of capacity or by a key's rate), failed.",
            ["outcome"],
            registry=self.registry,
        )
        self.model_info = Gauge(
            "derain_model_info",
            "1 for every loaded checkpoint.",
            ["model", "device", "precision", "parameters"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        for series, values in (
            (self.restore_duration, (*SIZES, "huge")),
            (self.stage_duration, STAGES),
            (self.images, OUTCOMES),
            (self.prompts, ("given", "clean", "rain", *(f"{density} rain" for density in DENSITIES))),
            (self.rejected, REASONS),
            (self.problems, PROBLEMS),
            (self.stream_frames, FRAMES),
        ):
            for value in values:
                series.labels(value)
        for endpoint, status in product(ENDPOINTS, STATUSES):
            self.requests.labels(endpoint, status)

    def observe_batch(self, images: int, pixels: int) -> None:
        """Count one batch that was restored."""
        self.batch_size.observe(images)
        self.batch_pixels.observe(pixels)

    def observe_request(self, seconds: float, exemplar: dict[str, str] | None = None) -> None:
        """Take the time of one `POST /derain`; `exemplar`: labels of a trace that shows one such."""
        self.request_duration.observe(seconds, exemplar)

    def observe_stage(self, stage: str, seconds: float, exemplar: dict[str, str] | None = None) -> None:
        """Take the time of one image in one stage."""
        self.stage_duration.labels(stage).observe(seconds, exemplar)

    def observe_restored(self, pixels: Sequence[int], prompts: Sequence[str], seconds: float) -> None:
        """Take the images of one request: pixels and class of prompt of each, and the time that all took."""
        self.restore_duration.labels(size_class(sum(pixels))).observe(seconds)
        for count, prompt in zip(pixels, prompts, strict=True):
            self.image_pixels.observe(count)
            self.prompts.labels(prompt).inc()

    def watch_text_cache(self, read: Callable[[], tuple[int, int]]) -> None:
        """Render `derain_text_cache_total` from a function that gives hits and misses so far."""

        def render() -> Metric:
            family = CounterMetricFamily(
                "derain_text_cache", "Prompts looked up among the encoded ones, by result.", labels=["result"]
            )
            for result, count in zip(("hit", "miss"), read(), strict=True):
                family.add_metric([result], count)
            return family

        self.registry.register(_Rendered(render))

    def watch_device(
        self,
        *,
        busy_seconds: Callable[[], float],
        steps: Callable[[], int],
        out_of_memory: Callable[[], int],
    ) -> None:
        """Render the counters of the device's thread from functions that give them so far."""
        counters = (
            ("derain_device_busy_seconds", "Time in which the device had a batch.", busy_seconds),
            (
                "derain_device_steps",
                "Runs of the network begun: one for a batch, one for each tile of a large image.",
                steps,
            ),
            (
                "derain_device_out_of_memory",
                "Batches, images and tiles that did not fit into memory.",
                out_of_memory,
            ),
        )
        for name, meaning, read in counters:
            self.registry.register(_Rendered(partial(_counter, name=name, meaning=meaning, read=read)))

    def watch_device_memory(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Render `derain_device_memory_bytes` from a function that gives bytes by kind."""

        def render() -> Metric:
            family = GaugeMetricFamily(
                "derain_device_memory_bytes",
                "Memory of the device: allocated and (GPU) reserved by this process, free, total. On a CPU "
                "that of the process and of its container or machine.",
                labels=["kind"],
            )
            for kind, size in read().items():
                family.add_metric([kind], size)
            return family

        self.registry.register(_Rendered(render))


class _Rendered(Collector):
    """A family that is made when it is asked for."""

    def __init__(self, render: Callable[[], Metric]) -> None:
        self._render = render

    def collect(self) -> Iterable[Metric]:
        yield self._render()


def _counter(name: str, meaning: str, read: Callable[[], float]) -> Metric:
    return CounterMetricFamily(name, meaning, value=read())
