"""Image bytes to tensors and back: decode, orient, encode. No HTTP and no device in here."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import AvifImagePlugin, Image, ImageCms

from app import heic, metadata, vips
from app.formats import (
    AVIF,
    HEIC,
    JPEG,
    PNG,
    TIFF,
    WEBP,
    ImageError,
    ImageFormat,
    UndecodableImageError,
    UnencodableImageError,
    is_webp_lossless,
)
from app.image_headers import ImageHeader, ImageLimits, TiffDirectories, open_image, read_header
from app.metadata import EXTRA_SAMPLES, ICC_PROFILE, XMP, Metadata
from app.vips import Samples

JPEG_QUALITY = 95
"""Of JPEG (chroma not subsampled), lossy WebP, AVIF and HEIC."""

WEBP_LOSSY = {"quality": JPEG_QUALITY, "method": 2}
"""Method 4, Pillow's own choice, takes twice as long and more for a quarter of a decibel."""

WEBP_LOSSLESS = {"lossless": True, "quality": 0, "method": 0}
"""Pillow's own choice takes eight times as long for files a sixth smaller."""

AVIF_OPTIONS = {
    "quality": JPEG_QUALITY,
    "speed": 9,
    "max_threads": 1,
    "advanced": {"alpha:lossless": "1"},
}
"""Speed 6, Pillow's own choice, takes ten times as long for a quarter of a decibel. Alpha is not touched."""

HEIC_OPTIONS = {"quality": JPEG_QUALITY, "enc_params": {"preset": "ultrafast"}}
"""Chroma is subsampled: what cameras write is all that many programs can read."""

PILLOW_BLOCK_BYTES = 64 * 1024 * 1024
"""Of large images: over 32 MiB, from where on the C library always gives freed memory back to the system."""

STRIP_PIXELS = 256 * 1024
"""Photographs pass between Pillow and arrays in strips of about so many pixels, never whole: Pillow holds
four bytes a pixel, and conversions hold another image each."""

ReadRows = Callable[[int, int], tuple[Samples, Samples | None]]
"""First and last row (exclusive) to colour, `(h, W)` or `(h, W, 3)`, and alpha `(h, W)` if there is any."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """A decoded image.

    Attributes:
        pixels: uint8 or uint16 `(3, H, W)`, full scale, upright, a view of an `(H, W, 3)` array; greyscale is
            repeated over the three channels.
        alpha: `(H, W)` of the same type, or None where there is no transparency.
        greyscale: it had one colour channel and gets one again.
        lossless: it was stored without loss.
        icc_profile: the embedded colour profile that `pixels` are in, if any.
        metadata: what else the file said.
        image_format: the format it came in.
    """

    pixels: torch.Tensor
    alpha: Samples | None
    greyscale: bool
    lossless: bool
    icc_profile: bytes | None
    metadata: Metadata
    image_format: ImageFormat

    @property
    def height(self) -> int:
        """Upright height in pixels."""
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        """Upright width in pixels."""
        return self.pixels.shape[2]

    @property
    def sixteen_bits(self) -> bool:
        """Whether a sample has 16 bits instead of 8."""
        return self.pixels.dtype == torch.uint16

    def with_pixels(self, pixels: torch.Tensor) -> "Photograph":
        """The same photograph with other pixels: `(3, H, W)` of the same size and type."""
        return replace(self, pixels=pixels)

    def without_metadata(self) -> "Photograph":
        """The same photograph, with nothing kept but the colour profile: without it colours would change."""
        return replace(self, metadata=Metadata())


def set_up_codecs(max_pixels: int) -> None:
    """Set what is one per process: Pillow's decompression-bomb limit behind `read_header`'s, its blocks and
    threads, and libvips."""
    Image.MAX_IMAGE_PIXELS = max_pixels
    cast(Any, Image.core).set_block_size(PILLOW_BLOCK_BYTES)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the pool of codecs has a thread for each core already
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken tags: that is the client's affair
    vips.set_up()
    heic.is_readable()


def decode(data: bytes, limits: ImageLimits) -> Photograph:
    """Decode, turn upright and split into colour and alpha.

    The EXIF orientation is applied. PNG and TIFF of 16 bits a sample stay so; palettes, CMYK and other
    samples become 8-bit RGB or greyscale; CMYK goes through its embedded profile, if it has one, to sRGB.

    Raises:
        UnsupportedFormatError: no format that is taken.
        AnimatedImageError: an animation, an image sequence or pages.
        ImageTooLargeError, ImageSideTooLongError: it is larger than `limits`.
        UndecodableImageError: broken or truncated, or of samples that are not taken.
    """
    header = read_header(data, limits)
    try:
        if header.sixteen_bits:
            return _decode_sixteen_bits(data, header, limits)
        source = BytesIO(data)
        del data
        return _decode_eight_bits(source, header, limits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Pillow's readers raise almost anything on broken bytes: OSError, SyntaxError, TypeError ...
        raise UndecodableImageError(f"broken {header.image_format.name} data: {error}") from error


def _decode_eight_bits(source: BytesIO, header: ImageHeader, limits: ImageLimits) -> Photograph:
    image_format = header.image_format
    lossless = image_format not in (JPEG, WEBP, AVIF, HEIC) or (
        image_format is WEBP and is_webp_lossless(source.getvalue())
    )
    with open_image(source, image_format, limits) as image:
        image.load()
        _check_promise(header, image.width, image.height)
        exif = metadata.exif_of(image)
        orientation = metadata.orientation_of(exif)
        width, height = _upright_size(image.width, image.height, orientation)
        if image_format is TIFF:  # Pillow turned it upright already, and forgot most of its tags at that
            exif = TiffDirectories(source.getvalue()).exif()
        kept = metadata.kept(exif, image.info, width=width, height=height)
        source.close()  # this frees the encoded bytes, unless somebody else holds them
        mode = _plain_mode(image)
        convert = _converter(image, mode)

        def read(top: int, bottom: int) -> tuple[Samples, Samples | None]:
            colour = convert(image.crop((0, top, image.width, bottom)))
            alpha = None
            if mode.endswith("A"):
                alpha = np.asarray(colour.getchannel("A"))
                # convert() from LA or RGBA drops the alpha channel and leaves the colour under it as it is
                colour = colour.convert(mode.removesuffix("A"))
            return np.asarray(colour), alpha

        pixels = np.empty((height, width, 3), np.uint8)
        alpha = np.empty((height, width), np.uint8) if mode.endswith("A") else None
        _fill(pixels, alpha, orientation, read)
        return Photograph(
            pixels=torch.as_tensor(pixels).permute(2, 0, 1),
            alpha=alpha,
            greyscale=mode in ("L", "LA"),
            lossless=lossless,
            icc_profile=None if image.mode == "CMYK" else image.info.get("icc_profile") or None,
            metadata=kept,
            image_format=image_format,
        )


def _decode_sixteen_bits(data: bytes, header: ImageHeader, limits: ImageLimits) -> Photograph:
    image_format = header.image_format
    reader = vips.SixteenBitReader(data, image_format)
    _check_promise(header, reader.width, reader.height)
    colours = 1 if reader.channels < 3 else 3
    has_alpha = reader.channels > colours
    if image_format is PNG:
        with open_image(BytesIO(data), PNG, limits) as image:
            late = None if "exif" in image.info else metadata.png_exif(data)
            info: dict[Any, Any] = dict(image.info) if late is None else {**image.info, "exif": late}
            image.info = info
            exif = metadata.exif_of(image)
    else:
        directories = TiffDirectories(data)
        exif = directories.exif()
        info = {"xmp": directories.first.get(XMP), "icc_profile": directories.first.get(ICC_PROFILE)}
        has_alpha = has_alpha and directories.integers(EXTRA_SAMPLES)[:1] != (vips.NO_ALPHA,)
        del directories
    orientation = metadata.orientation_of(exif)
    width, height = _upright_size(reader.width, reader.height, orientation)
    kept = metadata.kept(exif, info, width=width, height=height)
    icc_profile = info.get("icc_profile")
    del data, exif, info

    def read(top: int, bottom: int) -> tuple[Samples, Samples | None]:
        samples = reader.rows(top, bottom)
        colour = samples[..., 0] if colours == 1 else samples[..., :3]
        if not has_alpha:
            return colour, None
        return colour, samples[..., colours]

    pixels = np.empty((height, width, 3), np.uint16)
    alpha = np.empty((height, width), np.uint16) if has_alpha else None
    _fill(pixels, alpha, orientation, read)
    return Photograph(
        pixels=torch.as_tensor(pixels).permute(2, 0, 1),
        alpha=alpha,
        greyscale=colours == 1,
        lossless=True,
        icc_profile=icc_profile if isinstance(icc_profile, bytes) and icc_profile else None,
        metadata=kept,
        image_format=image_format,
    )


def _check_promise(header: ImageHeader, width: int, height: int) -> None:
    """What was admitted must be what is decoded. A reader may have turned the image already."""
    if {width, height} != {header.width, header.height}:
        raise UndecodableImageError(
            f"broken {header.image_format.name} data: {width}x{height} pixels instead of "
            f"{header.width}x{header.height}"
        )


def _upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if orientation in SIDEWAYS else (width, height)


def _fill(pixels: Samples, alpha: Samples | None, orientation: int, read: ReadRows) -> None:
    """Copy a stored image, strip by strip, to where it belongs when upright: `(H, W, 3)` and `(H, W)`."""
    stored_pixels = _as_stored(pixels, orientation)
    stored_alpha = None if alpha is None else _as_stored(alpha, orientation)
    height, width = stored_pixels.shape[:2]
    for top, bottom in _strips(height, width):
        colour, transparency = read(top, bottom)
        stored_pixels[top:bottom] = colour[..., None] if colour.ndim == 2 else colour
        if stored_alpha is not None and transparency is not None:
            stored_alpha[top:bottom] = transparency


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


def encode(photograph: Photograph, image_format: ImageFormat, quality: int | None = None) -> bytes:
    """Write a photograph as a file; its pixels may have been restored meanwhile (`Photograph.with_pixels`).

    Alpha, colour profile and metadata are kept, as far as the format holds them, and greyscale stays
    greyscale. JPEG and BMP hold no alpha: there the image is laid over white. What came without loss goes out
    without loss where the format can, and what has 16 bits keeps them in PNG and TIFF; elsewhere they are
    rounded to 8.

    Args:
        quality: of formats with loss, 1 to 100, also for what came without; None: `JPEG_QUALITY`.

    Raises:
        UnencodableImageError: the format cannot hold the image.
    """
    height, width = photograph.height, photograph.width
    keeps_alpha = photograph.alpha is not None and image_format.holds_alpha
    mode = ("L" if photograph.greyscale else "RGB") + ("A" if keeps_alpha else "")
    if image_format in (PNG, TIFF):
        write = vips.write_png if image_format is PNG else vips.write_tiff
        data = write(_interleaved(photograph, len(mode)), photograph.icc_profile)
        put_in = metadata.into_png if image_format is PNG else metadata.into_tiff
        return put_in(data, photograph.metadata)
    image = Image.new(mode, (width, height))
    for top, bottom in _strips(height, width):
        image.paste(_strip(photograph, mode, slice(top, bottom)), (0, top))
    options: dict[str, Any] = {}
    if image_format is JPEG:
        options = {"quality": JPEG_QUALITY, "subsampling": "4:4:4"}
    elif image_format is WEBP:
        options = dict(WEBP_LOSSLESS if photograph.lossless and quality is None else WEBP_LOSSY)
    elif image_format is AVIF:
        options = AVIF_OPTIONS | {"subsampling": "4:0:0" if mode == "L" else "4:4:4"}
    elif image_format is HEIC:
        options = dict(HEIC_OPTIONS)
    if quality is not None:
        options["quality"] = quality
    options |= metadata.save_options(photograph.metadata, image_format)
    if photograph.icc_profile is not None:
        options["icc_profile"] = photograph.icc_profile
    buffer = BytesIO()
    try:
        image.save(buffer, format=image_format.pillow_names[0], **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise UnencodableImageError(f"{image_format.name} cannot hold this image: {error}") from error
    return buffer.getvalue()


def _interleaved(photograph: Photograph, channels: int) -> Samples:
    """Samples `(H, W, C)` of 1 to 4 channels: one or three of colour, the last alpha where that makes two or
    four."""
    height, width = photograph.height, photograph.width
    pixels: Samples = photograph.pixels.permute(1, 2, 0).numpy()
    if channels == 3 and pixels.flags.c_contiguous:
        return pixels
    samples = cast(Samples, np.empty((height, width, channels), cast(Any, pixels.dtype)))
    colours = 3 if channels > 2 else 1
    for top, bottom in _strips(height, width):
        strip = pixels[top:bottom]
        samples[top:bottom, :, :colours] = strip if colours == 3 else _luma(strip)[..., None]
        if photograph.alpha is not None and channels > colours:
            samples[top:bottom, :, colours] = photograph.alpha[top:bottom]
    return samples


def _luma(strip: Samples) -> Samples:
    """One channel `(h, W)` of three `(h, W, 3)`, weighted as Pillow's conversion to L (ITU-R 601-2)."""
    weighted = strip @ np.array([19595, 38470, 7471], np.uint32)
    return cast(Samples, ((weighted + 0x8000) >> 16).astype(cast(Any, strip.dtype)))


def _strip(photograph: Photograph, mode: str, rows: slice) -> Image.Image:
    """Some rows in Pillow's `mode`: L, LA, RGB or RGBA."""
    colours = eight_bits(photograph.pixels[:, rows].permute(1, 2, 0).numpy())
    strip = Image.fromarray(np.ascontiguousarray(colours)).convert(mode.removesuffix("A"))
    if photograph.alpha is not None:
        alpha = Image.fromarray(eight_bits(photograph.alpha[rows]))
        if mode.endswith("A"):
            strip.putalpha(alpha)
        else:
            strip = Image.composite(strip, Image.new(mode, strip.size, "white"), alpha)
    return strip


def eight_bits(samples: Samples) -> npt.NDArray[np.uint8]:
    """Samples rounded to 8 bits; those of 8 bits as they are."""
    if samples.dtype == np.uint8:
        return cast(npt.NDArray[np.uint8], samples)
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of strips of about `STRIP_PIXELS`, from top to bottom."""
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations (TIFF 6.0, tag 274) of photographs stored with width and height exchanged."""

GREYSCALE = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of one colour channel."""

COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK")
"""Pillow's other modes that are taken."""


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
    """L, LA, RGB or RGBA: what an image is converted to. Pillow's 16-bit samples have no transparency.

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
    return Image.fromarray(eight_bits(np.asarray(strip).astype(np.uint16)))


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
