"""Were these wrong, uploads would be cut, mixed up, taken without bound, or refused for nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.errors import ProblemError
from app.forms import BodyLimits, Submission, read_submission

LIMITS = BodyLimits(body_bytes=10_000, image_bytes=4_000, images=3, field_bytes=1_000)
BOUNDARY = "frontier"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class Body:
    def __init__(self, data: bytes, chunk: int) -> None:
        self.data = data
        self.chunk = chunk
        self.read = 0
        self.held = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        while self.read < len(self.data):
            piece = self.data[self.read : self.read + self.chunk]
            self.read += len(piece)
            yield piece

    def hold(self, count: int) -> None:
        self.held += count


def read(
    data: bytes | Body,
    *,
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}",
    content_encoding: str | None = None,
    content_length: int | None = None,
    chunk: int = 1000,
) -> Submission:
    body = data if isinstance(data, Body) else Body(data, chunk)
    submission = asyncio.run(
        read_submission(
            content_type=content_type,
            content_encoding=content_encoding,
            content_length=content_length,
            chunks=body.chunks(),
            limits=LIMITS,
            text_fields=frozenset({"prompt", "format"}),
            hold_bytes=body.hold,
        )
    )
    assert body.held == len(body.data)
    return submission


def refusal(data: bytes | Body, **options: object) -> ProblemError:
    with pytest.raises(ProblemError) as refused:
        read(data, **options)  # pyright: ignore[reportArgumentType]
    return refused.value


@pytest.mark.parametrize("chunk", [1, 7, 64, 5000])
def test_a_form_is_the_same_however_it_is_cut(chunk: int) -> None:
    first, second = bytes(range(256)) * 3, b"\r\n--front\r\n--frontie" * 20
    data = form(
        part("image", first, "a.png"),
        part("prompt", "schwerer Regen über Köln".encode()),
        part("unknown", b"whatever"),
        part("image", second, "b.jpg"),
        part("format", b"png"),
    )
    submission = read(data, chunk=chunk)
    assert submission.images == [first, second]
    assert submission.filenames == ["a.png", "b.jpg"]
    assert submission.fields == {"prompt": "schwerer Regen über Köln", "format": "png"}


def test_an_image_part_needs_no_file_name() -> None:
    assert read(form(part("image", b"\xff\xd8\xff"))).images == [b"\xff\xd8\xff"]


@pytest.mark.parametrize(
    "content_type", ["image/jpeg", "IMAGE/PNG", "image/x-anything", "application/octet-stream"]
)
def test_the_body_can_be_the_image_itself(content_type: str) -> None:
    submission = read(b"x" * 2500, content_type=content_type)
    assert submission.images == [b"x" * 2500]
    assert submission.filenames == [None]


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "application/x-www-form-urlencoded", "text/plain"]
)
def test_other_bodies_are_not_taken(content_type: str) -> None:
    assert refusal(b"x", content_type=content_type).status == 415


def test_nor_compressed_ones() -> None:
    assert refusal(b"x", content_type="image/png", content_encoding="gzip").status == 415


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no form at all",
        part("image", b"cut off"),
        form(part("image", b"x"))[:-6],
        form(b"--frontier\r\nContent-Type: image/png\r\n\r\nnameless\r\n"),
        form(b"--frontier\r\nthis is no header\r\n\r\nx\r\n"),
        form(*[part(f"unknown{i}", b"") for i in range(40)]),
        form(part("n" * 5_000, b"x")),
        form(part("image", b"x", "f" * 5_000)),
        form(b"--frontier\r\n" + b"X-More: y\r\n" * 9 + part("image", b"x").partition(b"\r\n")[2]),
        form(b"--frontier\r\nX-Endless: " + b"y" * 9_000),
    ],
)
def test_malformed_forms_are_told(data: bytes) -> None:
    assert refusal(data).status == 400


def test_a_form_needs_a_boundary_of_a_sane_length() -> None:
    assert refusal(b"", content_type="multipart/form-data").status == 400
    assert refusal(b"", content_type=f"multipart/form-data; boundary={'x' * 5000}").status == 400


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (form(part("prompt", b"rain")), "image"),
        (form(part("image", b"x"), part("prompt", b"a"), part("prompt", b"b")), "prompt"),
        (form(part("image", b"x"), part("prompt", b"\xff\xfe")), "prompt"),
    ],
)
def test_bad_fields_are_named(data: bytes, field: str) -> None:
    problem = refusal(data)
    assert problem.status == 422
    assert [error.field for error in problem.errors or []] == [field]


class TestLimits:
    def test_an_announced_size_is_refused_before_a_byte_is_read(self) -> None:
        body = Body(b"x" * 20_000, 1000)
        problem = refusal(body, content_length=20_000)
        assert body.read == 0
        assert problem.status == 413
        assert problem.limit is not None
        assert (problem.limit.name, problem.limit.max, problem.limit.actual) == ("body_bytes", 10_000, 20_000)

    def test_so_is_an_announced_image(self) -> None:
        body = Body(b"x" * 5_000, 1000)
        problem = refusal(body, content_type="image/png", content_length=5_000)
        assert body.read == 0
        assert problem.limit is not None
        assert (problem.limit.name, problem.limit.max) == ("image_bytes", 4_000)

    def test_without_announcement_reading_stops_at_the_limit(self) -> None:
        body = Body(b"x" * 1_000_000, 1000)
        problem = refusal(body, content_type="image/png")
        assert problem.status == 413
        assert body.read == 5_000

    def test_each_image_of_a_form_is_bounded(self) -> None:
        body = Body(form(part("image", b"x" * 4_000), part("image", b"x" * 4_001), part("prompt", b"x")), 100)
        problem = refusal(body)
        assert problem.limit is not None
        assert problem.limit.name == "image_bytes"
        assert body.read < len(body.data)

    def test_so_is_the_form(self) -> None:
        body = Body(form(part("image", b"x"), part("unknown", b"x" * 1_000_000)), 1000)
        problem = refusal(body)
        assert problem.limit is not None
        assert problem.limit.name == "body_bytes"
        assert body.read == 11_000

    def test_so_is_the_header_of_a_part(self) -> None:
        body = Body(b"--frontier\r\nX-Endless: " + b"y" * 1_000_000, 1000)
        assert refusal(body).status == 400
        assert body.read <= 6_000

    def test_and_what_comes_before_the_first_part_or_after_the_last(self) -> None:
        for data in (b"x" * 1_000_000, form(part("image", b"x")) + b"x" * 1_000_000):
            body = Body(data, 1000)
            assert refusal(body).status in (400, 413)
            assert body.read <= 11_000

    def test_and_the_number_of_images(self) -> None:
        assert len(read(form(*[part("image", b"x")] * 3)).images) == 3
        problem = refusal(form(*[part("image", b"x")] * 4))
        assert problem.status == 413
        assert problem.limit is not None
        assert (problem.limit.name, problem.limit.max) == ("images", 3)

    def test_and_the_length_of_a_text(self) -> None:
        long = form(part("image", b"x"), part("prompt", b"x" * 1_001))
        problem = refusal(long)
        assert problem.status == 422
        assert [error.field for error in problem.errors or []] == ["prompt"]
