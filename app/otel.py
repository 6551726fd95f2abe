"""Spans for an OpenTelemetry collector, by OTLP over HTTP.

Imported only where tracing is on: its packages are the extra `otel`. Where spans go and which traces are
sampled is set by the standard variables: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` and so on.

A span is made when it is over, from clock readings that are kept anyway, and handed to the batch processor as
it is. Starting and ending it by the SDK's tracer would take some twenty times as long, and the device's
thread has none of that time to spare.
"""

import logging
import threading
import time
import traceback
import uuid
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.tracing import Span, Trace, Tracing, TracingError

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""How long the last spans may take to be delivered when the service ends."""

SILENCE_SECONDS = 60.0
"""How long the log is silent once it has said that the collector does not take spans."""

CLOCK_SET_NS = 1_000_000
"""By how much the clock must be off for it to have been set, and not the reading to have been disturbed."""

LONGEST_MESSAGE = 200
"""Characters of an exception's message that are recorded at most."""

METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
"""Those of the semantic conventions for HTTP; others are `_OTHER`."""

UNSET, FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class OpenTelemetry(Tracing):
    """Traces for the collector that the standard variables name.

    Raises:
        TracingError: one of them has a value that it cannot have.
    """

    def __init__(self) -> None:
        service = {
            "service.name": "tvi-derain",
            "service.version": version("tvi-derain"),
            "service.instance.id": str(uuid.uuid4()),
        }
        self._resource = Resource.create({**service, **OTELResourceDetector().detect().attributes})
        try:
            provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        except ValueError as error:
            raise TracingError(str(error)) from None
        self._sampler = provider.sampler
        self._ids = provider.id_generator
        self._scope = InstrumentationScope("tvi-derain", version("tvi-derain"))
        self._propagator = TraceContextTextMapPropagator()
        self._processor: BatchSpanProcessor | None = None
        self._epoch_ns = 0
        # what clients send in vain, and every attempt to reach a collector, would each have a line
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_seldom)

    def begin(self, request_id: str, headers: Iterable[tuple[bytes, bytes]]) -> Trace:
        """The trace that the request's `traceparent` names, else a new one."""
        carrier: dict[str, list[str]] = {}
        for name, value in headers:
            if name in (b"traceparent", b"tracestate"):
                carrier.setdefault(name.decode(), []).append(value.decode("latin-1"))
        # several are none: nobody knows which is meant
        context = self._propagator.extract(carrier if len(carrier.get("traceparent", ())) == 1 else {})
        parent = get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else self._ids.generate_trace_id()
        sampling = self._sampler.should_sample(context, trace_id, "request", SpanKind.SERVER)
        random = parent.trace_flags.random_trace_id if parent.is_valid else self._ids.is_trace_id_random()
        flags = sampling.decision.is_sampled() * TraceFlags.SAMPLED | random * TraceFlags.RANDOM_TRACE_ID
        own = SpanContext(
            trace_id, self._ids.generate_span_id(), False, TraceFlags(flags), sampling.trace_state
        )
        return _RequestTrace(request_id, self, own, parent if parent.is_valid else None)

    def batch(self, spans: Sequence[Span], **attributes: str | int) -> Span:
        """A trace of its own, with links to and from the spans that are sampled."""
        linked = [context for span in spans if (context := _context(span)) and context.trace_flags.sampled]
        if not linked:
            return super().batch(spans, **attributes)
        flags = TraceFlags(TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID)
        own = SpanContext(self._ids.generate_trace_id(), self._ids.generate_span_id(), False, flags)
        for span in spans:
            span.links.append(own)
        return Span(_BatchTrace(self, own), "batch", attributes=attributes, links=linked)

    def start(self) -> None:
        """Begin to deliver spans, in a thread of the processor's."""
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def stop(self) -> None:
        """Deliver what is left, for `FLUSH_SECONDS` at most. Blocks."""
        if self._processor is None:
            return
        # the processor itself would wait for half a minute
        last = threading.Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(FLUSH_SECONDS)
        if last.is_alive():
            logger.warning("the last spans did not reach the collector within %g seconds", FLUSH_SECONDS)

    def new_span_id(self) -> int:
        """64 random bits."""
        return self._ids.generate_span_id()

    def epoch_ns(self) -> int:
        """Nanoseconds since 1970 at which `time.monotonic()` was 0; the same for all spans, unless the clock
        has been set."""
        before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        epoch_ns = now - (before + after) // 2
        if abs(epoch_ns - self._epoch_ns) > CLOCK_SET_NS + after - before:
            self._epoch_ns = epoch_ns
        return self._epoch_ns

    def emit(
        self,
        span: Span,
        own: SpanContext,
        parent: SpanContext | None,
        epoch_ns: int,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: dict[str, str | int] | None = None,
        error: str | None = None,
        events: Sequence[Event] = (),
    ) -> None:
        """Queue a span for export; what does not find room is dropped.

        Args:
            epoch_ns: see there.
            attributes: beside those of the span.
            error: the fixed word for what it failed with.
        """
        if self._processor is None:
            return
        told = {f"derain.{name}": value for name, value in span.attributes.items()} | (attributes or {})
        if error is not None:
            told["error.type"] = error
        self._processor.on_end(
            ReadableSpan(
                name=span.name,
                context=own,
                parent=parent,
                resource=self._resource,
                attributes=told,
                events=events,
                links=[Link(context) for context in span.links],
                kind=kind,
                status=UNSET if error is None else FAILED,
                start_time=epoch_ns + round(1e9 * span.started),
                end_time=epoch_ns + round(1e9 * span.finished),
                instrumentation_scope=self._scope,
            )
        )


class _RequestTrace(Trace):
    """The server's span of a request, which is under way, and those below it."""

    def __init__(
        self, request_id: str, tracing: OpenTelemetry, own: SpanContext, parent: SpanContext | None
    ) -> None:
        super().__init__(request_id)
        self._tracing = tracing
        self._own = own
        self._parent = parent
        self._started = time.monotonic()
        self._epoch_ns = tracing.epoch_ns()
        self.trace_id = format_trace_id(own.trace_id)
        self.exemplar = {"trace_id": self.trace_id} if own.trace_flags.sampled else None
        span_id = format_span_id(own.span_id)
        self.headers["traceparent"] = f"00-{self.trace_id}-{span_id}-{own.trace_flags:02x}"
        if own.trace_state:
            self.headers["tracestate"] = own.trace_state.to_header()

    def span(self, name: str, parent: Span | None = None, /, **attributes: str | int) -> Span:
        return Span(self, name, parent, attributes, id=self._tracing.new_span_id())

    def context(self, span: Span) -> SpanContext:
        """What others refer to a span of this trace by."""
        return SpanContext(self._own.trace_id, span.id, False, self._own.trace_flags, self._own.trace_state)

    def record(self, span: Span) -> None:
        if self.exemplar is not None:
            parent = self.context(span.parent) if span.parent else self._own
            error = None if span.error is None else type(span.error).__qualname__
            self._tracing.emit(span, self.context(span), parent, self._epoch_ns, error=error)

    def end(self) -> None:
        if self.exemplar is None:
            return
        method = self.method if self.method in METHODS else "_OTHER"
        attributes: dict[str, str | int] = {
            "url.scheme": self.scheme,
            "http.request.method": method,
            "http.response.status_code": self.status,
            "http.request.body.size": self.received,
            "http.response.body.size": self.sent,
        }
        optional = {"http.route": self.route, "derain.images": self.images, "derain.problem": self.problem}
        attributes |= {name: value for name, value in optional.items() if value is not None}
        error, events = None, ()
        if self.error is not None:
            error, events = type(self.error).__qualname__, (_exception(self.error),)
        elif self.status >= 500:
            error = str(self.status)
        name = " ".join(filter(None, ("HTTP" if method == "_OTHER" else method, self.route)))
        whole = Span(self, name, started=self._started, finished=time.monotonic())
        self._tracing.emit(
            whole,
            self._own,
            self._parent,
            self._epoch_ns,
            kind=SpanKind.SERVER,
            attributes=attributes,
            error=error,
            events=events,
        )


class _BatchTrace(Trace):
    """The one span of a batch."""

    def __init__(self, tracing: OpenTelemetry, own: SpanContext) -> None:
        super().__init__("")
        self._tracing = tracing
        self._own = own

    def record(self, span: Span) -> None:
        error, events = None, ()
        if span.error is not None:
            error, events = type(span.error).__qualname__, (_exception(span.error),)
        self._tracing.emit(span, self._own, None, self._tracing.epoch_ns(), error=error, events=events)


def _context(span: Span) -> SpanContext | None:
    return span.trace.context(span) if isinstance(span.trace, _RequestTrace) else None


def _exception(error: BaseException) -> Event:
    """What and where; its message, which may be long, cut."""
    return Event(
        "exception",
        {
            "exception.type": type(error).__qualname__,
            "exception.message": str(error)[:LONGEST_MESSAGE],
            "exception.stacktrace": "".join(traceback.format_tb(error.__traceback__)),
        },
    )


class _Seldom(logging.Filter):
    """Lets one record pass, and the next only after `SILENCE_SECONDS`."""

    _silent_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        now = time.monotonic()
        if now < self._silent_until:
            return False
        self._silent_until = now + SILENCE_SECONDS
        return True


_seldom = _Seldom()
