"""Image bytes to tensors and back: sniff, limit, decode, orient, encode. No HTTP and no device in here."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyvips
import torch
from PIL import ExifTags, Image, ImageCms, ImageFile

JPEG_QUALITY = 95
"""Of JPEG (chroma not subsampled) and lossy WebP."""

PNG_OPTIONS = {"compression": 2, "filter": "avg"}
"""A third of the time of Pillow's zlib level 3, for files a twentieth smaller."""

WEBP_LOSSY = {"quality": JPEG_QUALITY, "method": 2}
"""Method 4, Pillow's own choice, takes twice as long and more for a quarter of a decibel."""

WEBP_LOSSLESS = {"lossless": True, "quality": 0, "method": 0}
"""Pillow's own choice takes eight times as long for files a sixth smaller."""

PILLOW_BLOCK_BYTES = 64 * 1024 * 1024
"""Of large images: over 32 MiB, from where on the C library always gives freed memory back to the system."""

STRIP_PIXELS = 256 * 1024
"""Photographs pass between Pillow and arrays in strips of about so many pixels, never whole: Pillow holds
four bytes a pixel, and conversions hold another image each."""


Samples = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A file format that is taken and given.

    `pillow_names` are Pillow's names of the readers that may open it, the first of them writes it. `max_side`
    is the longest side in pixels that the format can hold.
    """

    name: str
    media_type: str
    extension: str
    pillow_names: tuple[str, ...]
    max_side: int
    holds_alpha: bool


JPEG = ImageFormat("jpeg", "image/jpeg", "jpg", ("JPEG", "MPO"), 65500, holds_alpha=False)
PNG = ImageFormat("png", "image/png", "png", ("PNG",), 2**31 - 1, holds_alpha=True)
WEBP = ImageFormat("webp", "image/webp", "webp", ("WEBP",), 16383, holds_alpha=True)
BMP = ImageFormat("bmp", "image/bmp", "bmp", ("BMP",), 2**31 - 1, holds_alpha=False)
TIFF = ImageFormat("tiff", "image/tiff", "tif", ("TIFF",), 2**31 - 1, holds_alpha=True)

FORMATS = {image_format.name: image_format for image_format in (JPEG, PNG, WEBP, BMP, TIFF)}
"""Every format that is read, by name."""

ANSWER_FORMATS = {image_format.name: image_format for image_format in (PNG, JPEG, WEBP)}
"""The formats that a client can ask for, by name; otherwise an image goes back in the format it came in."""


class ImageError(ValueError):
    """An image that is not taken; the message is meant for whoever sent it."""


class UnsupportedFormatError(ImageError):
    """The bytes are not of an image format that is taken."""


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


class UndecodableImageError(ImageError):
    """The bytes claim to be of a known format, yet cannot be decoded."""


class UnencodableImageError(ImageError):
    """The image does not fit into the format asked for."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes of an image say; nothing is decoded yet. `width` and `height` are as stored."""

    image_format: ImageFormat
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Width x height."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Photograph:
    """A decoded image.

    Attributes:
        pixels: uint8 `(3, H, W)`, upright, a view of an `(H, W, 3)` array; greyscale is repeated over the
            three channels.
        alpha: uint8 `(H, W)`, or None where there is no transparency.
        greyscale: it had one colour channel and gets one again.
        lossless: it was stored without loss.
        icc_profile: the embedded colour profile that `pixels` are in, if any.
        image_format: the format it came in.
    """

    pixels: torch.Tensor
    alpha: Samples | None
    greyscale: bool
    lossless: bool
    icc_profile: bytes | None
    image_format: ImageFormat

    @property
    def height(self) -> int:
        """Upright height in pixels."""
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        """Upright width in pixels."""
        return self.pixels.shape[2]

    def with_pixels(self, pixels: torch.Tensor) -> "Photograph":
        """The same photograph with other pixels: uint8 `(3, H, W)` of the same size."""
        return replace(self, pixels=pixels)


def set_up_codecs(max_pixels: int) -> None:
    """Set what is one per process: Pillow's decompression-bomb limit behind `read_header`'s and its blocks;
    libvips keeps no images and takes no more threads."""
    Image.MAX_IMAGE_PIXELS = max_pixels
    vips = cast(Any, pyvips)
    vips.concurrency_set(1)  # the pool of codecs has a thread for each core already
    vips.cache_set_max(0)  # it would hold the pixels of answers that were sent long ago
    cast(Any, Image.core).set_block_size(PILLOW_BLOCK_BYTES)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


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
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return TIFF
    return None


def read_header(data: bytes, *, max_pixels: int) -> ImageHeader:
    """Read format and size without decoding a pixel.

    Raises:
        UnsupportedFormatError: no format that is taken.
        ImageTooLargeError: more than `max_pixels` pixels.
        UndecodableImageError: the header is broken.
    """
    image_format = sniff(data)
    if image_format is None:
        raise UnsupportedFormatError(
            f"not an image of a format that is taken ({', '.join(FORMATS)})" if data else "the image is empty"
        )
    with _open(BytesIO(data), image_format, max_pixels) as image:
        header = ImageHeader(image_format=image_format, width=image.width, height=image.height)
    if header.pixels > max_pixels:
        raise ImageTooLargeError(header.pixels, max_pixels)
    return header


def decode(data: bytes, *, max_pixels: int) -> Photograph:
    """Decode, turn upright and split into colour and alpha.

    The EXIF orientation is applied. Palettes, CMYK and 16-bit samples become 8-bit RGB or greyscale; CMYK
    goes through its embedded profile, if it has one, to sRGB.

    Raises:
        UnsupportedFormatError: no format that is taken.
        ImageTooLargeError: more than `max_pixels` pixels.
        UndecodableImageError: broken or truncated, animated, of several pages, or of samples that are not
            taken.
    """
    image_format = read_header(data, max_pixels=max_pixels).image_format
    lossless = image_format not in (JPEG, WEBP) or (image_format is WEBP and _webp_is_lossless(data))
    source = BytesIO(data)
    del data
    with _open(source, image_format, max_pixels) as image:
        try:
            if image_format is not JPEG and getattr(image, "n_frames", 1) > 1:
                raise UndecodableImageError("animated images and images of several pages are not taken")
            image.load()
            orientation = _orientation(image)
            source.close()  # this frees the encoded bytes, unless somebody else holds them
            return _photograph(image, image_format, orientation, lossless=lossless)
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            # Pillow's readers raise almost anything on broken bytes: OSError, SyntaxError, TypeError ...
            raise UndecodableImageError(f"broken {image_format.name} data: {error}") from error


def _photograph(
    image: Image.Image, image_format: ImageFormat, orientation: int, *, lossless: bool
) -> Photograph:
    """Copy a loaded image, strip by strip, to where it belongs when upright."""
    mode = _plain_mode(image)
    convert = _converter(image, mode)
    turned = orientation in SIDEWAYS
    height, width = (image.width, image.height) if turned else (image.height, image.width)
    pixels = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if mode.endswith("A") else None
    stored_pixels = _as_stored(pixels, orientation)
    stored_alpha = None if alpha is None else _as_stored(alpha, orientation)
    for top, bottom in _strips(image.height, image.width):
        colour = convert(image.crop((0, top, image.width, bottom)))
        if stored_alpha is not None:
            stored_alpha[top:bottom] = np.asarray(colour.getchannel("A"))
            # convert() from LA or RGBA drops the alpha channel and leaves the colour under it as it is
            colour = colour.convert(mode.removesuffix("A"))
        samples = np.asarray(colour)
        stored_pixels[top:bottom] = samples[..., None] if samples.ndim == 2 else samples
    return Photograph(
        pixels=torch.as_tensor(pixels).permute(2, 0, 1),
        alpha=alpha,
        greyscale=mode in ("L", "LA"),
        lossless=lossless,
        icc_profile=None if image.mode == "CMYK" else image.info.get("icc_profile") or None,
        image_format=image_format,
    )


def check_fits(photograph: Photograph, image_format: ImageFormat) -> None:
    """Refuse before the work, not after it.

    Raises:
        UnencodableImageError: a side is longer than `image_format` can hold.
    """
    side = max(photograph.height, photograph.width)
    if side > image_format.max_side:
        raise UnencodableImageError(
            f"a side of {side} pixels is longer than {image_format.name} can hold ({image_format.max_side})"
        )


def encode(photograph: Photograph, image_format: ImageFormat) -> bytes:
    """Write a photograph as a file; its pixels may have been restored meanwhile (`Photograph.with_pixels`).

    Alpha and colour profile are kept and greyscale stays greyscale. JPEG and BMP hold no alpha: there the
    image is laid over white. What came without loss goes out without loss where the format can.
    """
    height, width = photograph.height, photograph.width
    keeps_alpha = photograph.alpha is not None and image_format.holds_alpha
    mode = ("L" if photograph.greyscale else "RGB") + ("A" if keeps_alpha else "")
    strips = (_strip(photograph, mode, slice(top, bottom)) for top, bottom in _strips(height, width))
    if image_format is PNG:
        samples = np.empty((height, width, len(mode)), np.uint8)
        for (top, bottom), strip in zip(_strips(height, width), strips, strict=True):
            samples[top:bottom] = np.asarray(strip).reshape(bottom - top, width, len(mode))
        return _png(samples, photograph.icc_profile)
    image = Image.new(mode, (width, height))
    top = 0
    for strip in strips:
        image.paste(strip, (0, top))
        top += strip.height
    options: dict[str, Any] = {}
    if image_format is JPEG:
        options = {"quality": JPEG_QUALITY, "subsampling": "4:4:4"}
    elif image_format is WEBP:
        options = dict(WEBP_LOSSLESS if photograph.lossless else WEBP_LOSSY)
    elif image_format is TIFF:
        options = {"compression": "tiff_deflate"}
    if photograph.icc_profile is not None:
        options["icc_profile"] = photograph.icc_profile
    buffer = BytesIO()
    image.save(buffer, format=image_format.pillow_names[0], **options)
    return buffer.getvalue()


def _png(samples: Samples, icc_profile: bytes | None) -> bytes:
    """Samples `(H, W, C)` as PNG, by libvips."""
    height, width, channels = samples.shape
    vips = cast(Any, pyvips)
    image = vips.Image.new_from_memory(samples.data, width, height, channels, "uchar")
    image = image.copy(interpretation="srgb" if channels > 2 else "b-w")
    if icc_profile is not None:
        image.set_type(vips.GValue.blob_type, "icc-profile-data", icc_profile)
    return image.write_to_buffer(".png", **PNG_OPTIONS)


def _strip(photograph: Photograph, mode: str, rows: slice) -> Image.Image:
    """Some rows in Pillow's `mode`: L, LA, RGB or RGBA."""
    strip = Image.fromarray(np.ascontiguousarray(photograph.pixels[:, rows].permute(1, 2, 0).numpy()))
    strip = strip.convert(mode.removesuffix("A"))
    if photograph.alpha is not None:
        alpha = Image.fromarray(photograph.alpha[rows])
        if mode.endswith("A"):
            strip.putalpha(alpha)
        else:
            strip = Image.composite(strip, Image.new(mode, strip.size, "white"), alpha)
    return strip


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of strips of about `STRIP_PIXELS`, from top to bottom."""
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _open(source: BytesIO, image_format: ImageFormat, max_pixels: int) -> ImageFile.ImageFile:
    """Pillow's lazy image; only the reader of `image_format` gets to see the bytes."""
    try:
        return Image.open(source, formats=image_format.pillow_names)
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(None, max_pixels) from error
    except MemoryError:
        raise
    except Exception as error:
        raise UndecodableImageError(f"the {image_format.name} header cannot be read") from error


def _webp_is_lossless(data: bytes) -> bool:
    """Whether the first bitstream chunk is VP8L (WebP container specification, RIFF chunks from byte 12)."""
    offset = 12
    while offset + 8 <= len(data):
        chunk, size = data[offset : offset + 4], int.from_bytes(data[offset + 4 : offset + 8], "little")
        if chunk in (b"VP8L", b"VP8 "):
            return chunk == b"VP8L"
        offset += 8 + size + size % 2
    return False


SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations (TIFF 6.0, tag 274) of photographs stored with width and height exchanged."""

GREYSCALE = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of one colour channel."""

COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK")
"""Pillow's other modes that are taken."""


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, as it is, where none or nonsense is given."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1


def _as_stored(upright: Samples, orientation: int) -> Samples:
    """A view of an upright array `(H, W, ...)` in which what is stored can be written as it comes."""
    match orientation:
        case 2:
            return upright[:, ::-1]
        case 3:
            return upright[::-1, ::-1]
        case 4:
            return upright[::-1]
        case 5:
            return upright.swapaxes(0, 1)
        case 6:
            return np.rot90(upright)
        case 7:
            return upright[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(upright, -1)
        case _:
            return upright


def _plain_mode(image: Image.Image) -> str:
    """L, LA, RGB or RGBA: what an image is converted to. Sixteen-bit samples have no transparency.

    Raises:
        UndecodableImageError: samples that have no plain 8-bit form.
    """
    if image.mode not in GREYSCALE + COLOUR:
        raise UndecodableImageError(f"samples of kind {image.mode} are not taken")
    alpha = image.has_transparency_data and not image.mode.startswith("I;16")
    return ("L" if image.mode in GREYSCALE else "RGB") + ("A" if alpha else "")


def _converter(image: Image.Image, mode: str) -> Callable[[Image.Image], Image.Image]:
    """What turns strips of an image into its plain `mode`."""
    if image.mode.startswith("I;16"):
        return _sixteen_to_eight_bits
    if image.mode == "CMYK":
        return _cmyk_to_srgb(image.info.get("icc_profile") or None)
    return lambda strip: strip.convert(mode)


def _sixteen_to_eight_bits(strip: Image.Image) -> Image.Image:
    samples = np.asarray(strip).astype(np.uint32)
    return Image.fromarray(((samples + 128) // 257).astype(np.uint8))


def _cmyk_to_srgb(icc_profile: bytes | None) -> Callable[[Image.Image], Image.Image]:
    if icc_profile is not None:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(icc_profile))
            srgb = cast(Any, ImageCms).createProfile("sRGB")
            transform = ImageCms.buildTransform(source, srgb, "CMYK", "RGB")
        except (ImageCms.PyCMSError, OSError):
            transform = None
        if transform is not None:
            return lambda strip: ImageCms.applyTransform(strip, transform) or strip.convert("RGB")
    return lambda strip: strip.convert("RGB")
