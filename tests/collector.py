"""An OpenTelemetry collector as tests need one: a process that takes spans by OTLP over HTTP and keeps them.

`python -m tests.collector FOLDER` says its port, checks every export with the official messages, answers as
the protocol wants it, and writes what came into the folder.
"""

import gzip
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

ROOT = Path(__file__).parents[1]
PROTOBUF = "application/x-protobuf"


class Span:
    """A span that was exported, with ids in hexadecimal and times in seconds since 1970."""

    def __init__(self, message: Message, resource: dict[str, str | int]) -> None:
        self.resource = resource
        self.name = message.name
        self.kind = Message.SpanKind.Name(message.kind).removeprefix("SPAN_KIND_")
        self.trace_id, self.id, self.parent = (
            value.hex() for value in (message.trace_id, message.span_id, message.parent_span_id)
        )
        self.trace_state = message.trace_state
        self.started, self.finished = message.start_time_unix_nano / 1e9, message.end_time_unix_nano / 1e9
        self.milliseconds = (message.end_time_unix_nano - message.start_time_unix_nano) / 1e6
        self.attributes = _values(message.attributes)
        self.events = {event.name: _values(event.attributes) for event in message.events}
        self.links = {(link.trace_id.hex(), link.span_id.hex()) for link in message.links}
        self.failed = message.status.code == message.status.STATUS_CODE_ERROR


def _values(pairs: "Iterable[KeyValue]") -> dict[str, str | int]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in pairs}


class Collector:
    """The process, seen from a test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.collector", str(folder)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def bytes(self) -> bytes:
        """All that came, as it came."""
        return b"".join(path.read_bytes() for path in sorted(self._folder.glob("*.pb")))

    def spans(self) -> list[Span]:
        """All that came."""
        request = ExportTraceServiceRequest.FromString(self.bytes())  # messages one after another are merged
        return [
            Span(message, _values(of_resource.resource.attributes))
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for message in of_scope.spans
        ]

    def wait(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """All that came, once it is enough."""
        patience = time.monotonic() + 60
        while not enough(spans := self.spans()):
            assert time.monotonic() < patience, sorted(span.name for span in spans)
            time.sleep(0.05)
        return spans

    def trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of a trace by their names, once that of the whole has come, which is the last."""
        spans = self.wait(lambda spans: any(is_whole(span) and span.trace_id == trace_id for span in spans))
        return {span.name: span for span in spans if span.trace_id == trace_id}


def is_whole(span: Span) -> bool:
    """Whether a span is that of a whole request."""
    return span.kind == "SERVER"


@contextmanager
def collecting(folder: Path) -> Generator[Collector]:
    """Collect for as long as the context lasts."""
    collector = Collector(folder)
    try:
        yield collector
    finally:
        collector.process.kill()
        collector.process.wait()


def main(folder: Path) -> None:
    """Collect until killed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            try:
                request = ExportTraceServiceRequest.FromString(body)
            except DecodeError:
                request = ExportTraceServiceRequest()
            fits = self.path == "/v1/traces" and self.headers["Content-Type"] == PROTOBUF
            if not (fits and request.resource_spans):
                self.send_error(400)
                return
            target = folder / f"{time.monotonic_ns():020}.pb"
            target.with_suffix(".part").write_bytes(body)
            target.with_suffix(".part").rename(target)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", PROTOBUF)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
