"""Were this wrong, traces would be cut in two, name nobody's batches, or keep the service from starting."""

import asyncio
import json
import logging
import socket
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
import torch
from starlette.types import Receive, Scope, Send

from app.batching import BatchKey, BatchQueue
from app.logs import JSONLines
from app.main import create_app
from app.metrics import Metrics
from app.middleware import LastResort, RequestContext
from app.otel import OpenTelemetry
from app.settings import Settings
from app.tracing import TracingError, is_wanted
from app.worker import DeviceWorker, Job, RestorationEntry, RestorationQueue
from model.prompts import Prompt
from tests.app.test_worker import POISON, FragileNetwork
from tests.collector import Collector, collecting

THEIRS = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{THEIRS}-b7ad6b7169203331-01"
UNUSED_VARIABLE = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
UNUSED = dict([UNUSED_VARIABLE])


def headers(*traceparents: str, tracestate: str | None = None) -> list[tuple[bytes, bytes]]:
    state = [] if tracestate is None else [(b"tracestate", tracestate.encode())]
    return [(b"host", b"x"), *((b"traceparent", value.encode()) for value in traceparents), *state]


class TestContext:
    """W3C Trace Context."""

    def test_a_request_without_a_trace_begins_one(self) -> None:
        first, second = (OpenTelemetry().begin("an-id", headers()) for _ in range(2))
        version, trace_id, span_id, flags = first.headers["traceparent"].split("-")
        assert (version, len(trace_id), len(span_id), int(flags, 16) & 1) == ("00", 32, 16, 1)
        assert first.trace_id == trace_id != second.trace_id
        assert "tracestate" not in first.headers

    def test_a_trace_is_taken_up_with_its_state(self) -> None:
        trace = OpenTelemetry().begin("an-id", headers(PARENT, tracestate="vendor=x, other=y"))
        _, trace_id, span_id, flags = trace.headers["traceparent"].split("-")
        assert (trace_id, flags) == (THEIRS, "01")
        assert span_id != "b7ad6b7169203331", "the answer names our span"
        assert trace.headers["tracestate"] == "vendor=x,other=y"
        assert trace.exemplar == {"trace_id": THEIRS}

    def test_what_the_caller_does_not_sample_is_not_recorded_but_known(self) -> None:
        trace = OpenTelemetry().begin("an-id", headers(PARENT[:-1] + "0"))
        assert trace.headers["traceparent"].endswith("-00")
        assert trace.trace_id == THEIRS, "for logs"
        assert trace.exemplar is None, "there is nothing to look up"

    def test_the_sampler_is_set_by_the_standard_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
        tracing = OpenTelemetry()
        assert tracing.begin("an-id", headers()).exemplar is None
        assert tracing.begin("an-id", headers(PARENT)).exemplar == {"trace_id": THEIRS}

    @pytest.mark.parametrize(
        "given",
        [
            ["garbage"],
            [""],
            [PARENT.upper()],
            [PARENT.replace(THEIRS, "0" * 32)],
            [PARENT.replace("b7ad6b7169203331", "0" * 16)],
            ["ff" + PARENT[2:]],
            [PARENT + "-extra"],
            [PARENT[:-3]],
            [PARENT + "\r\nSet-Cookie: a=b"],
            [PARENT, PARENT.replace("b7", "b8")],
            ["0" * 10_000],
        ],
    )
    def test_what_is_malformed_is_ignored_in_silence(
        self, given: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        trace = OpenTelemetry().begin("an-id", headers(*given))
        assert trace.trace_id != THEIRS
        assert len(trace.headers["traceparent"]) == 55
        assert not caplog.records

    @pytest.mark.parametrize("state", ["no equals sign", "a=b,a=c", "A=b", "a=\x1b[2J", "a=" + "x" * 10_000])
    def test_a_malformed_state_is_dropped_and_the_trace_kept(
        self, state: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        trace = OpenTelemetry().begin("an-id", headers(PARENT, tracestate=state))
        assert trace.trace_id == THEIRS
        assert "tracestate" not in trace.headers
        assert not caplog.records


class TestSwitch:
    @pytest.mark.parametrize(
        ("asked", "variables", "on"),
        [
            (None, {}, False),
            (None, UNUSED, True),
            (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
            (True, {}, True),
            (False, UNUSED, False),
            (None, {**UNUSED, "OTEL_SDK_DISABLED": "true"}, False),
            (None, {**UNUSED, "OTEL_TRACES_EXPORTER": "none"}, False),
            (None, {**UNUSED, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
            (None, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        ],
    )
    def test_it_is_on_where_it_is_asked_for(
        self, asked: bool | None, variables: dict[str, str], on: bool
    ) -> None:
        assert is_wanted(asked, variables) == on

    @pytest.mark.parametrize(
        "variables",
        [
            {**UNUSED, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            {**UNUSED, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            {**UNUSED, "OTEL_TRACES_EXPORTER": "console"},
        ],
    )
    def test_what_is_not_there_is_not_left_out_in_silence(self, variables: dict[str, str]) -> None:
        with pytest.raises(TracingError, match="OTEL_"):
            is_wanted(None, variables)

    def test_a_collector_that_is_named_and_packages_that_are_missing_stop_the_start(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("app.otel", "opentelemetry.sdk", "opentelemetry.sdk.trace"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
        create_app(Settings())
        monkeypatch.setenv(*UNUSED_VARIABLE)
        create_app(Settings(tracing=False))
        with pytest.raises(TracingError, match=r"pip install 'tvi-derain\[otel\]'"):
            create_app(Settings())


def test_a_collector_that_is_not_there_is_mentioned_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setattr("app.otel.FLUSH_SECONDS", 1.0)
    monkeypatch.setattr("app.otel._seldom._silent_until", 0.0)
    tracing = OpenTelemetry()
    tracing.start()
    patience = time.monotonic() + 60
    while not caplog.records:
        assert time.monotonic() < patience
        tracing.begin("an-id", headers()).end()
        time.sleep(0.01)
    time.sleep(1.5)  # it tries again after a second
    started = time.monotonic()
    tracing.stop()
    assert time.monotonic() - started < 8, "less than an export tries"
    first, *others = caplog.records
    assert "Connection refused" in first.getMessage()
    assert [record.name for record in others] == ["app.otel"], "that the last spans are lost"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


KEY = BatchKey("network", 8, 8)


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collecting(tmp_path_factory.mktemp("spans")) as collector:
        yield collector


def test_what_nobody_expected_is_an_error_of_its_trace_and_of_the_log(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    tracing = OpenTelemetry()
    tracing.start()

    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ZeroDivisionError("x" * 5000)

    app = RequestContext(LastResort(broken), Metrics(), tracing)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.get("/models")

    response = asyncio.run(ask())
    assert response.status_code == 500
    (span,) = collector.trace(response.headers["traceparent"].split("-")[1]).values()
    assert span.failed
    assert span.attributes["error.type"] == "ZeroDivisionError"
    assert span.events["exception"]["exception.type"] == "ZeroDivisionError"
    assert "in broken" in str(span.events["exception"]["exception.stacktrace"])
    assert len(str(span.events["exception"]["exception.message"])) < 300
    # an exporter of a test before may still find its collector gone, and say so
    failure, line = (record for record in caplog.records if record.name.startswith("app."))
    for record in (failure, line):
        assert json.loads(JSONLines().format(record))
    assert failure.exc_info
    assert json.loads(JSONLines().format(line))["trace_id"] == span.trace_id
    tracing.stop()


def test_a_batch_that_fails_and_its_halves_are_told_with_the_requests_that_were_in_them(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    tracing = OpenTelemetry()
    tracing.start()
    sampled = [tracing.begin(f"request-{number}", headers()) for number in range(2)]
    traces = [*sampled, tracing.begin("unsampled", headers(PARENT[:-1] + "0"))]
    entries = [
        RestorationEntry(
            key=KEY,
            payload=Job(
                torch.full((3, 8, 8), value, dtype=torch.uint8), Prompt(), trace.span("inference", image=1)
            ),
        )
        for value, trace in zip((1, POISON, 2), traces, strict=True)
    ]
    queue: RestorationQueue = BatchQueue(batch_pixels=3 * KEY.pixels)
    queue.put(entries)
    queue.close()
    worker = DeviceWorker(
        {"network": FragileNetwork()}, queue, on_batch=lambda _images, _pixels: None, tracing=tracing
    )
    worker.start()
    worker.join(timeout=30)
    for entry, trace in zip(entries, traces, strict=True):
        trace.record(entry.payload.span)
    tracing.stop()

    batches = [span for span in collector.spans() if span.name == "batch"]
    told = [(span.attributes["derain.batch_size"], span.failed, len(span.links)) for span in batches]
    assert told == [(3, True, 2), (1, False, 1), (2, True, 1), (1, True, 1)], (
        "that of the unsampled alone is none"
    )
    assert all(not span.parent for span in batches)
    assert [span.attributes["derain.padded_pixels"] for span in batches] == [192, 64, 128, 64]
    assert batches[0].attributes["error.type"] == "FloatingPointError"
    assert batches[0].events["exception"]["exception.message"] == "not finite"
    assert "in restore" in str(batches[0].events["exception"]["exception.stacktrace"])
    inferences = {span.trace_id: span for span in collector.spans() if span.name == "inference"}
    assert set(inferences) == {trace.trace_id for trace in sampled}
    for trace, tried in zip(sampled, ((0, 1), (0, 2, 3)), strict=True):
        span = inferences[trace.trace_id]
        assert span.links == {(batches[index].trace_id, batches[index].id) for index in tried}
        for index in tried:
            assert (span.trace_id, span.id) in batches[index].links
            assert span.started <= batches[index].started <= batches[index].finished <= span.finished
