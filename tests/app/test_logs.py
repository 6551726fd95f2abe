"""Were this wrong, prompts of clients would lie in the operator's logs, or lines that clients made up."""

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from app.logs import LONGEST_TEXT, ConsoleLines, Format, JSONLines, log_request
from app.tracing import Trace, current

Log = Callable[[Format], "tuple[logging.Logger, io.StringIO]"]

NASTY = (
    "\r\n2026-01-01T00:00:00.000Z INFO app.requests: GET /admin 200"
    "\x1b[2J\x1b]0;owned\x07\u202e\u2028\x85\x7f\0\t"
)


@pytest.fixture
def log() -> Log:
    """Makes a logger that writes as the service does; and where to."""

    def make(log_format: Format) -> tuple[logging.Logger, io.StringIO]:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JSONLines() if log_format == "json" else ConsoleLines())
        logger = logging.Logger("app.test")
        logger.addHandler(handler)
        return logger, stream

    return make


def trace_of(path: str = "/derain", **known: object) -> Trace:
    trace = Trace("an-id")
    trace.method, trace.path, trace.status, trace.seconds = "POST", path, 200, 0.1234
    for name, value in known.items():
        setattr(trace, name, value)
    return trace


def request_line(log: Log, log_format: Format, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> str:
    logger, stream = log(log_format)
    monkeypatch.setattr("app.logs.requests", logger)
    log_request(trace)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.isascii()
    (line,) = text.splitlines()
    assert line.isprintable()
    return line


class TestRequests:
    def test_a_machine_reads_all_of_it(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        trace = trace_of(
            route="/derain", images=2, received=5, sent=7, key="alice", client="::1", trace_id="ab" * 16
        )
        event = json.loads(request_line(log, "json", trace, monkeypatch))
        assert event.pop("time").endswith("Z")
        assert event == {
            "level": "info",
            "logger": "app.test",
            "message": "POST /derain 200",
            "request_id": "an-id",
            "trace_id": "ab" * 16,
            "method": "POST",
            "path": "/derain",
            "route": "/derain",
            "status": 200,
            "duration_ms": 123.4,
            "images": 2,
            "bytes_in": 5,
            "bytes_out": 7,
            "key": "alice",
            "client": "::1",
        }

    def test_a_person_reads_it(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        line = request_line(log, "console", trace_of(status=413, problem="image-too-large"), monkeypatch)
        time, rest = line.split(" ", 1)
        assert time.endswith("Z")
        assert rest == (
            "INFO app.test: POST /derain 413 duration_ms=123.4 bytes_in=0 bytes_out=0 "
            "problem=image-too-large request_id=an-id"
        )

    @pytest.mark.parametrize("log_format", ["console", "json"])
    def test_a_long_path_is_cut(self, log: Log, log_format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
        for path in ("/" + "x" * 50_000, "/" + "é" * 50_000):
            assert len(request_line(log, log_format, trace_of(path), monkeypatch)) < 900

    @pytest.mark.parametrize("log_format", ["console", "json"])
    @pytest.mark.parametrize("field", ["path", "client", "method"])
    def test_whatever_a_client_chooses_stays_within_its_line(
        self, log: Log, log_format: Format, field: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trace = trace_of(**{field: f"/{NASTY}"})
        assert "\x1b" not in request_line(log, log_format, trace, monkeypatch)

    def test_a_value_cannot_pass_for_several(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        line = request_line(log, "console", trace_of(client="1.2.3.4 key=root"), monkeypatch)
        assert 'client="1.2.3.4 key=root"' in line


def unexpected(message: str) -> BaseException:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError(message) from error
    except ValueError as error:
        return error


class TestEvents:
    def test_an_exception_is_one_object_with_all_that_is_needed(self, log: Log) -> None:
        logger, stream = log("json")
        logger.error("it failed", exc_info=unexpected(NASTY))
        (line,) = stream.getvalue().splitlines()
        assert line.isascii()
        event: dict[str, Any] = json.loads(line)
        assert event["exception"]["type"] == "builtins.ValueError"
        assert event["exception"]["message"] == NASTY
        assert "KeyError: 'inner'" in event["exception"]["stack"], "the cause as well"
        assert "in unexpected" in event["exception"]["stack"]

    def test_for_people_it_is_indented_and_cannot_pass_for_lines_of_ours(self, log: Log) -> None:
        logger, stream = log("console")
        logger.error("it %s failed", NASTY, exc_info=unexpected(NASTY))
        lines = stream.getvalue().removesuffix("\n").split("\n")
        assert lines[0].endswith(r"ERROR app.test: it \r")
        assert all(line.startswith("  | ") for line in lines[1:])
        assert all(line.isprintable() for line in lines)
        assert "  | Traceback (most recent call last):" in lines

    @pytest.mark.parametrize("log_format", ["console", "json"])
    def test_what_is_said_on_behalf_of_a_request_names_it(self, log: Log, log_format: Format) -> None:
        logger, stream = log(log_format)
        token = current.set(trace_of(trace_id="ab" * 16))
        logger.warning("out of memory")
        current.reset(token)
        logger.warning("nobody's")
        first, second = stream.getvalue().splitlines()
        assert "an-id" in first
        assert "ab" * 16 in first
        assert "_id" not in second

    @pytest.mark.parametrize("log_format", ["console", "json"])
    def test_what_is_endless_is_cut_in_its_middle(self, log: Log, log_format: Format) -> None:
        logger, stream = log(log_format)
        logger.error("begin %s end", "x" * 100_000)
        text = stream.getvalue()
        assert len(text) < LONGEST_TEXT + 200
        assert "begin" in text
        assert "end" in text
