"""The sizes of pictures coded in AV1, read from their sequence headers before anything is decoded.

An AVIF says in its boxes how large its picture is, and decoders compare only when they have decoded: a file
of a kilobyte could make them take the memory of 16384x16384 pixels. No library tells this size apart.
"""

import re
from collections.abc import Iterator

INFE_2 = re.compile(rb"infe\x02.{3}(.{2}).{2}av01", re.DOTALL)
INFE_3 = re.compile(rb"infe\x03.{3}(.{4}).{2}av01", re.DOTALL)
"""Entries of items that are coded in AV1 (ISO/IEC 14496-12, 8.11.6)."""

SEQUENCE_HEADER = 1
"""Type of an open bitstream unit (AV1 specification, 6.2.2)."""


class BrokenError(ValueError):
    """The boxes or the bitstream cannot be followed."""


def coded_sizes(data: bytes) -> list[tuple[int, int]]:
    """Width and height that each sequence header of each picture in an AVIF allows.

    Raises:
        BrokenError: a picture has none, or cannot be found.
    """
    try:
        meta = _box(data, 0, len(data), b"meta")
        meta = (meta[0] + 4, meta[1])  # a full box: version and flags
        wanted = {
            int.from_bytes(found[1], "big")
            for pattern in (INFE_2, INFE_3)
            for found in pattern.finditer(data, *meta)
        }
        sizes: list[tuple[int, int]] = []
        for item, content in _items(data, meta, wanted):
            found = list(_sequence_headers(content))
            if not found:
                raise BrokenError(f"item {item} has no sequence header")
            sizes += found
            wanted.discard(item)
    except (IndexError, OverflowError) as error:
        raise BrokenError("the boxes end too early") from error
    if wanted or not sizes:
        raise BrokenError("a picture has no place")
    return sizes


def _box(data: bytes, start: int, end: int, kind: bytes) -> tuple[int, int]:
    """First and last byte (exclusive) of the content of the first such box."""
    while start + 8 <= end:
        size, head = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = end - start
        if size < head:
            break
        if data[start + 4 : start + 8] == kind:
            return start + head, min(start + size, end)
        start += size
    raise BrokenError(f"no box {kind!r}")


def _items(data: bytes, meta: tuple[int, int], wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """The wanted items and their bytes (item location box, ISO/IEC 14496-12, 8.11.3)."""
    place, _ = _box(data, *meta, b"iloc")

    def take(count: int) -> int:
        nonlocal place
        if place + count > meta[1]:
            raise BrokenError("the item location box ends too early")
        place += count
        return int.from_bytes(data[place - count : place], "big")

    version = take(4) >> 24
    widths = take(2)
    offset_bytes, length_bytes, base_bytes = widths >> 12, widths >> 8 & 15, widths >> 4 & 15
    index_bytes = widths & 15 if version in (1, 2) else 0
    room = 4 * len(data)
    for _ in range(take(4 if version == 2 else 2)):
        item = take(4 if version == 2 else 2)
        method = take(2) & 15 if version in (1, 2) else 0
        take(2)  # the data reference
        base = take(base_bytes)
        parts: list[bytes] = []
        for _ in range(take(2)):
            take(index_bytes)
            start, length = base + take(offset_bytes), take(length_bytes)
            if item in wanted:
                if method == 1:
                    start += _box(data, *meta, b"idat")[0]
                elif method:
                    raise BrokenError("items made of other items are not followed")
                part = data[start : start + length] if length else data[start:]
                room -= len(part)
                if room < 0:
                    raise BrokenError("the pictures are longer than the file")
                parts.append(part)
        if item in wanted:
            yield item, b"".join(parts)


def _sequence_headers(content: bytes) -> Iterator[tuple[int, int]]:
    """The sizes in all sequence headers of a bitstream (AV1 specification, 5.3 and 5.5)."""
    place = 0
    while place < len(content):
        first = content[place]
        kind, extended, sized = first >> 3 & 15, first >> 2 & 1, first >> 1 & 1
        place += 1 + extended
        size = len(content) - place
        if sized:
            size = 0
            for shift in range(0, 56, 7):  # leb128
                byte = content[place]
                place += 1
                size |= (byte & 127) << shift
                if not byte & 128:
                    break
        if kind == SEQUENCE_HEADER:
            yield _allowed_size(content[place : place + min(size, 64)])
        place += size


def _allowed_size(header: bytes) -> tuple[int, int]:
    """The width and the height that frames can have under a sequence header (AV1 specification, 5.5.1)."""
    bits, left = int.from_bytes(header, "big"), 8 * len(header)

    def take(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise BrokenError("a sequence header ends too early")
        return bits >> left & (1 << count) - 1

    take(4)  # profile, still picture
    if take(1):  # reduced still picture header
        take(5)
    else:
        model, delays = 0, 0
        if take(1):  # timing info
            take(64)
            if take(1):  # equal picture interval: uvlc
                zeros = 0
                while not take(1):
                    zeros += 1
                take(zeros if zeros < 32 else 0)
            model = take(1)
            if model:
                delays = take(5) + 1
                take(42)
        shown = take(1)
        for _ in range(take(5) + 1):  # operating points
            take(12)
            if take(5) > 7:
                take(1)
            if model and take(1):
                take(2 * delays + 1)
            if shown and take(1):
                take(4)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    return take(width_bits) + 1, take(height_bits) + 1
