"""PNG files written strip by strip, several times as fast as by libpng (docs/performance.md)."""

import struct
import zlib
from collections.abc import Iterable
from io import BytesIO
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

Samples = npt.NDArray[np.uint8]

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""From channels to PNG's colour type: greyscale, greyscale and alpha, RGB, RGB and alpha."""

AVERAGE = 3
"""The filter of every row: the difference from the mean of left and above (PNG, section 9.4)."""

DEFLATE_LEVEL = 1
"""Of ISA-L, which knows 0 to 3: above 1 it takes longer for files of the same size."""


def write_png(
    strips: Iterable[Samples], *, width: int, height: int, channels: int, icc_profile: bytes | None = None
) -> bytes:
    """Write an image of 8-bit samples.

    Args:
        strips: uint8 `(h, width, channels)`, from top to bottom; together `height` rows. Each is taken only
            when the one before is written, so none but the file itself is held whole.
        channels: 1 (greyscale), 2 (with alpha), 3 (RGB) or 4 (with alpha).
        icc_profile: embedded as it is.
    """
    file = BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0))
    if icc_profile is not None:
        _chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile))
    deflate = cast(Any, isal_zlib).compressobj(DEFLATE_LEVEL)
    above = np.zeros((1, width * channels), np.uint8)
    for strip in strips:
        rows = np.vstack((above, strip.reshape(len(strip), -1)))
        _chunk(file, b"IDAT", deflate.compress(_filter(rows, channels)))
        above = rows[-1:]
    _chunk(file, b"IDAT", deflate.flush())
    _chunk(file, b"IEND", b"")
    return file.getvalue()


def _filter(rows: Samples, channels: int) -> Samples:
    """Rows `(h + 1, n)`, the first of them already written, to filtered ones `(h, 1 + n)`."""
    above, current = rows[:-1], rows[1:]
    filtered = np.empty((len(current), 1 + current.shape[1]), np.uint8)
    filtered[:, 0] = AVERAGE
    # of the left-most pixel the mean is taken with zero; elsewhere (a & b) + ((a ^ b) >> 1) never overflows
    np.subtract(current[:, :channels], above[:, :channels] >> 1, out=filtered[:, 1 : 1 + channels])
    above, left = above[:, channels:], current[:, :-channels]
    mean = above ^ left
    mean >>= 1
    mean += above & left
    np.subtract(current[:, channels:], mean, out=filtered[:, 1 + channels :])
    return filtered


def _chunk(file: BytesIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)))
    file.write(kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
