"""What the first bytes of an image say, and the limits that are checked before a pixel is decoded."""

import re
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

from PIL import Image, ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from app import av1, heic
from app.formats import (
    AVIF,
    FORMATS,
    HEIC,
    JPEG,
    PNG,
    SEQUENCE_BRANDS,
    TIFF,
    AnimatedImageError,
    ImageFormat,
    ImageSideTooLongError,
    ImageTooLargeError,
    UndecodableImageError,
    UnsupportedFormatError,
    brands,
    sniff,
)

MAX_SIDE = 65535
"""The longest side in pixels that is taken where nothing else is said."""

SMALL_TILE_PIXELS = 2048 * 2048
"""A tile of a TIFF may be larger than its image, up to so many pixels."""

SMALL_AVIF_PIXELS = 512 * 512
"""So may what an AVIF is coded in."""

AVIF_PICTURES = 4
"""All that an AVIF holds may be so many times as large as the picture."""

MAX_DIRECTORIES = 32
"""Of a TIFF, that are looked at for a second page."""

MAX_TAGS = 1024
"""That a directory of a TIFF may have. Directories may overlap, so small files could hold many long ones."""

COMPANIONS = 0b101
"""Bits of a TIFF's NewSubfileType: the directory holds a smaller version or a mask of another image."""

EXTENT = re.compile(rb"\0\0\0\x14ispe\0{4}(.{4})(.{4})", re.DOTALL)
"""A box that declares a width and a height (ISO/IEC 23008-12, 6.5.3)."""

CODING_BLOCK = 64
"""HEVC codes blocks of at most so many pixels a side; a picture is continued to whole ones."""

UNSIGNED_SAMPLES = 1
BLACK_IS_ZERO, RGB = 1, 2
WHITE_IS_ZERO = 0
"""Values of SampleFormat and PhotometricInterpretation (TIFF 6.0)."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image that is taken: `pixels` is width x height, `side` the longer of the two."""

    pixels: int
    side: int = MAX_SIDE


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes of an image say; nothing is decoded yet. `width` and `height` are as stored.
    `sixteen_bits`: its samples are of 16 bits and are decoded as such.
    """

    image_format: ImageFormat
    width: int
    height: int
    sixteen_bits: bool = False

    @property
    def pixels(self) -> int:
        """Width x height."""
        return self.width * self.height

    @property
    def sample_bytes(self) -> int:
        """Bytes of a decoded sample: 1 or 2."""
        return 2 if self.sixteen_bits else 1


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Read format, size and depth without decoding a pixel.

    Raises:
        UnsupportedFormatError: no format that is taken.
        AnimatedImageError: an animation, an image sequence or pages.
        ImageTooLargeError: more than `limits.pixels` pixels.
        ImageSideTooLongError: a side of more than `limits.side` pixels.
        UndecodableImageError: the header is broken.
    """
    image_format = sniff(data)
    if image_format is None:
        raise UnsupportedFormatError(
            f"not an image of a format that is taken ({', '.join(FORMATS)})" if data else "the image is empty"
        )
    if image_format is TIFF:
        return _read_tiff(data, limits)
    if image_format is HEIC and not heic.is_readable():
        raise UnsupportedFormatError(heic.MISSING)
    if image_format in (AVIF, HEIC):
        for width, height in _declared_sizes(data):
            # what is cropped after decoding may be larger than the picture
            if max(width - CODING_BLOCK, 1) * max(height - CODING_BLOCK, 1) > limits.pixels:
                raise ImageTooLargeError(width * height, limits.pixels)
    with open_image(BytesIO(data), image_format, limits) as image:
        _check_size(image.width, image.height, limits)
        if _is_animated(image, image_format, data):
            raise AnimatedImageError(f"animated images are not taken: this {image_format.name} has frames")
        if image_format is AVIF:
            _check_coded(data, image.width * image.height)
        return ImageHeader(
            image_format=image_format,
            width=image.width,
            height=image.height,
            # IHDR is the first chunk, and its ninth byte the bit depth
            sixteen_bits=image_format is PNG and data[24] == 16,
        )


def open_image(source: BytesIO, image_format: ImageFormat, limits: ImageLimits) -> ImageFile.ImageFile:
    """Pillow's lazy image; only the reader of `image_format` gets to see the bytes.

    Raises:
        ImageTooLargeError: far more than `limits.pixels` pixels.
        UndecodableImageError: the header is broken.
    """
    try:
        return Image.open(source, formats=image_format.pillow_names)
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(None, limits.pixels) from error
    except MemoryError:
        raise
    except Exception as error:
        raise UndecodableImageError(f"the {image_format.name} header cannot be read") from error


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.pixels:
        raise ImageTooLargeError(width * height, limits.pixels)
    if max(width, height) > limits.side:
        raise ImageSideTooLongError(max(width, height), limits.side)


def _is_animated(image: ImageFile.ImageFile, image_format: ImageFormat, data: bytes) -> bool:
    """Whether there are several frames. The images beside the first of an MPO, and beside the primary one of
    a HEIC that is no sequence, are companions of the photograph."""
    if image_format is JPEG:
        return False
    if image_format in (AVIF, HEIC) and brands(data)[0] in SEQUENCE_BRANDS:
        return True
    if image_format is HEIC:
        return False
    return getattr(image, "n_frames", 1) > 1


def _check_coded(data: bytes, pixels: int) -> None:
    """Refuse an AVIF whose pictures are coded far larger than it says: transparency, tiles of a grid and
    smaller versions are together a few times as large as the picture at most."""
    try:
        coded = [width * height for width, height in av1.coded_sizes(data)]
    except av1.BrokenError as error:
        raise UndecodableImageError("the avif header cannot be read") from error
    room = max(pixels, SMALL_AVIF_PIXELS)
    if max(coded) > room or sum(coded) > AVIF_PICTURES * room:
        raise UndecodableImageError(f"the avif holds {sum(coded)} pixels, far more than the {pixels} it says")


def _declared_sizes(data: bytes) -> list[tuple[int, int]]:
    """All widths and heights that the meta box of an ISO base media file declares."""
    offset = 0
    while offset + 8 <= len(data):
        size = int.from_bytes(data[offset : offset + 4], "big")
        if data[offset + 4 : offset + 8] == b"meta":
            extents = EXTENT.finditer(data, offset, offset + size)
            return [(int.from_bytes(one[1], "big"), int.from_bytes(one[2], "big")) for one in extents]
        if size < 8:
            break
        offset += size
    return []


class TiffDirectories:
    """The directories of a TIFF, by Pillow's parser, which unlike its reader takes any kind of samples.

    Attributes:
        first: the tags of the first image.
    """

    def __init__(self, data: bytes) -> None:
        """Raises UndecodableImageError."""
        self._source = BytesIO(data)
        try:
            self._first_place = int(self._new().next)
            self.first = self._load(self._first_place)
        except (MemoryError, UndecodableImageError):
            raise
        except Exception as error:
            raise UndecodableImageError("the tiff header cannot be read") from error

    def exif(self) -> Image.Exif:
        """The first directory as EXIF, whose sub-directories are read when they are asked for."""
        directory = self._new()
        exif = Image.Exif()
        exif.endian = cast(Any, directory)._endian  # as Image.getexif does
        exif.bigtiff = cast(Any, directory)._bigtiff
        exif.load_from_fp(self._source, int(directory.next))
        return exif

    def are_pages(self) -> bool:
        """Whether a second image follows that is neither a smaller version nor a mask of another."""
        directory, seen = self.first, {0, self._first_place}
        while (place := int(directory.next)) not in seen:
            seen.add(place)
            if len(seen) > MAX_DIRECTORIES:
                return True
            directory = self._load(place)
            if not len(directory):
                return False
            if not int(directory.get(254, 0)) & COMPANIONS:
                return True
        return False

    def integers(self, tag: int) -> tuple[int, ...]:
        """The numbers of a tag of the first directory; none where it is missing.

        Raises:
            UndecodableImageError: it holds something else.
        """
        value: Any = self.first.get(tag, ())
        values = cast(tuple[Any, ...], value) if isinstance(value, tuple) else (value,)
        try:
            return tuple(int(one) for one in values)
        except (OverflowError, TypeError, ValueError) as error:
            raise UndecodableImageError(f"the tiff's tag {tag} is broken") from error

    def _new(self) -> ImageFileDirectory_v2:
        head = bytes(self._source.getbuffer()[:16])
        return ImageFileDirectory_v2(head if head[2:4] == b"+\0" else head[:8])

    def _load(self, place: int) -> ImageFileDirectory_v2:
        directory = self._new()
        self._source.seek(place)
        count = self._source.read(8 if cast(Any, directory)._bigtiff else 2)
        if int.from_bytes(count, "little" if cast(Any, directory)._endian == "<" else "big") > MAX_TAGS:
            raise UndecodableImageError(f"a directory of the tiff has more than {MAX_TAGS} tags")
        self._source.seek(place)
        directory.load(self._source)
        return directory


def _read_tiff(data: bytes, limits: ImageLimits) -> ImageHeader:
    directories = TiffDirectories(data)
    [width], [height] = (directories.integers(tag)[:1] or (0,) for tag in (256, 257))
    if width <= 0 or height <= 0:
        raise UndecodableImageError("the tiff header tells no size")
    _check_size(width, height, limits)
    [tile_width], [tile_height] = (directories.integers(tag)[:1] or (0,) for tag in (322, 323))
    if tile_width * tile_height > max(width * height, SMALL_TILE_PIXELS):
        raise UndecodableImageError(
            f"the tiff's tiles of {tile_width}x{tile_height} pixels are far larger than the image"
        )
    try:
        pages = directories.are_pages()
    except (MemoryError, UndecodableImageError):
        raise
    except Exception as error:
        raise UndecodableImageError("the tiff's directories cannot be read") from error
    if pages:
        raise AnimatedImageError("images of several pages are not taken: this tiff has more than one")
    bits = directories.integers(258)
    sixteen_bits = (
        0 < len(bits) <= 4
        and set(bits) == {16}
        and set(directories.integers(339)) <= {UNSIGNED_SAMPLES}
        and directories.integers(262) in ((WHITE_IS_ZERO,), (BLACK_IS_ZERO,), (RGB,))
    )
    header = ImageHeader(TIFF, width, height, sixteen_bits)
    if not sixteen_bits:
        open_image(BytesIO(data), TIFF, limits).close()
    return header
