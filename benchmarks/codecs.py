"""How long decoding and encoding take: Pillow at several levels, the service's own way, and alternatives.

python -m benchmarks.codecs --output benchmarks/results/codecs.json

Photographs of tests/data, magnified, with noise as a sensor adds it. Alternatives that are not installed are
left out: pip install imagecodecs simplejpeg opencv-python-headless. Fastest of several
repeats; `relative` is the time in parts of that of the first line of its kind, Pillow as it comes.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import pyvips
import typer
from PIL import Image

from app import images
from app.formats import FORMATS
from app.image_headers import ImageLimits
from benchmarks.large_image import photograph

Samples = npt.NDArray[np.uint8]
Case = tuple[str, Callable[[], object]]
"""What it is called, and the call; bytes that it gives are counted."""


def optional(name: str) -> Any:
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def pillow(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Written by Pillow."""
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def pillow_decode(data: bytes) -> Samples:
    """Read by Pillow, as an array."""
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image)


def encoders(image: Image.Image) -> Iterator[tuple[str, list[Case]]]:
    """The ways of writing each format."""
    samples = np.asarray(image)
    codecs, cv2, simplejpeg = optional("imagecodecs"), optional("cv2"), optional("simplejpeg")

    def ours(image_format: str) -> Case:
        source = pillow(image, "JPEG" if image_format == "jpeg" else "PNG", **FAST.get(image_format, {}))
        decoded = images.decode(source, ImageLimits(image.width * image.height))
        return "service", lambda: images.encode(decoded, FORMATS[image_format])

    def level(number: int) -> Case:
        return f"Pillow, level {number}", lambda: pillow(image, "PNG", compress_level=number)

    png: list[Case] = [level(6), level(3), level(1), ours("png")]
    if codecs:
        png.append(("imagecodecs (libpng), level 1", lambda: codecs.png_encode(samples, level=1)))
        png.append(("imagecodecs (libspng), level 1", lambda: codecs.spng_encode(samples, level=1)))
    if cv2:
        options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
        png.append(("OpenCV, level 1", lambda: cv2.imencode(".png", samples, options)[1].tobytes()))
    for level_of_zlib, row_filter in ((1, "up"), (1, "avg"), (2, "paeth")):
        vips = cast(Any, pyvips).Image
        lines = vips.new_from_memory(samples.tobytes(), image.width, image.height, 3, "uchar")
        how = {"compression": level_of_zlib, "filter": row_filter}
        name = f"libvips, level {level_of_zlib}, {row_filter}"
        png.append((name, partial(lines.write_to_buffer, ".png", **how)))
    yield "png", png

    jpeg: list[Case] = [
        ("Pillow", lambda: pillow(image, "JPEG", quality=95, subsampling="4:4:4")),
        ours("jpeg"),
    ]
    if simplejpeg:
        jpeg.append(("simplejpeg", lambda: simplejpeg.encode_jpeg(samples, 95, "RGB", "444")))
    if cv2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
        jpeg.append(("OpenCV", lambda: cv2.imencode(".jpg", samples, quality)[1].tobytes()))
    yield "jpeg", jpeg

    def lossy(method: int) -> Case:
        return f"Pillow, method {method}", lambda: pillow(image, "WEBP", quality=95, method=method)

    lossless: dict[str, Any] = {"lossless": True}
    yield "webp, lossy", [lossy(4), lossy(2), lossy(0)]
    yield (
        "webp, lossless",
        [
            ("Pillow", lambda: pillow(image, "WEBP", **lossless)),
            ("Pillow, method 1, effort 0", lambda: pillow(image, "WEBP", **lossless, method=1, quality=0)),
            ours("webp"),
        ],
    )
    yield (
        "tiff",
        [
            ("Pillow, deflate", lambda: pillow(image, "TIFF", compression="tiff_deflate")),
            ("Pillow, LZW", lambda: pillow(image, "TIFF", compression="tiff_lzw")),
            ours("tiff"),
        ],
    )


FAST: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 1},
    "tiff": {"compress_level": 1},
    "webp": {"compress_level": 1},
    "jpeg": {"quality": 95, "subsampling": "4:4:4"},
}
"""How the input of our own encoding is made: quickly."""


def decoders(image: Image.Image) -> Iterator[tuple[str, list[Case]]]:
    """The ways of reading each format."""
    files = {
        "png": pillow(image, "PNG", compress_level=1),
        "jpeg": pillow(image, "JPEG", quality=95, subsampling="4:4:4"),
        "webp": pillow(image, "WEBP", quality=95, method=0),
        "tiff": pillow(image, "TIFF", compression="tiff_deflate"),
    }
    codecs, cv2, simplejpeg = optional("imagecodecs"), optional("cv2"), optional("simplejpeg")
    vips = cast(Any, pyvips)
    pixels = image.width * image.height
    for name, data in files.items():
        cases: list[Case] = [
            ("Pillow", lambda data=data: pillow_decode(data)),
            ("service", lambda data=data: images.decode(data, ImageLimits(pixels))),
        ]
        if codecs:
            read = getattr(codecs, f"{name}_decode")
            cases.append(("imagecodecs", lambda data=data, read=read: read(data)))
        if cv2:
            cases.append(("OpenCV", lambda data=data: cv2.imdecode(np.frombuffer(data, np.uint8), 1)))
        cases.append(("libvips", lambda data=data: vips.Image.new_from_buffer(data, "").write_to_memory()))
        if simplejpeg and name == "jpeg":
            cases.append(("simplejpeg", lambda data=data: simplejpeg.decode_jpeg(data)))
        yield name, cases


def measure(cases: list[Case], pixels: int, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds per megapixel, and bytes per pixel where bytes are made."""
    seconds: list[list[float]] = [[] for _ in cases]
    made: list[object] = [None] * len(cases)
    for _ in range(repeats):
        for index, (_, call) in enumerate(cases):
            started = time.perf_counter()
            made[index] = call()
            seconds[index].append(time.perf_counter() - started)
    return [
        {
            "by": name,
            "ms_per_megapixel": round(1e9 * min(taken) / pixels, 1),
            "relative": round(min(taken) / min(seconds[0]), 3),
            "bytes_per_pixel": round(len(result) / pixels, 2) if isinstance(result, bytes) else None,
        }
        for (name, _), taken, result in zip(cases, seconds, made, strict=True)
    ]


def main(
    megapixels: Annotated[str, typer.Option(help="Sizes of the photograph, separated by commas.")] = "0.5,4",
    repeats: Annotated[int, typer.Option(help="Rounds over all ways of one format.")] = 3,
    output: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
) -> None:
    """Measure every way of reading and writing."""
    results: dict[str, Any] = {}
    for size in megapixels.split(","):
        image = photograph(float(size))
        pixels = image.width * image.height
        kinds = {"encode": encoders(image), "decode": decoders(image)}
        results[f"{image.width}x{image.height}"] = {
            kind: {name: measure(cases, pixels, repeats) for name, cases in found}
            for kind, found in kinds.items()
        }
    text = json.dumps(results, indent=2)
    print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
