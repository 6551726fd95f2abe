"""What libvips reads and writes: samples of 16 bits, which Pillow cannot hold, and every PNG and TIFF."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyvips

from app.formats import PNG, ImageFormat, UndecodableImageError

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""Samples of images, full scale."""

PNG_OPTIONS = {"compression": 2, "filter": "avg", "keep": "icc"}
"""A third of the time of Pillow's zlib level 3, for files a twentieth smaller. libvips would make up EXIF."""

TIFF_OPTIONS = {"compression": "deflate", "predictor": "horizontal", "keep": "icc"}

NO_ALPHA = 0
"""Value of a TIFF's ExtraSamples: what the channel holds is not known (TIFF 6.0)."""


def set_up() -> None:
    """Set what is one per process: libvips keeps no images and takes no more threads."""
    vips = cast(Any, pyvips)
    vips.concurrency_set(1)  # the pool of codecs has a thread for each core already
    vips.cache_set_max(0)  # it would hold the pixels of answers that were sent long ago


class SixteenBitReader:
    """Reads a PNG or a TIFF of 16 bits from top to bottom; holds a few rows at a time. Colour that was
    multiplied with alpha comes without that.

    Attributes:
        width, height: as stored, in pixels.
        channels: 1 to 4.
    """

    def __init__(self, data: bytes, image_format: ImageFormat) -> None:
        """Raises UndecodableImageError."""
        vips = cast(Any, pyvips)
        load = vips.Image.pngload_source if image_format is PNG else vips.Image.tiffload_source
        try:
            # a source, since loading from a buffer would copy it
            image = load(vips.Source.new_from_memory(data), access="sequential", fail_on="error")
            self._region: Any = vips.Region.new(image)
        except pyvips.Error as error:
            raise _broken(image_format, error) from error
        self._format = image_format
        self.width, self.height, self.channels = int(image.width), int(image.height), int(image.bands)
        if image.format != "ushort" or self.channels > 4:
            raise UndecodableImageError(f"samples of kind {image.format} x {self.channels} are not taken")

    def rows(self, top: int, bottom: int) -> npt.NDArray[np.uint16]:
        """Rows `(bottom - top, W, C)`, after those that were read before.

        Raises:
            UndecodableImageError: they are broken or missing.
        """
        try:
            data = self._region.fetch(0, top, self.width, bottom - top)
        except pyvips.Error as error:
            raise _broken(self._format, error) from error
        return np.frombuffer(data, np.uint16).reshape(bottom - top, self.width, self.channels)


def write_png(samples: Samples, icc_profile: bytes | None) -> bytes:
    """Samples `(H, W, C)` as PNG, of 8 or 16 bits as they are, and of greyscale where C is 1 or 2."""
    return _image(samples, icc_profile).write_to_buffer(".png", **PNG_OPTIONS)


def write_tiff(samples: Samples, icc_profile: bytes | None) -> bytes:
    """The same as TIFF."""
    return _image(samples, icc_profile).write_to_buffer(".tif", **TIFF_OPTIONS)


def _image(samples: Samples, icc_profile: bytes | None) -> Any:
    vips = cast(Any, pyvips)
    height, width, channels = samples.shape
    sixteen_bits = samples.dtype == np.uint16
    image = vips.Image.new_from_memory(
        samples.data, width, height, channels, "ushort" if sixteen_bits else "uchar"
    )
    if channels > 2:
        image = image.copy(interpretation="rgb16" if sixteen_bits else "srgb")
    else:
        image = image.copy(interpretation="grey16" if sixteen_bits else "b-w")
    if icc_profile is not None:
        image.set_type(vips.GValue.blob_type, "icc-profile-data", icc_profile)
    return image


def _broken(image_format: ImageFormat, error: Exception) -> UndecodableImageError:
    return UndecodableImageError(f"broken {image_format.name} data: {' '.join(str(error).split())}")
