"""What the log tells, and how: lines for people or JSON for machines, one for every request.

A line for people begins at the margin, and what continues it does not; whatever cannot be printed is escaped.
So nothing that a client sends can pass for a line of ours, and no terminal obeys it.
"""

import json
import logging
import logging.config
import traceback
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from app.tracing import Trace, current

Format = Literal["console", "json"]

LONGEST_VALUE = 200
"""Characters of a path, or of another value that a client may have chosen, that are logged at most."""

LONGEST_TEXT = 8000
"""Characters of a message or of a traceback that are logged at most."""

OF_CLIENTS = ("PIL", "python_multipart", "pyvips")
"""Loggers that complain of what a client sent, many times of one file. Its answer says what is wrong, and the
line of its request which problem it was."""

requests = logging.getLogger("app.requests")


def configuration(level: str, log_format: Format) -> dict[str, Any]:
    """A `logging.config` dictionary: everything goes to standard error, uvicorn's lines as well."""
    formatter = JSONLines if log_format == "json" else ConsoleLines
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {
            name: {"level": level.upper(), "handlers": [], "propagate": True}
            for name in ("app", "model", "uvicorn")
        }
        | {name: {"level": "CRITICAL"} for name in OF_CLIENTS},
    }


def set_up(level: str, log_format: Format) -> None:
    """Configure logging unless whoever runs the service has, and silence uvicorn's own lines of requests.

    Those would be second ones, and hold queries, which hold prompts.
    """
    if not logging.getLogger("app").hasHandlers():
        logging.config.dictConfig(configuration(level, log_format))
        logging.captureWarnings(True)
    of_uvicorn = logging.getLogger("uvicorn.access")
    of_uvicorn.handlers, of_uvicorn.propagate = [], False
    logging.getLogger("uvicorn.error").addFilter(_of_the_server)


def _of_the_server(record: logging.LogRecord) -> bool:
    """Not of WebSockets, of which it tells when they open, by their whole addresses; nor of a request that is
    no HTTP, which has its line already."""
    told = record.msg if isinstance(record.msg, str) else ""
    return "WebSocket" not in told and not told.startswith("Invalid HTTP request")


def log_request(trace: Trace) -> None:
    """The one line of a request. Tells neither its query, headers or body, nor an API key."""
    if not requests.isEnabledFor(logging.INFO):
        return
    fields: dict[str, object] = {
        "method": quote(trace.method),
        "path": quote(trace.path[:LONGEST_VALUE], errors="replace"),
        "status": trace.status,
        "duration_ms": round(1000 * trace.seconds, 1),
        "route": trace.route,
        "images": trace.images,
        "bytes_in": trace.received,
        "bytes_out": trace.sent,
        "problem": trace.problem,
        "key": trace.key,
        "client": trace.client,
    }
    told = {
        name: value[:LONGEST_VALUE] if isinstance(value, str) else value
        for name, value in fields.items()
        if value not in (None, "")
    }
    line = f"{told.get('method', '-')} {told.get('path', '-')} {trace.status}"
    requests.info(line, extra={"fields": told, "trace": trace})


class JSONLines(logging.Formatter):
    """One JSON object a line, in ASCII; an exception is an object within it."""

    def format(self, record: logging.LogRecord) -> str:
        """All that is known of an event."""
        event: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
            **_ids(record),
            **_fields(record),
        }
        if record.exc_info and (error := record.exc_info[1]) is not None:
            event["exception"] = {
                "type": f"{type(error).__module__}.{type(error).__qualname__}",
                "message": _cut(str(error)),
                "stack": _cut("".join(traceback.format_exception(error))),
            }
        return json.dumps(event, default=str)


class ConsoleLines(logging.Formatter):
    """`time LEVEL logger: message name=value ...`; more lines of one event are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """What a person wants to know of an event."""
        message, *more = _cut(record.getMessage()).rstrip().split("\n")
        if record.exc_info and (error := record.exc_info[1]) is not None:
            more += _cut("".join(traceback.format_exception(error))).rstrip().split("\n")
        fields = _fields(record)
        if fields.get("route") == fields.get("path"):
            fields.pop("route", None)
        for name in ("method", "path", "status"):  # the message says them
            fields.pop(name, None)
        known = (f" {name}={_value(value)}" for name, value in (fields | _ids(record)).items())
        first = f"{_time(record)} {record.levelname} {record.name}: {message}{''.join(known)}"
        return "\n  | ".join(map(_printable, (first, *more)))


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ids(record: logging.LogRecord) -> dict[str, object]:
    """Of the request that an event belongs to, if it does to one."""
    trace: Trace = getattr(record, "trace", None) or current.get()
    ids = {"request_id": trace.request_id, "trace_id": trace.trace_id}
    return {name: value for name, value in ids.items() if value}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return dict(getattr(record, "fields", {}))


def _value(value: object) -> str:
    """As it is, in quotes where it could pass for several."""
    text = str(value)
    return json.dumps(text) if {" ", '"', "="} & {*text} else text


def _cut(text: str) -> str:
    """The beginning and the end of a text that is too long: a traceback's end says what happened."""
    half = LONGEST_TEXT // 2
    return text if len(text) <= LONGEST_TEXT else f"{text[:half]} ... {text[-half:]}"


def _printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
