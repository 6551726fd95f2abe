"""What the client raises: the problems of the service (RFC 9457), and what kept an answer from coming."""

import json
from dataclasses import dataclass
from typing import Any, cast

import httpx

QUOTED = 200
"""Characters that are shown of an answer which is no problem of the service's: that of a proxy, mostly."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that was hit; `actual` is what came, where that is known."""

    name: str
    max: float
    actual: float | None = None


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field of a request."""

    field: str
    message: str


class DerainError(Exception):
    """The service refused or failed, or could not be reached.

    Attributes:
        detail: what was wrong, and what to do about it.
        status: of HTTP; None where no answer came.
        type: a URI of the kind of problem, `urn:derain:problem:image-too-large` for example.
        title: the same in words.
        limit: the limit that was hit, if one was.
        image: which of several images of the request, counted from 1.
        errors: what is wrong with which fields.
        request_id: under which the service's log knows of it.
        retry_after: seconds after which another try has a chance, where the service said so.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        type: str = "about:blank",  # noqa: A002 - the member's name in RFC 9457
        title: str = "",
        limit: Limit | None = None,
        image: int | None = None,
        errors: tuple[FieldProblem, ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.type = type
        self.title = title
        self.limit = limit
        self.image = image
        self.errors = errors
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        status = "" if self.status is None else f"{self.status} "
        told = f"{status}{self.title}: {self.detail}" if self.title else f"{status}{self.detail}"
        return f"{told} (request {self.request_id})" if self.request_id else told


class DerainConnectionError(DerainError, ConnectionError):
    """The service could not be reached, or the connection broke before the answer was whole."""


class DerainTimeoutError(DerainError, TimeoutError):
    """The time that was given for a call is over."""


def problem_of(response: httpx.Response, body: bytes, retry_after: float | None) -> DerainError:
    """The error that an answer tells."""
    try:
        members = json.loads(body)
    except ValueError:
        members = None
    problem = cast(dict[str, Any], members) if isinstance(members, dict) else {}
    return DerainError(
        str(problem.get("detail") or body[:QUOTED].decode("utf-8", "replace")),
        status=response.status_code,
        type=str(problem.get("type", "about:blank")),
        title=str(problem.get("title", response.reason_phrase)),
        limit=_limit(problem.get("limit")),
        image=problem.get("image"),
        errors=_field_problems(problem.get("errors")),
        request_id=response.headers.get("x-request-id"),
        retry_after=retry_after,
    )


def _limit(member: Any) -> Limit | None:
    """None where it is not as the service tells one: a gateway in between has JSON of its own."""
    try:
        return Limit(member["name"], member["max"], member.get("actual"))
    except (TypeError, KeyError, AttributeError):
        return None


def _field_problems(member: Any) -> tuple[FieldProblem, ...]:
    """The same."""
    try:
        return tuple(FieldProblem(one["field"], one["message"]) for one in member)
    except (TypeError, KeyError):
        return ()


def foreign(response: httpx.Response) -> DerainError:
    """The error of a good answer that is not the service's: that of a login page, for example."""
    media_type = response.headers.get("content-type", "of no type")
    return DerainError(
        f"not an answer of the service ({media_type})",
        status=response.status_code,
        title=response.reason_phrase,
        request_id=response.headers.get("x-request-id"),
    )
