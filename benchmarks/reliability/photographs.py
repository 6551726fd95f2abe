"""Small photographs in every format that is taken, in as many of its kinds as there are: what is mutated."""

from __future__ import annotations

from io import BytesIO
from typing import Any, cast

import numpy as np
import pyvips
import tifffile
from PIL import Image

from app import heic
from app.formats import AVIF, BMP, HEIC, JPEG, PNG, TIFF, WEBP
from benchmarks.serving.pictures import PHOTOGRAPHS
from tests.app.pictures import save

SIZES = [(48, 32), (33, 47), (64, 64), (96, 64), (160, 96)]
ORIENTATION = 0x0112


def cut(number: int) -> Image.Image:
    """A piece of a photograph of tests/data, as it is."""
    width, height = SIZES[number % len(SIZES)]
    with Image.open(PHOTOGRAPHS[number % len(PHOTOGRAPHS)]) as photograph:
        left, top = (37 * number) % (photograph.width - width), (53 * number) % (photograph.height - height)
        return photograph.convert("RGB").crop((left, top, left + width, top + height))


def photographs() -> dict[str, bytes]:
    """Files by what they are."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010E] = "a photograph in the rain"
    made = {
        "jpeg": save(cut(0), JPEG, quality=90),
        "jpeg progressive": save(cut(1), JPEG, quality=80, progressive=True),
        "jpeg cmyk": save(cut(2).convert("CMYK"), JPEG),
        "jpeg grey": save(cut(3).convert("L"), JPEG),
        "jpeg turned": save(cut(4), JPEG, exif=exif, comment=b"rain", dpi=(72, 72)),
        "jpeg restarts": save(cut(0), JPEG, restart_marker_blocks=1),
        "png": save(cut(0), PNG, exif=exif),
        "png of 1 bit": save(cut(1).convert("1"), PNG),
        "png palette": save(cut(2).quantize(16), PNG, transparency=3),
        "png alpha": save(_with_alpha(cut(3)), PNG),
        "png grey of 16 bits": save(Image.fromarray(_deep(cut(0))[..., 1].copy()), PNG),
        "png of 16 bits": _by_vips(cut(1), ".png", sixteen_bits=True),
        "png interlaced": _by_vips(cut(2), ".png", interlace=True),
        "png interlaced of 16 bits": _by_vips(cut(0), ".png", sixteen_bits=True, interlace=True),
        "webp": save(cut(0), WEBP, exif=exif),
        "webp lossless": save(cut(1), WEBP, lossless=True),
        "webp alpha": save(_with_alpha(cut(2)), WEBP),
        "tiff": save(cut(0), TIFF),
        "tiff palette": save(cut(1).quantize(16), TIFF),
        "tiff of 1 bit": save(cut(2).convert("1"), TIFF, compression="group4"),
        "tiff cmyk": save(cut(3).convert("CMYK"), TIFF, compression="tiff_lzw"),
        "tiff of 16 bits": _tiff(_deep(cut(1))),
        "tiff of 16 bits in tiles": _tiff(_deep(cut(4)), tile=(32, 32), compression="zlib", predictor=True),
        "tiff big and turned": _tiff(np.asarray(cut(0)), bigtiff=True, extratags=[(274, "H", 1, 6, True)]),
        "bmp": save(cut(0), BMP),
        "bmp palette": save(cut(1).quantize(16), BMP),
        "avif": save(cut(0), AVIF, speed=10, exif=exif),
        "avif alpha": save(_with_alpha(cut(3)), AVIF, speed=10),
    }
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        made[f"tiff {compression}"] = save(cut(2), TIFF, compression=compression)
    if heic.is_writable():
        made["heic"] = save(cut(0), HEIC, exif=exif)
        made["heic alpha"] = save(_with_alpha(cut(3)), HEIC)
    return made


def _with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(image.convert("L"))
    return image


def _deep(image: Image.Image) -> Any:
    """16 bits of noise below those that a photograph has."""
    samples = np.asarray(image).astype(np.uint16) * 257
    return samples ^ np.random.default_rng(0).integers(0, 256, samples.shape, np.uint16)


def _tiff(samples: Any, **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, samples, photometric="rgb", metadata=None, **options)
    return file.getvalue()


def _by_vips(image: Image.Image, suffix: str, *, sixteen_bits: bool = False, **options: Any) -> bytes:
    samples = _deep(image) if sixteen_bits else np.asarray(image)
    kind, space = ("ushort", "rgb16") if sixteen_bits else ("uchar", "srgb")
    whole = cast(Any, pyvips).Image.new_from_memory(
        samples.tobytes(), image.width, image.height, samples.shape[2], kind
    )
    return whole.copy(interpretation=space).write_to_buffer(suffix, **options)
