"""Image bytes to tensors and back: sniff, limit, decode, orient, encode. No HTTP and no device in here."""

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageCms, ImageFile

JPEG_QUALITY = 95
"""Of JPEG (chroma not subsampled) and lossy WebP."""

PNG_COMPRESS_LEVEL = 3
"""Of zlib: level 6 takes about three times as long for files a few per cent smaller."""


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
        pixels: uint8 `(3, H, W)`, upright, contiguous; greyscale is repeated over the three channels.
        alpha: uint8 `(H, W)`, or None where there is no transparency.
        greyscale: it had one colour channel and gets one again.
        lossless: it was stored without loss.
        icc_profile: the embedded colour profile that `pixels` are in, if any.
        image_format: the format it came in.
    """

    pixels: torch.Tensor
    alpha: npt.NDArray[np.uint8] | None
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


def limit_decoder(max_pixels: int) -> None:
    """Set Pillow's own decompression-bomb limit (one per process) behind `read_header`'s."""
    Image.MAX_IMAGE_PIXELS = max_pixels
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
    with _open(data, image_format, max_pixels) as image:
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
    with _open(data, image_format, max_pixels) as image:
        try:
            return _decode(image, data, image_format)
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            # Pillow's readers raise almost anything on broken bytes: OSError, SyntaxError, TypeError ...
            raise UndecodableImageError(f"broken {image_format.name} data: {error}") from error


def _decode(image: ImageFile.ImageFile, data: bytes, image_format: ImageFormat) -> Photograph:
    if image_format is not JPEG and getattr(image, "n_frames", 1) > 1:
        raise UndecodableImageError("animated images and images of several pages are not taken")
    image.load()
    icc_profile = image.info.get("icc_profile") or None
    upright = _upright(image)
    if upright.mode == "CMYK":
        upright, icc_profile = _cmyk_to_srgb(upright, icc_profile), None
    colour, alpha = _split(upright)
    greyscale = colour.mode == "L"
    samples = np.array(colour.convert("RGB") if greyscale else colour)
    return Photograph(
        pixels=torch.as_tensor(samples).permute(2, 0, 1).contiguous(),
        alpha=alpha,
        greyscale=greyscale,
        lossless=image_format not in (JPEG, WEBP) or (image_format is WEBP and _webp_is_lossless(data)),
        icc_profile=icc_profile,
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


def encode(restored: torch.Tensor, photograph: Photograph, image_format: ImageFormat) -> bytes:
    """Write restored pixels as a file, with everything else as it was in `photograph`.

    Alpha and colour profile are kept and greyscale stays greyscale. JPEG and BMP hold no alpha: there the
    image is laid over white. What came without loss goes out without loss where the format can.

    Args:
        restored: uint8 `(3, H, W)` of the size of `photograph`.
    """
    image = Image.fromarray(restored.permute(1, 2, 0).contiguous().numpy())
    if photograph.greyscale:
        image = image.convert("L")
    if photograph.alpha is not None:
        alpha = Image.fromarray(photograph.alpha)
        if image_format.holds_alpha:
            image.putalpha(alpha)
        else:
            white = Image.new(image.mode, image.size, "white")
            image = Image.composite(image, white, alpha)
    options: dict[str, Any] = {}
    if image_format is JPEG:
        options = {"quality": JPEG_QUALITY, "subsampling": "4:4:4"}
    elif image_format is PNG:
        options = {"compress_level": PNG_COMPRESS_LEVEL}
    elif image_format is WEBP:
        options = {"lossless": True} if photograph.lossless else {"quality": JPEG_QUALITY}
    elif image_format is TIFF:
        options = {"compression": "tiff_deflate"}
    if photograph.icc_profile is not None:
        options["icc_profile"] = photograph.icc_profile
    buffer = BytesIO()
    image.save(buffer, format=image_format.pillow_names[0], **options)
    return buffer.getvalue()


def _open(data: bytes, image_format: ImageFormat, max_pixels: int) -> ImageFile.ImageFile:
    """Pillow's lazy image; only the reader of `image_format` gets to see the bytes."""
    try:
        return Image.open(BytesIO(data), formats=image_format.pillow_names)
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


_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From the EXIF orientation (TIFF 6.0, tag 274) to what turns the image upright."""


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def _cmyk_to_srgb(image: Image.Image, icc_profile: bytes | None) -> Image.Image:
    if icc_profile is not None:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(icc_profile))
            srgb = cast(Any, ImageCms).createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _split(image: Image.Image) -> tuple[Image.Image, npt.NDArray[np.uint8] | None]:
    """Colour as mode L or RGB, and alpha `(H, W)` or None.

    Raises:
        UndecodableImageError: samples that have no plain 8-bit form.
    """
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((samples + 128) // 257).astype(np.uint8)), None
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        raise UndecodableImageError(f"samples of kind {image.mode} are not taken")
    greyscale = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image.convert("L" if greyscale else "RGB"), None
    with_alpha = image.convert("LA" if greyscale else "RGBA")
    alpha = np.array(with_alpha.getchannel("A"))
    # convert() from LA or RGBA drops the alpha channel and leaves the colour under it as it is
    return with_alpha.convert("L" if greyscale else "RGB"), alpha
