"""What a request is known by in logs, metrics and traces, and how long its parts took.

Without tracing nothing is kept: a `Span` is a stopwatch, and a `Trace` carries the request's id. With it,
`app.otel` takes both further, to an OpenTelemetry collector.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


class TracingError(Exception):
    """Traces are asked for and cannot be made."""


@dataclass(slots=True, eq=False)
class Span:
    """One part of a request's way, with its clock readings (`time.monotonic()` seconds); records itself when
    its context ends.

    Attributes:
        attributes: numbers and fixed words, nothing that a client wrote.
        error: what ended it early.
        links, id: for whoever records it.
    """

    trace: "Trace"
    name: str
    parent: "Span | None" = None
    attributes: dict[str, str | int] = field(default_factory=dict[str, "str | int"])
    started: float = 0.0
    finished: float = 0.0
    error: BaseException | None = None
    links: list[Any] = field(default_factory=list[Any])
    id: int = 0

    def __enter__(self) -> Self:
        self.started = time.monotonic()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.finished = time.monotonic()
        self.error = error
        self.trace.record(self)
        self.error = None  # its traceback holds whatever the frames held

    def span(self, name: str) -> "Span":
        """A part of this part."""
        return self.trace.span(name, self)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.finished - self.started


class Trace:
    """One request; this one leaves no spans.

    Attributes:
        trace_id: 32 hexadecimal digits; empty where there is no trace.
        exemplar: labels for a histogram, where the trace can be looked up.
        headers: what the answer tells of it.
        status: of the answer; 0: there was none.
        received, sent: bytes of the bodies.
        problem: the fixed word for what was wrong.
        error: what nobody had expected.
    """

    trace_id = ""
    exemplar: dict[str, str] | None = None

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.headers = {"X-Request-ID": request_id} if request_id else {}
        self.scheme = ""
        self.method = ""
        self.path = ""
        self.route: str | None = None
        self.client: str | None = None
        self.key: str | None = None
        self.images: int | None = None
        self.received = 0
        self.sent = 0
        self.status = 0
        self.problem: str | None = None
        self.error: Exception | None = None
        self.seconds = 0.0

    def span(self, name: str, parent: Span | None = None, /, **attributes: str | int) -> Span:
        """A part of the request, or of a part of it."""
        return Span(self, name, parent, attributes)

    def record(self, span: Span) -> None:
        """Take a span that has ended."""

    def end(self) -> None:
        """The request is answered, and all that there is to say of it is said."""


NOBODY = Trace("")
"""What happens on behalf of no request."""

current: ContextVar[Trace] = ContextVar("current", default=NOBODY)
"""The request that the running code works for."""


class Tracing:
    """Where traces begin; this one makes none."""

    def begin(self, request_id: str, headers: Iterable[tuple[bytes, bytes]]) -> Trace:  # noqa: ARG002
        """The trace of a request that has these headers, their names in lower case."""
        return Trace(request_id)

    def batch(self, spans: Sequence[Span], **attributes: str | int) -> Span:  # noqa: ARG002
        """A run of the device for these spans of requests."""
        return NOBODY.span("batch", **attributes)

    def start(self) -> None:
        """Begin to deliver spans."""

    def stop(self) -> None:
        """Deliver what is left, within a few seconds, and end. Blocks."""


def is_wanted(asked: bool | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether spans are to be exported: as asked, else where the standard variables name a collector.

    Raises:
        TracingError: the standard variables want it in a way that is not there.
    """
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    exporter = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    if not (any(map(environment.get, variables)) if asked is None else asked):
        return False
    if exporter != "otlp":
        raise TracingError(f"OTEL_TRACES_EXPORTER is {exporter}: there are otlp and none")
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environment.get(variable):
            if protocol != "http/protobuf":
                raise TracingError(f"{variable} is {protocol}: spans are sent by http/protobuf")
            break
    return True
