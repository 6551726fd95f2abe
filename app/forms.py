"""The request body, in either form, read as it arrives and never beyond its limits."""

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from io import BytesIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import ProblemError, bad_field
from app.schemas import Limit

MAX_OTHER_PARTS = 32
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a body may hold at most: bytes in all, bytes of one image, images, bytes of one text."""

    body_bytes: int
    image_bytes: int
    images: int
    field_bytes: int = 16 * 1024


@dataclass(frozen=True, slots=True)
class Submission:
    """A body that was read: the encoded images, their file names as far as given, and the text fields."""

    images: list[bytes]
    filenames: list[str | None]
    fields: dict[str, str]


@dataclass(slots=True)
class _Part:
    """A part that is growing; `BytesIO` gives its bytes away without copying them."""

    name: str = ""
    filename: str | None = None
    data: BytesIO = field(default_factory=BytesIO)


async def read_submission(
    *,
    content_type: str | None,
    content_encoding: str | None,
    content_length: int | None,
    chunks: AsyncIterable[bytes],
    limits: BodyLimits,
    text_fields: frozenset[str],
    hold_bytes: Callable[[int], None],
) -> Submission:
    """Read multipart/form-data with `image` parts and text fields, or one image as the whole body.

    Parts whose name is neither `image` nor among `text_fields` are skipped.

    Args:
        content_length: what the client announces; None for a chunked body.
        hold_bytes: told of every byte that arrives, before it is kept; may raise to stop the reading.

    Raises:
        ProblemError: 400 malformed, 413 too many bytes or images, 415 neither form, 422 a bad field.
    """
    if content_encoding not in (None, "", "identity"):
        raise ProblemError(415, "unsupported-content-encoding", "the body must come without content encoding")
    if content_length is not None and content_length > limits.body_bytes:
        raise _too_large("body", "body_bytes", limits.body_bytes, content_length)
    kind, parameters = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        boundary = parameters.get(b"boundary")
        if not boundary:
            raise ProblemError(400, "malformed-body", "multipart/form-data without a boundary")
        form = _MultipartForm(boundary, limits, text_fields)
        await _feed(chunks, form.feed, limits.body_bytes, hold_bytes)
        return form.finish()
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        if content_length is not None and content_length > limits.image_bytes:
            raise _too_large("image", "image_bytes", limits.image_bytes, content_length)
        whole = _Part(name="image")

        def keep(chunk: bytes) -> None:
            _keep(whole, chunk, limits.image_bytes)

        await _feed(chunks, keep, limits.body_bytes, hold_bytes)
        return Submission(images=[whole.data.getvalue()], filenames=[None], fields={})
    raise ProblemError(
        415,
        "unsupported-media-type",
        "send multipart/form-data with an image part, or the image itself with its own Content-Type "
        "(image/...)",
    )


async def _feed(
    chunks: AsyncIterable[bytes], take: Callable[[bytes], None], limit: int, hold_bytes: Callable[[int], None]
) -> None:
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > limit:
            raise _too_large("body", "body_bytes", limit, None)
        hold_bytes(len(chunk))
        take(chunk)


class _MultipartForm:
    """Collects the parts of one form, in memory, while its bytes arrive."""

    def __init__(self, boundary: bytes, limits: BodyLimits, text_fields: frozenset[str]) -> None:
        self._limits = limits
        self._text_fields = text_fields
        self._images: list[_Part] = []
        self._fields: dict[str, str] = {}
        self._others = 0
        self._header = bytearray(), bytearray()
        self._disposition = b""
        self._part = _Part()
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_begin": self._begin_header,
                    "on_header_field": self._extend_header_name,
                    "on_header_value": self._extend_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._open,
                    "on_part_data": self._extend,
                    "on_part_end": self._close,
                    "on_end": self._end,
                },
                max_header_count=MAX_PART_HEADERS,
                max_header_size=MAX_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise ProblemError(400, "malformed-body", f"malformed multipart/form-data: {error}") from error

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise ProblemError(400, "malformed-body", f"malformed multipart/form-data: {error}") from error

    def finish(self) -> Submission:
        """What came, once all bytes have been fed."""
        if not self._ended:
            raise ProblemError(
                400, "malformed-body", "multipart/form-data that ends before its last boundary"
            )
        if not self._images:
            raise bad_field("image", "is missing: send one or more files under this name")
        return Submission(
            images=[part.data.getvalue() for part in self._images],
            filenames=[part.filename for part in self._images],
            fields=self._fields,
        )

    def _begin(self) -> None:
        self._part = _Part()
        self._disposition = b""

    def _begin_header(self) -> None:
        self._header = bytearray(), bytearray()

    def _extend_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _extend_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _end_header(self) -> None:
        if bytes(self._header[0]).lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise ProblemError(400, "malformed-body", "a part of multipart/form-data has no name")
        self._part.name = options[b"name"].decode("utf-8", "replace")
        if b"filename" in options:
            self._part.filename = options[b"filename"].decode("utf-8", "replace")
        if self._part.name == "image":
            if len(self._images) == self._limits.images:
                raise _too_large("request", "images", self._limits.images, None, unit="images")
            self._images.append(self._part)
        elif self._part.name in self._text_fields:
            if self._part.name in self._fields:
                raise bad_field(self._part.name, "is given twice")
        else:
            self._others += 1
            if self._others > MAX_OTHER_PARTS:
                raise ProblemError(400, "malformed-body", "too many parts that mean nothing here")

    def _extend(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.name == "image":
            _keep(part, data[start:end], self._limits.image_bytes)
        elif part.name in self._text_fields:
            if part.data.tell() + end - start > self._limits.field_bytes:
                raise bad_field(part.name, f"is longer than {self._limits.field_bytes} bytes")
            part.data.write(data[start:end])

    def _close(self) -> None:
        if self._part.name in self._text_fields:
            try:
                self._fields[self._part.name] = self._part.data.getvalue().decode("utf-8")
            except UnicodeDecodeError as error:
                raise bad_field(self._part.name, "is not UTF-8") from error

    def _end(self) -> None:
        self._ended = True


def _keep(part: _Part, chunk: bytes, limit: int) -> None:
    if part.data.tell() + len(chunk) > limit:
        raise _too_large("image", "image_bytes", limit, None)
    part.data.write(chunk)


def _too_large(
    what: str, name: str, maximum: int, actual: int | None, *, unit: str = "bytes"
) -> ProblemError:
    return ProblemError(
        413,
        f"{what}-too-large",
        f"the {what} is over the limit of {maximum} {unit}",
        limit=Limit(name=name, max=maximum, actual=actual),
    )
