"""The photographs that every server gets, as JPEG files in forms."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import httpx
from PIL import Image

from benchmarks.process import ROOT
from benchmarks.serving.load import Post

PHOTOGRAPHS = sorted((ROOT / "tests/data/pairs/input").glob("*.jpg"))
SIZES = [(256, 256), (321, 481), (481, 321), (512, 384), (640, 480)]
"""Width and height; those of the published sets are among them."""


def photograph_file(number: int, size: tuple[int, int], image_format: str = "JPEG") -> bytes:
    """One of tests/data, scaled to cover this size (width, height) and cut to it, as JPEG or PNG."""
    with Image.open(PHOTOGRAPHS[number % len(PHOTOGRAPHS)]) as source:
        scale = max(size[0] / source.width, size[1] / source.height)
        covering = source.convert("RGB").resize(
            (max(size[0], round(scale * source.width)), max(size[1], round(scale * source.height))),
            Image.Resampling.LANCZOS,
        )
    file = BytesIO()
    covering.crop((0, 0, *size)).save(file, image_format, quality=90, compress_level=1)
    return file.getvalue()


def photographs(count: int) -> list[bytes]:
    """Sizes in turn, so that every stretch of the list is a fair mix of them."""
    made = [photograph_file(number, SIZES[number % len(SIZES)]) for number in range(min(count, 30))]
    return [made[number % len(made)] for number in range(count)]


def posts(files: Sequence[bytes], path: str, field: str) -> list[Post]:
    """Forms with one photograph each."""
    requests = [
        httpx.Request("POST", "http://here", files={field: ("photograph.jpg", file, "image/jpeg")})
        for file in files
    ]
    return [Post(path, request.read(), request.headers["Content-Type"]) for request in requests]
