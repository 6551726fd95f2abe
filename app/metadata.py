"""What a file says about a photograph beside its pixels: EXIF, XMP, a comment; and which way is up."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

from PIL import ExifTags, Image, ImageFile, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from app.formats import AVIF, HEIC, JPEG, WEBP, ImageFormat

STRUCTURE = frozenset(
    {
        *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293),
        *(301, 317, 320, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 342, 347, 513, 514, 529, 530, 531),
        *(532, 559, 700, 33723, 34377, 34675, 50341),
    }
)
"""Tags that tell how pixels were stored, the orientation among them, or that hold XMP, IPTC, Photoshop's
blocks or the colour profile: not true of the restored file, or kept elsewhere (TIFF 6.0, EXIF 2.32)."""

PIXEL_X_DIMENSION, PIXEL_Y_DIMENSION = 0xA002, 0xA003
EXTRA_SAMPLES, XMP, ICC_PROFILE = 338, 700, 34675
"""Tags of EXIF and of TIFF."""

EXIF_NAME = b"Exif\0\0"
PNG_XMP, PNG_COMMENT = "XML:com.adobe.xmp", "Comment"
PNG_IHDR_END = 33
"""Bytes of a PNG up to the end of its first chunk."""

JPEG_SEGMENT = 65533
"""Most bytes of EXIF, or of a comment, in a JPEG; XMP shares them with its name."""

JPEG_XMP = JPEG_SEGMENT - len(b"http://ns.adobe.com/xap/1.0/\0")

XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[2-8]""")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is kept of a file; none of it changes how pixels look.

    Attributes:
        exif: EXIF with its leading `Exif\\0\\0`. Without orientation, which is applied; without thumbnail,
            which shows the rain.
        xmp: an XMP packet, whose orientation is "as it is".
        comment: of a JPEG or a PNG.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    comment: bytes | None = None


def exif_of(image: ImageFile.ImageFile) -> Image.Exif:
    """The EXIF block of an image, as far as it was read; an empty one where it is broken. Decodes nothing."""
    try:
        if isinstance(image, PngImagePlugin.PngImageFile):
            return Image.Image.getexif(image)  # its own would decode the image to see what follows the pixels
        return image.getexif()
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block says nothing about the pixels
        return Image.Exif()


def orientation_of(exif: Image.Exif) -> int:
    """The EXIF orientation, 1 to 8; 1, as it is, where none or nonsense is given."""
    try:
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def kept(exif: Image.Exif, info: Mapping[Any, Any], *, width: int, height: int) -> Metadata:
    """What is kept of EXIF and of Pillow's `info`; what is broken is left out.

    Args:
        width, height: of the upright photograph, in pixels.
    """
    xmp = _bytes(info.get("xmp") or info.get(PNG_XMP))
    return Metadata(
        exif=_kept_exif(exif, width, height),
        xmp=XMP_ORIENTATION.sub(rb"\g<1>1", xmp.rstrip(b"\0")) or None,
        comment=_bytes(info.get("comment") or info.get(PNG_COMMENT)) or None,
    )


def _bytes(value: object) -> bytes:
    """What Pillow's readers give as bytes here and as text there; empty for anything else."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return value if isinstance(value, bytes) else b""


def save_options(metadata: Metadata, image_format: ImageFormat) -> dict[str, Any]:
    """Pillow's options that write metadata into JPEG, WebP, AVIF and HEIC, as far as they hold it."""
    options: dict[str, Any] = {}
    jpeg, boxes = image_format is JPEG, image_format in (WEBP, AVIF, HEIC)
    if metadata.exif is not None and (boxes or (jpeg and len(metadata.exif) <= JPEG_SEGMENT)):
        options["exif"] = metadata.exif
    if metadata.xmp is not None and (boxes or (jpeg and len(metadata.xmp) <= JPEG_XMP)):
        options["xmp"] = metadata.xmp
    if metadata.comment is not None and jpeg:
        options["comment"] = metadata.comment[:JPEG_SEGMENT]
    return options


def into_png(data: bytes, metadata: Metadata) -> bytes:
    """A PNG with metadata in chunks of its own, right after IHDR."""
    info = PngImagePlugin.PngInfo()
    if metadata.exif is not None:
        info.add(b"eXIf", metadata.exif.removeprefix(EXIF_NAME))
    if metadata.xmp is not None:
        info.add_itxt(PNG_XMP, metadata.xmp)
    if metadata.comment is not None:
        info.add_text(PNG_COMMENT, metadata.comment)
    if not info.chunks:
        return data
    chunks = BytesIO()
    for kind, content, _ in info.chunks:
        PngImagePlugin.putchunk(chunks, kind, content)
    whole = memoryview(data)
    return b"".join((whole[:PNG_IHDR_END], chunks.getbuffer(), whole[PNG_IHDR_END:]))


def into_tiff(data: bytes, metadata: Metadata) -> bytes:
    """A TIFF of one directory with metadata among its tags.

    Neither libvips nor Pillow's use of libtiff writes the directories of EXIF, so the directory is written
    anew behind the file: its entries as they are, and those that Pillow makes of the metadata.
    """
    if metadata.exif is None and metadata.xmp is None:
        return data
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    place = int.from_bytes(data[4:8], order)
    start = place + 2
    entries = [
        data[start + 12 * i : start + 12 * i + 12] for i in range(int.from_bytes(data[place:start], order))
    ]
    end = len(data) + len(data) % 2
    # behind as many entries more, so that what the new entries point to lies where they say
    added = _tiff_tags(metadata, data[:8]).tobytes(end + 12 * len(entries))
    count = int.from_bytes(added[:2], order)
    of_metadata = {added[2 + 12 * i : 4 + 12 * i]: added[2 + 12 * i : 14 + 12 * i] for i in range(count)}
    kept = {entry[:2]: entry for entry in entries if entry[:2] not in of_metadata}
    # an entry that is replaced leaves its room at the end of the directory
    room = bytes(12 * (len(entries) - len(kept)))
    merged = kept | of_metadata
    return b"".join(
        (
            data[:4],
            end.to_bytes(4, order),
            memoryview(data)[8:],
            bytes(end - len(data)),
            len(merged).to_bytes(2, order),
            *(merged[tag] for tag in sorted(merged, key=lambda tag: int.from_bytes(tag, order))),
            bytes(4),
            room,
            added[2 + 12 * count + 4 :],
        )
    )


def _tiff_tags(metadata: Metadata, head: bytes) -> ImageFileDirectory_v2:
    """Metadata as a directory in the byte order of a TIFF's first eight bytes."""
    directory = ImageFileDirectory_v2(head)
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(metadata.exif)
    for tag in exif:
        directory[tag] = exif[tag]
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            inner: dict[int, Any] = dict(exif.get_ifd(tag))
            if ExifTags.IFD.Interop in inner:
                inner[ExifTags.IFD.Interop] = exif.get_ifd(ExifTags.IFD.Interop)
            directory[tag] = inner
    if metadata.xmp is not None:
        directory[XMP] = metadata.xmp
    return directory


def png_exif(data: bytes) -> bytes | None:
    """The eXIf chunk of a PNG, which may follow the pixels, as EXIF with its leading `Exif\\0\\0`; None where
    there is none."""
    offset = 8
    while offset + 8 <= len(data):
        length, kind = int.from_bytes(data[offset : offset + 4], "big"), data[offset + 4 : offset + 8]
        if kind == b"eXIf":
            return EXIF_NAME + data[offset + 8 : offset + 8 + length]
        offset += 12 + length
    return None


def _kept_exif(exif: Image.Exif, width: int, height: int) -> bytes | None:
    try:
        for tag in STRUCTURE.intersection(exif):
            del exif[tag]
        if ExifTags.IFD.Exif in exif:
            details = exif.get_ifd(ExifTags.IFD.Exif)
            for tag, length in ((PIXEL_X_DIMENSION, width), (PIXEL_Y_DIMENSION, height)):
                if tag in details:
                    details[tag] = length
        exif.bigtiff = False
        return exif.tobytes() if len(exif) else None
    except MemoryError:
        raise
    except Exception:  # Pillow's parser raises almost anything on broken values
        return None
