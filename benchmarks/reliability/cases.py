"""What a service is sent that it did not expect: broken images, broken forms, broken requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from urllib.parse import quote_from_bytes

import numpy as np

from benchmarks.exchange import post
from benchmarks.reliability.mutations import mutate
from benchmarks.reliability.photographs import photographs
from tests.app.bombs import chunk, ispe, png, tiff, webp, zeros

BOUNDARY = b"between-the-parts"
KINDS = {"image": 10, "form": 3, "request": 5, "fields": 3, "bomb": 0.2}
ENDPOINTS = ("/derain", "/derain", "/derain", "/derain", "/perceive")
NASTY = (
    b"", b"\0", b"\xff\xfe", b"%00", b"%", b"%zz", b"nan", b"inf", b"-1", b"0", b"1e308", b"9" * 400,
    b"null", b"[]", b'{"a": 1}', b'{"a": ' * 200, b"[" * 2000, b"'; --", b"../../etc/passwd",
    b"\xf0\x9f\x8c\xa7", b"\xed\xa0\x80", b"rain " * 150, b"\t", b"\x0b", b"\x7f", b"a;b=c;;=", b'"',
    b'form-data; name="', b"*/*;q=2", b"image/*;q=,", b"text/html", b"gif", b"png", b"application/zip",
    b"application/json", b"drop", b"tvi-derain-s", b"http://127.0.0.1/", b"file:///etc/passwd", b"chunked",
    b"gzip", b"multipart/form-data", b"multipart/form-data; boundary=",
    b"multipart/form-data; boundary=" + b"x" * 300, b"image/", b"0x10", b"+5", b"5, 5", b"1_000",
    b"100000000000000000000000",
)  # fmt: skip
HEADERS = (
    b"Accept", b"Content-Type", b"Content-Length", b"X-Request-Timeout", b"X-Request-ID",
    b"Content-Encoding", b"Host", b"Expect", b"Transfer-Encoding", b"Connection", b"Authorization",
    b"Origin", b"traceparent", b"Range", b"Cookie", b"X-Forwarded-For", b"Content-Disposition",
    b"If-None-Match", b"Accept-Encoding",
)  # fmt: skip
FIELDS = (b"prompt", b"caption", b"model", b"format", b"metadata", b"image", b"none", b"")
PATHS = (
    b"/derain",
    b"/perceive",
    b"/models",
    b"/metrics",
    b"/readyz",
    b"/v2/models/tvi-derain-s",
    b"/docs",
    b"/nowhere",
)
METHODS = (b"POST", b"POST", b"POST", b"GET", b"PUT", b"OPTIONS", b"DELETE", b"HEAD", b"PATCH")


@dataclass(frozen=True, slots=True)
class Case:
    """One request.

    Attributes:
        number: what it is made from again, with the seed.
        kind: of `KINDS`.
        what: what was done to what.
        request: its bytes.
    """

    number: int
    kind: str
    what: str
    request: bytes

    @property
    def framed(self) -> bool:
        """Whether its end is where the service looks for it, so that others can follow it."""
        return self.kind in ("image", "form", "bomb")


class Cases:
    """Makes cases; the same number and seed give the same one."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._photographs = photographs()
        self._files = list(self._photographs.values())
        self._bombs = bombs(self._photographs)

    def good(self) -> bytes:
        """A request that deserves its answer."""
        return post(self._photographs["png"], target=b"/derain?format=png")

    def case(self, number: int) -> Case:
        """The case of this number."""
        chance = Random(f"{self._seed} {number}")
        [kind] = chance.choices(list(KINDS), list(KINDS.values()))
        match kind:
            case "image":
                what, data = self._broken(chance)
                request = post(data, target=self._target(chance))
            case "bomb":
                what = chance.choice(list(self._bombs))
                request = post(self._bombs[what])
            case "form":
                made = [self._broken(chance) for _ in range(chance.choice((1, 1, 2, 3)))]
                what, images = " and ".join(name for name, _ in made), [data for _, data in made]
                fields = {b"prompt": b"light rain"} if chance.random() < 0.5 else {}
                accept = chance.choice((b"*/*", b"application/json", b"application/zip"))
                request = post_form(images, fields, accept=accept)
            case "request":
                name, data = chance.choice(list(self._photographs.items()))
                whole = post_form([data], {b"prompt": b"rain"}) if chance.random() < 0.5 else post(data)
                what, request = _break_request(whole, post(chance.choice(self._files)), chance)
                what = f"{name}: {what}"
            case _:
                what, request = self._nasty(chance)
        return Case(number, kind, what, request)

    def _broken(self, chance: Random) -> tuple[str, bytes]:
        name, data = chance.choice(list(self._photographs.items()))
        what, broken = mutate(data, self._files, chance)
        return f"{name}: {what}", broken

    def _target(self, chance: Random) -> bytes:
        target = chance.choice(ENDPOINTS).encode()
        if target == b"/derain" and chance.random() < 0.3:
            target += b"?format=" + chance.choice((b"png", b"jpeg", b"webp", b"avif"))
        return target

    def _nasty(self, chance: Random) -> tuple[str, bytes]:
        """A whole request with values that nobody thinks of."""
        data = self._photographs["jpeg"]
        query = b"&".join(
            chance.choice(FIELDS) + b"=" + _in_query(chance.choice(NASTY), chance)
            for _ in range(chance.randrange(4))
        )
        target = chance.choice(PATHS[:2] * 4 + PATHS) + (b"?" + query if query else b"")
        extra = {chance.choice(HEADERS): chance.choice(NASTY) for _ in range(chance.randrange(4))}
        method = chance.choice(METHODS)
        if chance.random() < 0.5:
            return f"{target[:80]!r} {extra!r}"[:200], post(data, target=target, method=method, extra=extra)
        fields = {chance.choice(FIELDS): chance.choice(NASTY) for _ in range(chance.randrange(4))}
        request = post_form([data], fields, target=target, method=method, extra=extra)
        return f"form {target[:80]!r} {extra!r} {fields!r}"[:200], request


def post_form(
    images: list[bytes],
    fields: Mapping[bytes, bytes],
    *,
    accept: bytes = b"*/*",
    target: bytes = b"/derain",
    method: bytes = b"POST",
    extra: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """The same as multipart/form-data."""
    parts = [b'name="%b"\r\n\r\n%b' % field for field in fields.items()]
    parts += [
        b'name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + image for image in images
    ]
    body = b"".join(
        b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts
    )
    return post(
        body + b"--" + BOUNDARY + b"--\r\n",
        target=target,
        method=method,
        kind=b"multipart/form-data; boundary=" + BOUNDARY,
        extra={b"Accept": accept} | dict(extra or {}),
    )


def _in_query(value: bytes, chance: Random) -> bytes:
    """Mostly as a client would write it."""
    return quote_from_bytes(value).encode() if chance.random() < 0.7 else value


def _break_request(request: bytes, other: bytes, chance: Random) -> tuple[str, bytes]:
    """Break it anywhere, or its head and its form's line by line."""
    if chance.random() < 0.5:
        return mutate(request, [other], chance)
    lines = request.split(b"\r\n")
    last = max(1, min(len(lines) - 1, 12))
    place = chance.randrange(last)
    match chance.randrange(6):
        case 0:
            what = "line deleted"
            del lines[place]
        case 1:
            what = "line doubled"
            lines.insert(place, lines[place])
        case 2:
            what = "lines swapped"
            lines[place], lines[last - 1] = lines[last - 1], lines[place]
        case 3:
            what = "line replaced"
            lines[place] = chance.choice(HEADERS) + b": " + chance.choice(NASTY)
        case 4:
            what = "line broken"
            what, lines[place] = mutate(lines[place], [other], chance)
        case _:
            what = "line ends otherwise"
            lines[place : place + 2] = [
                chance.choice((b"\n", b"\r", b"\0", b" ")).join(lines[place : place + 2])
            ]
    return what, b"\r\n".join(lines)


def bombs(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Kilobytes that ask for gigabytes."""
    nothing = zeros(100)
    pixels = np.zeros((64, 64, 3), np.uint8)
    made = {
        "png of a large picture": png(60_000, 60_000, chunk(b"IDAT", nothing)),
        "png of 2^31": png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", nothing)),
        "png with a text": png(16, 16, chunk(b"zTXt", b"Comment\0\0" + nothing)),
        "png with a profile": png(16, 16, chunk(b"iCCP", b"profile\0\0" + nothing)),
        "png of too many pixels": png(16, 16, chunk(b"IDAT", nothing)),
        "webp": webp(60_000 % 16384, 16383),
    }
    for name in ("avif", "heic"):
        if name in files:
            made[name] = ispe(files[name], 2**31, 2**31)
    with TemporaryDirectory() as folder:
        made["tiff"] = tiff(Path(folder), pixels, {256: 60_000, 257: 60_000, 278: 60_000})
    return {f"bomb: {name}": data for name, data in made.items()}
