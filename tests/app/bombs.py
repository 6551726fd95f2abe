"""Makes small files that ask for much memory."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import tifffile
from PIL import Image

MIB = 2**20


def chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG, with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose pixels are there only as far as `chunks` bring them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def zeros(megabytes: int) -> bytes:
    """So many megabytes of nothing, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(megabytes)) + packer.flush()


def webp(width: int, height: int) -> bytes:
    """An extended WebP of this canvas around a picture of 16x16."""
    buffer = BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "WEBP", lossless=True)
    picture = buffer.getvalue()[12:]
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    extended += struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    content = b"WEBP" + extended + picture
    return b"RIFF" + struct.pack("<I", len(content)) + content


def tiff(folder: Path, samples: Any, changes: dict[int, int], **options: Any) -> bytes:
    """A TIFF in whose header some values (tag -> value) were changed after it was written."""
    path = folder / "made.tif"
    tifffile.imwrite(path, samples, metadata=None, **options)
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag, value in changes.items():
            file.pages.first.tags[tag].overwrite(value)
    return path.read_bytes()


def ispe(data: bytes, width: int, height: int) -> bytes:
    """An AVIF or HEIC that declares another size."""
    place = data.index(b"ispe") + 8
    return data[:place] + struct.pack(">II", width, height) + data[place + 8 :]
