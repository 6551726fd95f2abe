"""Every Prometheus series of the service, in one place and in a registry of its own.

No label carries anything that a client chooses: endpoints are route templates, models are loaded checkpoints.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
PIXELS = tuple(float(2**exponent) for exponent in range(14, 28, 2))


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
        self.stage_duration = Histogram(
            "derain_stage_duration_seconds",
            "Time of one image in one stage: decode (with perceiving), queue, inference, encode.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter(
            "derain_images_total",
            "Images taken on, by what became of them: restored, rejected, failed, expired, cancelled.",
            ["outcome"],
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "derain_batch_size", "Images in one batch.", buckets=IMAGES, registry=self.registry
        )
        self.batch_pixels = Histogram(
            "derain_batch_pixels", "Padded pixels in one batch.", buckets=PIXELS, registry=self.registry
        )
        self.queue_images = Gauge(
            "derain_queue_images", "Images waiting for the device.", registry=self.registry
        )
        self.backlog_seconds = Gauge(
            "derain_backlog_seconds",
            "Seconds, by measured throughput, until everything waiting and running is done.",
            registry=self.registry,
        )
        self.inflight_bytes = Gauge(
            "derain_inflight_bytes", "Bytes held for requests in flight.", registry=self.registry
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

    def observe_batch(self, images: int, pixels: int) -> None:
        """Count one batch that was restored."""
        self.batch_size.observe(images)
        self.batch_pixels.observe(pixels)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Take the time of one image in one stage."""
        self.stage_duration.labels(stage).observe(seconds)

    def watch_text_cache(self, read: Callable[[], tuple[int, int]]) -> None:
        """Render `derain_text_cache_total` from a function that gives hits and misses so far."""
        self.registry.register(_TextCacheCollector(read))

    def watch_device_memory(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Render `derain_device_memory_bytes` from a function that gives bytes by kind."""
        self.registry.register(_DeviceMemoryCollector(read))


class _TextCacheCollector(Collector):
    def __init__(self, read: Callable[[], tuple[int, int]]) -> None:
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily]:
        hits, misses = self._read()
        family = CounterMetricFamily(
            "derain_text_cache", "Prompts looked up among the encoded ones, by result.", labels=["result"]
        )
        family.add_metric(["hit"], hits)
        family.add_metric(["miss"], misses)
        yield family


class _DeviceMemoryCollector(Collector):
    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "derain_device_memory_bytes", "Memory of the accelerator, by kind.", labels=["kind"]
        )
        for kind, size in self._read().items():
            family.add_metric([kind], size)
        yield family
