"""Faults of clients. Were these wrong, a client could not tell what to do, or could break the service."""

import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from app.errors import ImageProblemError, problem_of
from app.main import create_app
from app.settings import MIB, Settings

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]

MEMBERS = {"type", "title", "status", "detail", "instance"}


@pytest.fixture(scope="module")
def strict_url(run_service: Callable[[Settings], AbstractContextManager[str]]) -> Generator[str]:
    """A service with limits that a test can reach."""
    settings = Settings(
        max_body_bytes=200_000,
        max_image_bytes=100_000,
        max_image_pixels=50_000,
        max_image_side=5_000,
        max_images=2,
        max_prompt_chars=50,
    )
    with run_service(settings) as url:
        yield url


@pytest.fixture
def strict(strict_url: str) -> Generator[httpx.Client]:
    with httpx.Client(base_url=strict_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def png(make_image: Make, encode: Encode) -> bytes:
    return encode(make_image(1, 40, 30))


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that this response is, once everything about its form is as it must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    details = response.json()
    assert set(details) >= MEMBERS
    assert details["status"] == status
    assert details["type"].startswith("urn:derain:problem:")
    assert details["detail"]
    assert details["instance"] == f"urn:derain:request:{response.headers['x-request-id']}"
    assert "Traceback" not in response.text
    return details


class TestImages:
    @pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a\x01\0\x01\0\0\0\0;", b"%PDF-1.7", b"\0" * 100])
    def test_what_is_not_an_image_that_is_taken(self, strict: httpx.Client, data: bytes) -> None:
        for response in (
            strict.post("/derain", files={"image": data}),
            strict.post("/derain", content=data, headers={"Content-Type": "image/png"}),
            strict.post("/perceive", files={"image": data}),
        ):
            assert problem(response, 415)["type"].endswith(":unsupported-image-format")

    def test_an_image_that_is_broken(self, strict: httpx.Client, png: bytes) -> None:
        details = problem(strict.post("/derain", files={"image": png[: len(png) // 2]}), 422)
        assert details["type"].endswith(":undecodable-image")

    def test_an_image_whose_pixels_are_broken_behind_a_good_header(
        self, strict: httpx.Client, png: bytes
    ) -> None:
        place = png.index(b"IDAT") + 8
        broken = png[:place] + bytes(20) + png[place + 20 :]
        for path in ("/derain", "/perceive"):
            details = problem(strict.post(path, files={"image": broken}), 422)
            assert details["type"].endswith(":undecodable-image")
        assert "image" not in details

    def test_which_of_several_is_broken(self, strict: httpx.Client, png: bytes) -> None:
        response = strict.post("/derain", files=[("image", png), ("image", png[: len(png) // 2])])
        assert problem(response, 422)["image"] == 2

    def test_too_many_pixels(self, strict: httpx.Client, encode: Encode) -> None:
        details = problem(strict.post("/derain", files={"image": encode(Image.new("L", (501, 100)))}), 413)
        assert details["limit"] == {"name": "image_pixels", "max": 50_000, "actual": 50_100}

    def test_a_side_that_is_too_long(self, strict: httpx.Client, encode: Encode) -> None:
        details = problem(strict.post("/derain", files={"image": encode(Image.new("L", (5001, 2)))}), 413)
        assert details["type"].endswith(":image-too-large")
        assert details["limit"] == {"name": "image_side", "max": 5000, "actual": 5001}

    @pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "AVIF"])
    def test_an_animation_is_refused_with_the_reason(
        self, strict: httpx.Client, make_image: Make, encode: Encode, image_format: str
    ) -> None:
        frames = [make_image(seed, 16, 16) for seed in (1, 2)]
        data = encode(frames[0], image_format, save_all=True, append_images=frames[1:])
        for path in ("/derain", "/perceive"):
            details = problem(strict.post(path, files={"image": data}), 415)
            assert details["type"].endswith(":animated-image")
            assert "frames" in details["detail"] or "pages" in details["detail"]

    def test_sixteen_bits_and_costly_encoders_take_more_room(
        self, run_service: Callable[[Settings], AbstractContextManager[str]], encode: Encode
    ) -> None:
        settings = Settings(max_image_pixels=10_000, max_image_bytes=50_000, max_inflight_bytes=140_000)
        deep = encode(Image.new("I;16", (100, 100)))
        with run_service(settings) as url:
            details = problem(httpx.post(f"{url}/derain", files={"image": deep}, timeout=60), 413)
            assert details["limit"]["name"] == "inflight_bytes"
            assert details["limit"]["actual"] >= 160_000
            plain = encode(Image.new("L", (100, 100)))
            assert httpx.post(f"{url}/derain", files={"image": plain}, timeout=60).status_code == 200
            answer = httpx.post(f"{url}/derain", files={"image": plain}, data={"format": "avif"}, timeout=60)
            assert problem(answer, 413)["limit"]["actual"] >= 520_000

    def test_a_decompression_bomb_costs_nothing(self, strict: httpx.Client, encode: Encode) -> None:
        bomb = encode(Image.new("1", (12_000, 12_000)))
        assert len(bomb) < 100_000
        started = time.monotonic()
        assert problem(strict.post("/derain", files={"image": bomb}), 413)["limit"]["max"] == 50_000
        assert time.monotonic() - started < 2

    def test_an_answer_that_cannot_hold_the_image(self, client: httpx.Client, encode: Encode) -> None:
        wide = encode(Image.new("L", (17_000, 2)))
        response = client.post("/derain", files={"image": wide}, data={"format": "webp"})
        assert problem(response, 422)["type"].endswith(":unencodable-image")


class TestBodies:
    def test_too_many_bytes_in_one_image(self, strict: httpx.Client) -> None:
        for response in (
            strict.post("/derain", content=b"x" * 100_001, headers={"Content-Type": "image/png"}),
            strict.post("/derain", files={"image": b"x" * 100_001}),
        ):
            details = problem(response, 413)
            assert details["type"].endswith(":image-too-large")
            assert (details["limit"]["name"], details["limit"]["max"]) == ("image_bytes", 100_000)

    def test_too_many_bytes_in_all(self, strict: httpx.Client) -> None:
        response = strict.post("/derain", files=[("image", b"x" * 90_000)] * 3)
        details = problem(response, 413)
        assert details["limit"]["name"] == "body_bytes"
        assert details["limit"]["actual"] > 270_000

    def test_too_many_images(self, strict: httpx.Client, png: bytes) -> None:
        details = problem(strict.post("/derain", files=[("image", png)] * 3), 413)
        assert details["limit"] == {"name": "images", "max": 2}

    @pytest.mark.parametrize("announced", [2**30, 10**11])  # the second is more than all requests may hold
    def test_what_is_announced_as_too_much_is_refused_before_it_comes(
        self, strict_url: str, announced: int
    ) -> None:
        address = urlsplit(strict_url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(
                b"POST /derain HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\n"
                b"Content-Length: %d\r\n\r\n" % announced
            )
            answer = connection.recv(65536)
            while received := connection.recv(65536):
                answer += received
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()
        assert b'"max":200000' in answer

    def test_an_upload_without_end_is_stopped_and_answered(self, strict: httpx.Client) -> None:
        sent = 0

        def endless() -> Iterator[bytes]:
            nonlocal sent
            while sent < 256 * MIB:
                sent += 65536
                yield b"x" * 65536

        response = strict.post("/derain", content=endless(), headers={"Content-Type": "image/png"})
        problem(response, 413)

    @pytest.mark.parametrize(
        ("content_type", "data", "status"),
        [
            ("text/plain", b"hello", 415),
            ("application/x-www-form-urlencoded", b"image=x", 415),
            ("multipart/form-data", b"x", 400),
            ("multipart/form-data; boundary=b", b"x", 400),
            (
                "multipart/form-data; boundary=b",
                b"--b\r\nContent-Disposition: form-data; name=image\r\n\r\nx",
                400,
            ),
            ("multipart/form-data; boundary=b", b"--b--\r\n", 422),
        ],
    )
    def test_bodies_of_another_kind(
        self, strict: httpx.Client, content_type: str, data: bytes, status: int
    ) -> None:
        problem(strict.post("/derain", content=data, headers={"Content-Type": content_type}), status)

    def test_no_body_at_all(self, strict: httpx.Client) -> None:
        problem(strict.post("/derain"), 415)


class TestFields:
    def test_an_unknown_model(self, strict: httpx.Client, png: bytes) -> None:
        for response in (
            strict.post("/derain", files={"image": png}, data={"model": "no-such-model"}),
            strict.post(
                "/derain", content=png, headers={"Content-Type": "image/png"}, params={"model": "../x"}
            ),
            strict.post("/perceive", files={"image": png}, data={"model": "no-such-model"}),
        ):
            assert "tvi-derain-s" in problem(response, 404)["detail"]

    def test_an_unknown_format(self, strict: httpx.Client, png: bytes) -> None:
        for response in (
            strict.post("/derain", files={"image": png}, data={"format": "gif"}),
            strict.post(
                "/derain", content=png, headers={"Content-Type": "image/png"}, params={"format": "gif"}
            ),
        ):
            (error,) = problem(response, 422)["errors"]
            assert error["field"] == "format"
            assert "webp" in error["message"]

    def test_an_unknown_wish_for_metadata(self, strict: httpx.Client, png: bytes) -> None:
        response = strict.post("/derain", files={"image": png}, data={"metadata": "sell"})
        assert [error["field"] for error in problem(response, 422)["errors"]] == ["metadata"]

    @pytest.mark.parametrize("field", ["prompt", "caption"])
    def test_a_text_that_is_too_long(self, strict: httpx.Client, png: bytes, field: str) -> None:
        assert strict.post("/derain", files={"image": png}, data={field: "x" * 50}).status_code == 200
        response = strict.post("/derain", files={"image": png}, data={field: "x" * 51})
        assert [error["field"] for error in problem(response, 422)["errors"]] == [field]

    @pytest.mark.parametrize("accept", ["text/html", "image/gif", "application/xml;q=0.9"])
    def test_an_answer_that_there_is_not(self, strict: httpx.Client, png: bytes, accept: str) -> None:
        problem(strict.post("/derain", files={"image": png}, headers={"Accept": accept}), 406)

    def test_an_image_as_the_answer_to_several(self, strict: httpx.Client, png: bytes) -> None:
        response = strict.post("/derain", files=[("image", png)] * 2, headers={"Accept": "image/*"})
        problem(response, 406)

    def test_an_image_in_a_format_that_is_not_accepted(self, strict: httpx.Client, png: bytes) -> None:
        response = strict.post(
            "/derain", files={"image": png}, data={"format": "png"}, headers={"Accept": "image/webp"}
        )
        problem(response, 406)


class TestPaths:
    def test_no_such_path(self, strict: httpx.Client) -> None:
        problem(strict.get("/no/such/path"), 404)

    def test_the_wrong_method(self, strict: httpx.Client) -> None:
        response = strict.get("/derain")
        problem(response, 405)
        assert response.headers["allow"] == "OPTIONS, POST"


def test_after_all_of_this_the_service_works_and_holds_nothing(strict: httpx.Client, png: bytes) -> None:
    assert strict.post("/derain", files={"image": png}).status_code == 200
    series = dict(line.rsplit(" ", 1) for line in strict.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(series["derain_inflight_bytes"]) == 0
    assert float(series["derain_queue_images"]) == 0
    assert not any('status="500"' in name and float(count) for name, count in series.items())


def test_a_fault_of_the_service_tells_nothing_but_where_to_look(
    run_app: Callable[[FastAPI], AbstractContextManager[str]],
) -> None:
    app = create_app(Settings())

    @app.get("/broken")
    def broken() -> None:  # pyright: ignore[reportUnusedFunction]
        raise RuntimeError("the inside of the service")

    with run_app(app) as url:
        response = httpx.get(f"{url}/broken", headers={"X-Request-ID": "mine"})
        assert problem(response, 500)["instance"] == "urn:derain:request:mine"
        assert "inside" not in response.text


def test_a_fault_of_the_service_with_one_of_several_images_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer says that the log tells more."""
    fault = KeyError("what nobody expected")
    problem = problem_of(ImageProblemError(1, 3, fault))
    assert (problem.status, problem.image) == (500, 2)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [fault]
