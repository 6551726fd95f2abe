"""Traces of a real process in a collector. Were these wrong, nobody could see why a request was slow."""

import itertools
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from PIL import Image
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.collector import Collector, collecting
from tests.service.test_logs import OURS, Process, process

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]

SECRET = "nobody-else-must-read-this"
STAGES = ("decode", "queue", "inference", "encode")
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Generator[Collector]:
    with collecting(tmp_path_factory.mktemp("spans")) as collector:
        yield collector


@pytest.fixture(scope="module")
def service(collector: Collector) -> Generator[Process]:
    where = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    resource = {"OTEL_SERVICE_NAME": "rain", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    settings = {"log_format": "json", "batch_pixels": str(2**22)}
    with process(OURS, {**QUICK, **where, **resource}, **settings) as service:
        service.url()
        yield service


@pytest.fixture
def client(service: Process) -> Generator[httpx.Client]:
    with httpx.Client(base_url=service.url(), timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def png(make_image: Make, encode: Encode) -> bytes:
    return encode(make_image(1, 60, 44))


def trace_id(response: httpx.Response) -> str:
    return response.headers["traceparent"].split("-")[1]


def events(service: Process) -> list[dict[str, Any]]:
    """What it has logged: each line is JSON."""
    return [json.loads(line) for line in service.written.decode().splitlines()]


class TestSpans:
    def test_a_request_is_one_trace_of_all_its_stages_with_their_real_times(
        self, client: httpx.Client, collector: Collector, png: bytes
    ) -> None:
        before = time.time()
        response = client.post("/derain", files={"image": png})
        after = time.time()
        spans = collector.trace(trace_id(response))
        assert set(spans) == {"POST /derain", "receive", "perceive", *STAGES}
        whole = spans["POST /derain"]
        assert response.headers["traceparent"] == f"00-{whole.trace_id}-{whole.id}-03"
        assert (whole.kind, whole.parent, whole.failed) == ("SERVER", "", False)
        parents = {name: span.parent for name, span in spans.items() if span is not whole}
        assert parents.pop("perceive") == spans["decode"].id
        assert set(parents.values()) == {whole.id}

        told = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
        for stage in STAGES:
            assert spans[stage].milliseconds == pytest.approx(float(told[stage]), abs=0.01)
        order = [spans[name] for name in ("receive", *STAGES)]
        # the client may have the answer before the service is done with it
        assert before - 0.01 < whole.started < after
        assert whole.started < whole.finished < after + 10
        assert whole.started <= order[0].started
        for earlier, later in itertools.pairwise(order):
            assert earlier.started <= earlier.finished <= later.started
        assert order[-1].finished <= whole.finished
        assert spans["decode"].started < spans["perceive"].started
        assert spans["perceive"].finished < spans["decode"].finished

        assert whole.attributes == {
            "http.request.method": "POST",
            "http.route": "/derain",
            "http.response.status_code": 200,
            "http.request.body.size": int(response.request.headers["content-length"]),
            "http.response.body.size": len(response.content),
            "url.scheme": "http",
            "derain.images": 1,
        }
        assert spans["decode"].attributes == {
            "derain.image": 1,
            "derain.format": "png",
            "derain.width": 60,
            "derain.height": 44,
        }
        assert whole.resource["service.name"] == "rain"
        assert whole.resource["deployment.environment.name"] == "test"

    def test_a_batch_is_linked_to_the_requests_in_it_and_they_to_it(
        self, client: httpx.Client, collector: Collector, make_image: Make, encode: Encode
    ) -> None:
        images = [encode(make_image(seed, 61, 43)) for seed in range(12)]
        fields = {"prompt": "rain"}
        with ThreadPoolExecutor(len(images)) as clients:
            answers = list(
                clients.map(lambda image: client.post("/derain", files={"image": image}, data=fields), images)
            )
        traces = [collector.trace(trace_id(answer)) for answer in answers]
        inferences = {
            (trace["inference"].trace_id, trace["inference"].id): trace["inference"] for trace in traces
        }
        batches = {
            (span.trace_id, span.id): span
            for span in collector.spans()
            if span.name == "batch" and span.links & set(inferences)
        }
        assert max(int(span.attributes["derain.batch_size"]) for span in batches.values()) > 1, (
            "none was shared"
        )
        assert sum(int(span.attributes["derain.batch_size"]) for span in batches.values()) == len(images)
        for own, batch in batches.items():
            size = int(batch.attributes["derain.batch_size"])
            assert len(batch.links) == size
            assert batch.attributes["derain.padded_pixels"] == size * 64 * 48
            assert batch.attributes["derain.model"] == "tvi-derain-s"
            for link in batch.links:
                assert inferences[link].links == {own}
                assert inferences[link].started <= batch.started < batch.finished <= inferences[link].finished
        assert "perceive" not in traces[0], "there was a prompt"

    def test_every_image_of_a_request_has_its_own(
        self, client: httpx.Client, collector: Collector, png: bytes
    ) -> None:
        response = client.post("/derain", files=[("image", png)] * 3)
        collector.trace(trace_id(response))
        for stage in STAGES:
            images = [
                span.attributes["derain.image"]
                for span in collector.spans()
                if (span.trace_id, span.name) == (trace_id(response), stage)
            ]
            assert sorted(map(int, images)) == [1, 2, 3]

    def test_what_a_client_may_look_at_is_traced_too(
        self, client: httpx.Client, collector: Collector, png: bytes
    ) -> None:
        perceived = collector.trace(trace_id(client.post("/perceive", files={"image": png})))
        assert set(perceived) == {"POST /perceive", "receive", "decode", "perceive"}
        named = collector.trace(trace_id(client.get("/v2/models/tvi-derain-s")))
        assert set(named) == {"GET /v2/models/{name}"}


class TestContext:
    THEIRS = "0af7651916cd43dd8448eb211c80319c"

    def test_the_trace_of_the_caller_goes_on(
        self, client: httpx.Client, collector: Collector, png: bytes
    ) -> None:
        headers = {
            "traceparent": f"00-{self.THEIRS}-b7ad6b7169203331-01",
            "tracestate": "vendor=opaque",
        }
        response = client.post("/derain", files={"image": png}, headers=headers)
        assert trace_id(response) == self.THEIRS
        assert response.headers["tracestate"] == "vendor=opaque"
        spans = collector.trace(self.THEIRS)
        assert spans["POST /derain"].parent == "b7ad6b7169203331"
        assert {span.trace_state for span in spans.values()} == {"vendor=opaque"}

    def test_what_the_caller_does_not_sample_is_not_exported(
        self, client: httpx.Client, collector: Collector, png: bytes
    ) -> None:
        unsampled = "4bf92f3577b34da6a3ce929d0e0e4736"
        headers = {"traceparent": f"00-{unsampled}-00f067aa0ba902b7-00"}
        response = client.post("/derain", files={"image": png}, headers=headers)
        assert response.headers["traceparent"].startswith(f"00-{unsampled}-")
        assert response.headers["traceparent"].endswith("-00")
        collector.trace(trace_id(client.get("/models")))  # later ones have come
        assert unsampled not in {span.trace_id for span in collector.spans()}

    def test_nonsense_begins_a_new_one(self, client: httpx.Client) -> None:
        for nonsense in (f"00-{self.THEIRS}", f"00-{'0' * 32}-{'0' * 16}-01", "x" * 5000):
            response = client.get("/models", headers={"traceparent": nonsense, "tracestate": nonsense})
            assert response.status_code == 200
            assert trace_id(response) != self.THEIRS
            assert len(response.headers["traceparent"]) == 55
            assert "tracestate" not in response.headers

    def test_probes_and_scrapes_leave_none(self, client: httpx.Client) -> None:
        for path in ("/livez", "/readyz", "/metrics", "/v2/health/ready"):
            assert "traceparent" not in client.get(path).headers


class TestErrors:
    def test_what_was_wrong_with_an_image_is_told_by_its_stage(
        self, client: httpx.Client, collector: Collector, png: bytes
    ) -> None:
        spans = collector.trace(trace_id(client.post("/derain", files={"image": png[:-60]})))
        assert set(spans) == {"POST /derain", "receive", "decode"}
        assert spans["decode"].failed
        assert spans["decode"].attributes["error.type"] == "UndecodableImageError"
        whole = spans["POST /derain"]
        assert whole.attributes["http.response.status_code"] == 422
        assert whole.attributes["derain.problem"] == "undecodable-image"
        assert not whole.failed, "it is the client's fault"

    def test_a_deadline_that_passes_is_an_error_of_the_service(
        self, client: httpx.Client, collector: Collector, make_image: Make, encode: Encode
    ) -> None:
        image = encode(make_image(1, 4000, 3000))
        response = client.post("/derain", files={"image": image}, headers={"X-Request-Timeout": "0.3"})
        assert response.status_code == 504
        whole = collector.trace(trace_id(response))["POST /derain"]
        assert whole.failed
        assert whole.attributes["error.type"] == "504"
        assert whole.attributes["derain.problem"] == "deadline-passed"

    def test_a_client_that_leaves_is_told_apart(
        self, client: httpx.Client, collector: Collector, make_image: Make, encode: Encode
    ) -> None:
        image = encode(make_image(1, 4000, 3000))  # seconds of work for the fastest device that tests run on
        trace = "5bf92f3577b34da6a3ce929d0e0e4736"
        with pytest.raises(httpx.ReadTimeout):
            client.post(
                "/derain",
                files={"image": image},
                data={"prompt": "rain"},
                headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
                timeout=httpx.Timeout(60, read=0.3),
            )
        spans = collector.trace(trace)
        assert spans["POST /derain"].attributes["http.response.status_code"] == 499
        assert not spans["POST /derain"].failed


def test_nothing_that_a_client_wrote_is_exported(
    client: httpx.Client, collector: Collector, png: bytes
) -> None:
    headers = {"X-Request-ID": SECRET, "User-Agent": SECRET, "Referer": SECRET, "X-API-Key": SECRET}
    fields = {"prompt": SECRET, "caption": SECRET}
    named = {"image": (f"{SECRET}.png", png, "image/png")}
    response = client.post("/derain", files=named, data=fields, params={"prompt": SECRET}, headers=headers)
    assert response.status_code == 200
    collector.trace(trace_id(response))
    for path in (f"/{SECRET}", f"/v2/models/{SECRET}", f"/models?x={SECRET}", f"/derain?format={SECRET}"):
        spans = collector.trace(trace_id(client.get(path, headers=headers)))
        assert len(spans) == 1
    (unknown,) = collector.trace(trace_id(client.get(f"/{SECRET}"))).values()
    assert unknown.name == "GET"
    assert "http.route" not in unknown.attributes
    exported = repr([vars(span) for span in collector.spans()])
    for forbidden in (SECRET, "IHDR", "python-httpx", "127.0.0.1"):
        assert forbidden not in exported


class TestExemplars:
    def test_histograms_name_traces_that_were_counted(self, client: httpx.Client, png: bytes) -> None:
        ids = {trace_id(client.post("/derain", files={"image": png})) for _ in range(3)}
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        response = client.get("/metrics", headers=accept)
        assert response.headers["content-type"].startswith("application/openmetrics-text")
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                if sample.exemplar is not None:
                    stage = sample.labels.get("stage", "")
                    found.setdefault(f"{family.name} {stage}".strip(), {})[
                        sample.exemplar.labels["trace_id"]
                    ] = sample.exemplar.value
        assert set(found) == {
            "derain_request_duration_seconds",
            *(f"derain_stage_duration_seconds {stage}" for stage in STAGES),
        }
        for series, exemplars in found.items():
            assert ids & set(exemplars), f"{series} names none of the last traces"

    def test_the_older_format_has_none_and_is_still_spoken(self, client: httpx.Client) -> None:
        response = client.get("/metrics", headers={"Accept": "text/plain"})
        assert response.headers["content-type"].startswith("text/plain")
        assert "trace_id" not in response.text

    def test_what_is_not_sampled_is_no_example(self, client: httpx.Client, png: bytes) -> None:
        unsampled = "6bf92f3577b34da6a3ce929d0e0e4736"
        headers = {"traceparent": f"00-{unsampled}-00f067aa0ba902b7-00"}
        assert client.post("/derain", files={"image": png}, headers=headers).status_code == 200
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        assert unsampled not in client.get("/metrics", headers=accept).text


class TestLog:
    def test_every_request_is_one_line_that_leads_to_its_trace(
        self, client: httpx.Client, service: Process, png: bytes
    ) -> None:
        evil = "/%0d%0a2026-01-01T00:00:00Z%20INFO%20x%1b[2J%00%e2%80%ae"
        answers = [
            client.post("/derain", files={"image": png}, headers={"X-Request-ID": 'my-"own\\id'}),
            client.post("/derain", files={"image": png[:-60]}),
            client.get(evil),
            client.get("/models", headers={"X-Request-ID": "two words"}),
            client.head("/models"),
            client.get("/livez"),
        ]
        wanted = {answer.headers["x-request-id"]: answer for answer in answers}
        patience = time.monotonic() + 20
        while len(lines := [line for line in events(service) if line.get("request_id") in wanted]) < 6:
            assert time.monotonic() < patience
            time.sleep(0.05)
        assert len(lines) == 6
        assert {line["logger"] for line in lines} == {"app.requests"}
        for line in lines:
            answer = wanted[line["request_id"]]
            assert (line["method"], line["status"]) == (answer.request.method, answer.status_code)
            assert line["path"].isascii()
            assert line["path"].isprintable()
            assert unquote(line["path"]) == unquote(answer.request.url.raw_path)
            if "traceparent" in answer.headers:
                assert line["trace_id"] == trace_id(answer)
        assert lines[0]["images"] == 1
        assert lines[0]["bytes_out"] == len(answers[0].content)
        assert lines[1]["problem"] == "undecodable-image"
        assert lines[0]["request_id"] == 'my-"own\\id'
        assert "words" not in lines[3]["request_id"]


class Silent:
    """Takes connections, as a collector does that hangs, and never says anything."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()


def test_a_collector_that_hangs_costs_nobody_anything(png: bytes) -> None:
    hangs = Silent()
    environment = {**QUICK, "OTEL_EXPORTER_OTLP_ENDPOINT": hangs.endpoint, "OTEL_BSP_MAX_QUEUE_SIZE": "600"}
    with process(OURS, environment) as service, httpx.Client(base_url=service.url(), timeout=60) as client:
        assert client.post("/derain", files={"image": png}).status_code == 200
        time.sleep(0.5)  # an export is under way
        # more than there is room for
        answers = [client.get("/models") for _ in range(700)]
        answers.append(client.post("/derain", files={"image": png}))
        assert {answer.status_code for answer in answers} == {200}
        assert max(answer.elapsed.total_seconds() for answer in answers) < 9, "an export waits for longer"
        written = service.end()
    assert service.process.returncode in (0, -signal.SIGTERM)
    assert "the last spans did not reach the collector within 5 seconds" in written
    left = [line[:19] for line in written.splitlines() if "application shutdown" in line.lower()]
    begun, ended = map(datetime.fromisoformat, left)
    assert ended - begun < timedelta(seconds=15), "that of one export, and of a second"
    assert "Traceback" not in written
    hangs.close()


WITHOUT = """
import sys
sys.modules["opentelemetry.sdk"] = sys.modules["opentelemetry.exporter"] = None
from app.cli import main
main()
"""


def test_without_the_packages_it_serves_and_without_traces(png: bytes) -> None:
    with process(["-c", WITHOUT, *OURS[2:]], QUICK) as service:
        response = httpx.post(f"{service.url()}/derain", files={"image": png}, timeout=60)
        assert response.status_code == 200
        assert "traceparent" not in response.headers
        assert "trace_id" not in service.end()


def test_traces_that_are_asked_for_without_the_packages_are_refused_in_one_line() -> None:
    with process(["-c", WITHOUT, *OURS[2:]], QUICK, tracing="true") as service:
        assert service.process.wait(timeout=300) == 1
        (line,) = service.end().splitlines()
    assert line.startswith("DERAIN_TRACING: traces need the extra otel: pip install 'tvi-derain[otel]'")
