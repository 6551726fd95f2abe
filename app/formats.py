"""File formats: which are read and written, how their first bytes tell them, and why an image is refused."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A file format that is taken and given.

    `pillow_names` are Pillow's names of the readers that may open it, the first of them writes it. `max_side`
    is the longest side in pixels that the format can hold. `suffixes` are the endings of its file names, the
    first of them that of files which are made. `encoder_bytes` are those a pixel that writing it takes beyond
    what an image holds anyway.
    """

    name: str
    media_type: str
    suffixes: tuple[str, ...]
    pillow_names: tuple[str, ...]
    max_side: int
    holds_alpha: bool
    encoder_bytes: int = 0

    @property
    def extension(self) -> str:
        """Of files that are made, without the dot."""
        return self.suffixes[0].removeprefix(".")


JPEG = ImageFormat("jpeg", "image/jpeg", (".jpg", ".jpeg", ".jpe"), ("JPEG", "MPO"), 65500, holds_alpha=False)
PNG = ImageFormat("png", "image/png", (".png",), ("PNG",), 2**31 - 1, holds_alpha=True)
WEBP = ImageFormat("webp", "image/webp", (".webp",), ("WEBP",), 16383, holds_alpha=True)
BMP = ImageFormat("bmp", "image/bmp", (".bmp",), ("BMP",), 2**31 - 1, holds_alpha=False)
TIFF = ImageFormat("tiff", "image/tiff", (".tif", ".tiff"), ("TIFF",), 2**31 - 1, holds_alpha=True)
AVIF = ImageFormat("avif", "image/avif", (".avif",), ("AVIF",), 65535, holds_alpha=True, encoder_bytes=44)
HEIC = ImageFormat(
    "heic", "image/heic", (".heic", ".heif", ".hif"), ("HEIF",), 16384, holds_alpha=True, encoder_bytes=44
)

FORMATS = {image_format.name: image_format for image_format in (JPEG, PNG, WEBP, BMP, TIFF, AVIF, HEIC)}
"""Every format that is read, by name. HEIC is read only where the extra `heif` is installed."""

ANSWER_FORMATS = {image_format.name: image_format for image_format in (PNG, JPEG, WEBP, AVIF)}
"""The formats that a client can ask for, by name; otherwise an image goes back in the format it came in."""

AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
SEQUENCE_BRANDS = frozenset({b"avis", b"msf1", b"hevc", b"hevx", b"hevm", b"hevs"})
"""Brands of ISO base media files (ISO/IEC 23008-12, annexes B and E; AV1 Image File Format, section 6)."""

MAX_BRANDS = 32
"""Brands of a file that are looked at."""


class ImageError(ValueError):
    """An image that is not taken; the message is meant for whoever sent it."""


class UnsupportedFormatError(ImageError):
    """The bytes are not of an image format that is taken."""


class AnimatedImageError(ImageError):
    """The file holds several images: an animation, an image sequence, or pages."""


class ImageTooLargeError(ImageError):
    """The header declares more pixels than are taken.

    Attributes:
        pixels: width x height, where the header could be read that far.
        limit: the most pixels that are taken.
    """

    def __init__(self, pixels: int | None, limit: int) -> None:
        size = "the image" if pixels is None else f"an image of {pixels} pixels"
        super().__init__(f"{size} is over the limit of {limit} pixels")
        self.pixels = pixels
        self.limit = limit


class ImageSideTooLongError(ImageError):
    """The header declares a longer side than is taken.

    Attributes:
        side: the longer of width and height, in pixels.
        limit: the longest side that is taken.
    """

    def __init__(self, side: int, limit: int) -> None:
        super().__init__(f"a side of {side} pixels is over the limit of {limit}")
        self.side = side
        self.limit = limit


class UndecodableImageError(ImageError):
    """The bytes claim to be of a known format, yet cannot be decoded."""


class UnencodableImageError(ImageError):
    """The image does not fit into the format asked for."""


def sniff(data: bytes) -> ImageFormat | None:
    """The format that the first bytes show, whatever a client calls it; None when none that is taken."""
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    if data.startswith(b"BM"):
        return BMP
    if data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00"):
        return TIFF
    found = brands(data)
    if AVIF_BRANDS & set(found):
        return AVIF
    # a file of the general brand alone says only in its items what they are coded with
    if HEIC_BRANDS & set(found) or found[:1] == [b"mif1"]:
        return HEIC
    return None


def brands(data: bytes) -> list[bytes]:
    """The brands of an ISO base media file, the major one first; empty where it is none."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), len(data), 16 + 4 * MAX_BRANDS)
    return [data[8:12], *(data[start : start + 4] for start in range(16, end - 3, 4))]


def is_webp_lossless(data: bytes) -> bool:
    """Whether the first bitstream chunk is VP8L (WebP container specification, RIFF chunks from byte 12)."""
    offset = 12
    while offset + 8 <= len(data):
        chunk, size = data[offset : offset + 4], int.from_bytes(data[offset + 4 : offset + 8], "little")
        if chunk in (b"VP8L", b"VP8 "):
            return chunk == b"VP8L"
        offset += 8 + size + size % 2
    return False
