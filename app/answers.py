"""The three answers of POST /derain (an image, JSON, a ZIP archive): which one, and how it is written."""

import base64
import re
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import heic
from app.errors import ProblemError
from app.formats import ANSWER_FORMATS, FORMATS, ImageFormat, sniff
from app.negotiation import Accept
from app.pipeline import Outcome
from app.schemas import DerainResponse, RestoredImage, Scores, Timings

JSON = "application/json"
ZIP = "application/zip"
PIECE_BYTES = 256 * 1024
"""Of an answer, that are handed over at a time."""

ANSWERS = (*(image_format.media_type for image_format in FORMATS.values()), JSON, ZIP)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was chosen: `container` is JSON, ZIP or None for the bare image; a format of None: as it came."""

    container: str | None
    formats: list[ImageFormat | None]


def check_answerable(accept: Accept) -> None:
    """Refuse before the upload what can never be answered.

    Raises:
        ProblemError: 406.
    """
    if not any(accept.admits(media_type) for media_type in ANSWERS):
        raise ProblemError(406, "not-acceptable", f"the answer can be {', '.join(ANSWERS)}")


def choose_answer(accept: Accept, encoded: Sequence[bytes], asked: str | None) -> Answer:
    """Choose by the `Accept` header, the number of images and the format asked for.

    One image goes back bare unless JSON or ZIP are more welcome: in the format asked for, else as it came,
    else in one that the client admits. Several go back in JSON or a ZIP archive.

    Raises:
        ProblemError: 406, the client takes none of what there is.
    """
    formats: list[ImageFormat | None] = [ANSWER_FORMATS[asked] if asked else None] * len(encoded)
    if len(encoded) > 1:
        container = accept.best((JSON, ZIP))
        if container is None:
            raise ProblemError(406, "not-acceptable", f"several images are answered with {JSON} or {ZIP}")
        return Answer(container, formats)
    came = sniff(encoded[0])
    candidates = formats if asked else [came and heic.answer_format(came), *ANSWER_FORMATS.values()]
    image_format = next((item for item in candidates if item and accept.admits(item.media_type)), None)
    best = accept.best((image_format.media_type, JSON, ZIP) if image_format else (JSON, ZIP))
    if best is None:
        raise ProblemError(406, "not-acceptable", f"the answer can be an image, {JSON} or {ZIP}")
    if best in (JSON, ZIP):
        return Answer(best, formats)
    return Answer(None, [image_format])


class PacedResponse(Response):
    """A response that is sent in pieces, each once the client has read most of those before: it is over when
    its client has it, and what it holds can be given back then."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, max(1, len(self.body)), PIECE_BYTES):
            end = start + PIECE_BYTES
            piece = bytes(self.body[start:end])
            await send({"type": "http.response.body", "body": piece, "more_body": end < len(self.body)})


def render(
    answer: Answer,
    outcome: Outcome,
    *,
    model: str,
    filenames: Sequence[str | None],
    request_id: str,
    started: float,
) -> Response:
    """Write the answer with all its headers. A JSON or ZIP container takes a while: not for the event loop.

    Args:
        started: `time.perf_counter()` seconds at the arrival of the request.
    """
    content = b""
    encoded: list[RestoredImage] = []
    if answer.container == JSON:
        encoded = [
            RestoredImage(
                image=base64.b64encode(file.data).decode("ascii"),
                media_type=file.image_format.media_type,
                width=file.width,
                height=file.height,
            )
            for file in outcome.files
        ]
    elif answer.container == ZIP:
        content = _archive(outcome, filenames)
    else:
        content = outcome.files[0].data
    timings = Timings(
        decode=_milliseconds(outcome.decode_seconds),
        queue=_milliseconds(outcome.queue_seconds),
        inference=_milliseconds(outcome.inference_seconds),
        encode=_milliseconds(outcome.encode_seconds),
        total=_milliseconds(time.perf_counter() - started),
    )
    if answer.container == JSON:
        body = DerainResponse(
            images=encoded,
            model=model,
            prompt=outcome.prompt,
            caption=outcome.caption,
            perceived=outcome.perceived,
            batch_size=outcome.batch_size,
            timings_ms=timings,
            request_id=request_id,
        )
        content = body.model_dump_json().encode()
    headers = {
        "Server-Timing": ", ".join(f"{stage};dur={duration}" for stage, duration in timings),
        "X-Derain-Model": model,
        "X-Derain-Prompt": quote(outcome.prompt, safe=""),
        "X-Derain-Batch-Size": str(outcome.batch_size),
        "Vary": "Accept",
    }
    if outcome.perception is not None:
        headers["X-Derain-Perception"] = Scores.model_validate(outcome.perception).model_dump_json()
    return PacedResponse(
        content,
        media_type=answer.container or outcome.files[0].image_format.media_type,
        headers=headers,
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _archive(outcome: Outcome, filenames: Sequence[str | None]) -> bytes:
    """A ZIP archive of the files as they are: `01_<name sent>.png` and so on, in the order sent."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for number, (file, sent) in enumerate(zip(outcome.files, filenames, strict=True), start=1):
            stem = (
                re.sub(r"[^\w.-]+", "_", (sent or "").rsplit("/", 1)[-1].rsplit(".", 1)[0])[:80] or "derained"
            )
            archive.writestr(f"{number:02d}_{stem}.{file.image_format.extension}", file.data)
    return buffer.getvalue()
