"""RFC 9457 problem details: the one shape of every error that the service answers with."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.batching import AdmissionError, DeadlineError
from app.formats import (
    AnimatedImageError,
    ImageError,
    ImageSideTooLongError,
    ImageTooLargeError,
    UndecodableImageError,
    UnencodableImageError,
    UnsupportedFormatError,
)
from app.schemas import FieldError, Limit, ProblemDetails
from app.tracing import current
from app.worker import DeviceFailedError, RestorationError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

CLIENT_CLOSED_REQUEST = 499
"""Status under which a request is counted whose client left; nobody receives it (after nginx)."""


class ProblemError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status code.
        kind: short fixed name of the kind of problem, the end of its `type`: `urn:derain:problem:<kind>`.
        detail: what was wrong with this request, and what to do about it.
        limit: the limit that was hit.
        image: which of several images, counted from 1.
        errors: the fields that were refused.
        headers: more response headers.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        limit: Limit | None = None,
        image: int | None = None,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.limit = limit
        self.image = image
        self.errors = errors
        self.headers = dict(headers or {})

    def details(self, request_id: str) -> ProblemDetails:
        """The body of the answer, whose `instance` is `urn:derain:request:<request id>`; its kind is left for
        whoever counts and logs."""
        current.get().problem = self.kind
        return ProblemDetails(
            type=f"urn:derain:problem:{self.kind}",
            title=self.kind.replace("-", " ").capitalize(),
            status=self.status,
            detail=self.detail,
            instance=f"urn:derain:request:{quote(request_id, safe='')}",
            limit=self.limit,
            image=self.image,
            errors=self.errors,
        )

    def response(self, request_id: str) -> Response:
        """The answer."""
        return Response(
            self.details(request_id).model_dump_json(exclude_none=True),
            status_code=self.status,
            media_type=MEDIA_TYPE,
            headers=self.headers,
        )


class ImageProblemError(Exception):
    """An error that one of a request's images met, with its place among them.

    Attributes:
        index: place among the images of the request, from 0.
        count: how many images the request has.
        error: what happened.
    """

    def __init__(self, index: int, count: int, error: Exception) -> None:
        super().__init__(str(error))
        self.index = index
        self.count = count
        self.error = error


def bad_field(name: str, message: str) -> ProblemError:
    """The 422 for a field that was refused."""
    return ProblemError(
        422, "bad-field", f"{name}: {message}", errors=[FieldError(field=name, message=message)]
    )


def field_problem(error: ValidationError | RequestValidationError) -> ProblemError:
    """The 422 for fields that pydantic refused."""
    errors = [
        FieldError(field=str(item["loc"][-1]) if item["loc"] else "", message=item["msg"])
        for item in error.errors()
    ]
    detail = "; ".join(f"{item.field}: {item.message}" for item in errors)
    return ProblemError(422, "bad-field", detail, errors=errors)


def internal_problem() -> ProblemError:
    """The 500 for what must not happen; what did is in the log under the request's id."""
    return ProblemError(
        500, "internal-error", "the service failed; the log tells more under this request's id"
    )


def problem_of(error: Exception) -> ProblemError:
    """The answer that an exception of the service's own layers stands for; any other is logged."""
    match error:
        case ProblemError():
            return error
        case ImageProblemError():
            problem = problem_of(error.error)
            if error.count > 1:
                problem.image = error.index + 1
            return problem
        case AdmissionError():
            kind = "draining" if error.reason == "draining" else "overloaded"
            return ProblemError(503, kind, str(error), headers={"Retry-After": str(error.retry_after)})
        case DeviceFailedError():
            return ProblemError(503, "device-failed", str(error), headers={"Retry-After": "30"})
        case DeadlineError():
            return ProblemError(504, "deadline-passed", str(error))
        case UnsupportedFormatError():
            return ProblemError(415, "unsupported-image-format", str(error))
        case AnimatedImageError():
            return ProblemError(415, "animated-image", str(error))
        case ImageSideTooLongError():
            limit = Limit(name="image_side", max=error.limit, actual=error.side)
            return ProblemError(413, "image-too-large", str(error), limit=limit)
        case ImageTooLargeError():
            limit = Limit(name="image_pixels", max=error.limit, actual=error.pixels)
            return ProblemError(413, "image-too-large", str(error), limit=limit)
        case UndecodableImageError():
            return ProblemError(422, "undecodable-image", str(error))
        case UnencodableImageError():
            return ProblemError(422, "unencodable-image", str(error))
        case RestorationError():
            return ProblemError(500, "restoration-failed", str(error))
        case ValidationError() | RequestValidationError():
            return field_problem(error)
        case HTTPException():
            return _http_problem(error)
        case _:
            logger.error("the request failed", exc_info=error)
            current.get().error = error
            return internal_problem()


def _http_problem(error: HTTPException) -> ProblemError:
    """The router's own errors: no such path, wrong method."""
    phrase = HTTPStatus(error.status_code).phrase
    return ProblemError(
        error.status_code,
        phrase.lower().replace(" ", "-"),
        error.detail or phrase,
        headers=error.headers or {},
    )


def install(app: FastAPI) -> None:
    """Answer every exception that an endpoint or the router raises with a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        return problem_of(error).response(request.state.request_id)

    async def drop(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    handled: tuple[Any, ...] = (
        ProblemError,
        ImageProblemError,
        ImageError,
        AdmissionError,
        DeadlineError,
        DeviceFailedError,
        RestorationError,
        ValidationError,
        RequestValidationError,
        HTTPException,
    )
    for kind in handled:
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(ClientDisconnect, drop)
