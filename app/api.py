"""The endpoints."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from prometheus_client.exposition import choose_encoder
from starlette.requests import ClientDisconnect

from app.admission import Ticket
from app.answers import ANSWERS, JSON, check_answerable, choose_answer, render
from app.batching import DeadlineError
from app.errors import ProblemError, bad_field
from app.forms import BodyLimits, Submission, read_submission
from app.negotiation import Accept
from app.openapi import DERAINED, problem_responses, request_body
from app.pipeline import Deadline, Order, Pipeline
from app.schemas import (
    DerainOptions,
    DerainResponse,
    Health,
    ModelDescription,
    ModelList,
    PerceiveOptions,
    PerceiveResponse,
)
from app.tracing import current

Options = TypeVar("Options", DerainOptions, PerceiveOptions)
Value = TypeVar("Value")

router = APIRouter()
probes = APIRouter()
scraping = APIRouter()


async def _pipeline(request: Request) -> Pipeline:  # a plain function would be called in a thread
    return request.app.state.pipeline


PipelineDependency = Annotated[Pipeline, Depends(_pipeline)]


async def _held() -> AsyncGenerator[ExitStack]:
    with ExitStack() as held:
        yield held


Held = Annotated[ExitStack, Depends(_held)]
"""What is given back once the answer is sent, or the request has failed."""

RequestTimeout = Annotated[
    float | None,
    Header(
        alias="X-Request-Timeout",
        gt=0,
        allow_inf_nan=False,
        description="How long the client waits, seconds from the arrival of the request; at most as long as "
        "the service is set to.",
    ),
]


@router.post(
    "/derain",
    response_class=Response,
    summary="Take the rain out of one or more photographs",
    openapi_extra=request_body(DerainOptions, several=True),
    responses={
        200: {
            "model": DerainResponse,
            "description": "The restored image, or JSON or a ZIP archive, by the Accept header",
            "headers": DERAINED,
            "content": {
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in ANSWERS
                if media_type != JSON
            },
        },
        **problem_responses(400, 401, 404, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def derain(
    request: Request,
    pipeline: PipelineDependency,
    options: Annotated[DerainOptions, Query()],
    held: Held,
    patience: RequestTimeout = None,
) -> Response:
    """Send the image itself as the body and the options as query parameters, or all as
    multipart/form-data."""
    accept = Accept(", ".join(request.headers.getlist("accept")))
    check_answerable(accept)
    pipeline.check_texts(prompt=options.prompt, caption=options.caption)
    pipeline.restorer(options.model)
    deadline = _deadline(request, pipeline, patience)
    ticket = held.enter_context(
        pipeline.admission.admit(
            wait_seconds=deadline.left, expected_bytes=_expected_bytes(request, pipeline)
        )
    )
    submission = await _read(request, pipeline, ticket, deadline, frozenset(DerainOptions.model_fields))
    pipeline.metrics.observe_stage("read", time.perf_counter() - request.state.started)
    options = _merge(options, submission)
    pipeline.check_texts(prompt=options.prompt, caption=options.caption)
    restorer = pipeline.restorer(options.model)
    answer = choose_answer(accept, submission.images, options.format)
    order = Order(
        images=submission.images,
        formats=answer.formats,
        prompt=options.prompt,
        caption=options.caption,
        model=restorer.name,
        keep_metadata=options.metadata != "drop",
    )
    outcome = await _unless_disconnected(request, pipeline.restore(order, ticket, deadline))
    write = partial(
        render,
        answer,
        outcome,
        model=restorer.name,
        filenames=submission.filenames,
        request_id=request.state.request_id,
        started=request.state.started,
    )
    # a bare image is written already; a container takes a while
    response = write() if answer.container is None else await pipeline.run(write)
    ticket.keep_bytes(len(response.body))
    return response


@router.post(
    "/perceive",
    summary="Tell what is wrong with a photograph, and the prompt that follows from it",
    openapi_extra=request_body(PerceiveOptions, several=False),
    responses=problem_responses(400, 401, 404, 406, 408, 413, 415, 422, 429, 503, 504),
)
async def perceive(
    request: Request,
    pipeline: PipelineDependency,
    options: Annotated[PerceiveOptions, Query()],
    patience: RequestTimeout = None,
) -> PerceiveResponse:
    """Send the image itself as the body, or as multipart/form-data."""
    if not Accept(", ".join(request.headers.getlist("accept"))).admits(JSON):
        raise ProblemError(406, "not-acceptable", f"the answer is {JSON}")
    deadline = _deadline(request, pipeline, patience)
    with pipeline.admission.admit(
        wait_seconds=deadline.left, expected_bytes=_expected_bytes(request, pipeline)
    ) as ticket:
        submission = await _read(request, pipeline, ticket, deadline, frozenset(PerceiveOptions.model_fields))
        options = _merge(options, submission)
        if len(submission.images) > 1:
            raise bad_field("image", "is given more than once: one image is perceived at a time")
        restorer = pipeline.restorer(options.model)
        perceived = await _unless_disconnected(
            request, pipeline.perceive(submission.images[0], options.model, ticket, deadline)
        )
    return PerceiveResponse(
        prompt=perceived.prompt,
        types=perceived.types,
        densities=perceived.densities,
        directions=perceived.directions,
        model=restorer.name,
        request_id=request.state.request_id,
    )


@router.get("/models", summary="The loaded checkpoints", responses=problem_responses(401, 429))
async def models(pipeline: PipelineDependency) -> ModelList:
    """Every name that `model` can take, the default first."""
    return ModelList(
        models=[
            ModelDescription(
                name=name,
                default=name == pipeline.default_model,
                parameters=restorer.parameters,
                device=str(restorer.device),
                precision=str(restorer.precision).removeprefix("torch."),
                multiple=restorer.multiple,
            )
            for name, restorer in pipeline.restorers.items()
        ]
    )


@probes.get("/livez", summary="Whether the process works at all", responses=problem_responses(503))
async def livez(pipeline: PipelineDependency) -> Health:
    """503 when the device, or the thread that owns it, does not work any more: restart the process."""
    if not pipeline.alive:
        raise ProblemError(503, "not-alive", "the device does not work any more")
    return Health(status="alive")


@probes.get("/readyz", summary="Whether requests are taken on", responses=problem_responses(503))
async def readyz(pipeline: PipelineDependency) -> Health:
    """503 while the service is shutting down, and when the device does not work any more."""
    if not pipeline.ready:
        raise ProblemError(503, "not-ready", "the service is shutting down")
    return Health(status="ready")


@scraping.get("/metrics", summary="Prometheus series", response_class=Response)
async def metrics(request: Request, pipeline: PipelineDependency) -> Response:
    """In the text format that the scraper asks for."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(pipeline.metrics.registry), headers={"Content-Type": content_type})


def _deadline(request: Request, pipeline: Pipeline, asked: float | None) -> Deadline:
    longest = pipeline.settings.deadline_seconds
    return Deadline.of(min(asked or longest, longest), started=request.state.started)


def _expected_bytes(request: Request, pipeline: Pipeline) -> int:
    """What the client announces to send, as far as it is going to be read; 0 where it does not say."""
    return min(_content_length(request) or 0, pipeline.settings.max_body_bytes)


def _content_length(request: Request) -> int | None:
    try:
        return int(request.headers["content-length"])
    except (KeyError, ValueError):
        return None


def _merge(options: Options, submission: Submission) -> Options:
    """Fields of the form over query parameters.

    Raises:
        pydantic.ValidationError: a field has a value that it cannot have.
    """
    return type(options).model_validate({**options.model_dump(), **submission.fields})


async def _read(
    request: Request, pipeline: Pipeline, ticket: Ticket, deadline: Deadline, text_fields: frozenset[str]
) -> Submission:
    settings = pipeline.settings
    trace = current.get()
    with trace.span("receive"):
        try:
            async with asyncio.timeout(deadline.left):
                submission = await read_submission(
                    content_type=request.headers.get("content-type"),
                    content_encoding=request.headers.get("content-encoding"),
                    content_length=_content_length(request),
                    chunks=request.stream(),
                    limits=BodyLimits(settings.max_body_bytes, settings.max_image_bytes, settings.max_images),
                    text_fields=text_fields,
                    hold_bytes=ticket.add_bytes,
                )
        except TimeoutError as error:
            raise DeadlineError(f"the body has not come within {deadline.seconds:g} seconds") from error
    trace.images = len(submission.images)
    return submission


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
    """Do the work, and drop it when the client leaves meanwhile. The body must have been read.

    Raises:
        ClientDisconnect: the client has left.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.create_task(work)
    leaving = asyncio.create_task(leave())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))
