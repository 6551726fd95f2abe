"""How bytes are broken: at random, but by a seed, so that whatever did harm can be sent again."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

from app.formats import BMP, JPEG, PNG, TIFF, WEBP, sniff

HEAD_BYTES = 128
EXTREMES = (0, 1, 2, 0x7F, 0xFF)
SLICES = 16
"""Of a file whose parts are not known."""

PNG_SIGNATURE = 8
BOX = re.compile(
    rb"[\0-\x7f].{3}(?=ftyp|meta|hdlr|pitm|iloc|iinf|infe|iprp|ipco|ipma|ispe|pixi|av1C|hvcC|mdat)"
)
SEGMENT = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcf\xda-\xef\xfe]..")
RIFF_CHUNK = re.compile(rb"(?:RIFF|VP8 |VP8L|VP8X|ALPH|EXIF|XMP |ICCP)....", re.DOTALL)


def mutate(data: bytes, others: Sequence[bytes], chance: Random) -> tuple[str, bytes]:
    """Break a file once, or sometimes several times.

    Args:
        others: what it may be spliced with.

    Returns:
        What was done, and what came of it.
    """
    names: list[str] = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        [(name, mutation)] = chance.choices(list(MUTATIONS.items()), WEIGHTS)
        names.append(name)
        data = mutation(data, chance) if name != "splice" else _splice(data, chance.choice(others), chance)
    if sniff(data) is PNG and chance.random() < 0.7:
        data = with_checksums(data)
    return ", ".join(names), data


def _truncate(data: bytes, chance: Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _flip_bits(data: bytes, chance: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 2, 8, 64)) if data else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwrite_head(data: bytes, chance: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4) if data else 0):
        changed[chance.randrange(min(HEAD_BYTES, len(changed)))] = chance.choice(
            (0, 1, 0xFF, chance.randrange(256))
        )
    return bytes(changed)


def _rearrange(data: bytes, chance: Random) -> bytes:
    """Delete, double or swap parts."""
    parts = split(data)
    one, other = chance.randrange(len(parts)), chance.randrange(len(parts))
    match chance.randrange(4):
        case 0:
            del parts[one]
        case 1:
            parts.insert(other, parts[one])
        case 2:
            parts[one], parts[other] = parts[other], parts[one]
        case _:
            parts[one:one] = [parts[one]] * chance.choice((8, 64, 512))
    return b"".join(parts)[: 2**20]


def _lie(data: bytes, chance: Random) -> bytes:
    """A number that says how much there is says something else."""
    fields = sizes(data)
    if not fields:
        return _overwrite_head(data, chance)
    changed = bytearray(data)
    for place, width in chance.sample(fields, min(len(fields), chance.choice((1, 1, 2)))):
        half = width // 2
        lies = (
            bytes(width),
            b"\xff" * width,
            b"\x7f" + b"\xff" * (width - 1),
            b"\xff" * (width - 1) + b"\x7f",
            (1).to_bytes(width, "big"),
            (1).to_bytes(width, "little"),
            chance.randbytes(width),
            bytes(half) + chance.randbytes(width - half),
            chance.randbytes(half) + bytes(width - half),
        )
        lie = chance.choice(lies)
        changed[place : place + width] = lie
    return bytes(changed)


def _splice(data: bytes, other: bytes, chance: Random) -> bytes:
    """The beginning of one and the end of another."""
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _insert(data: bytes, chance: Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(chance.choice((1, 4, 64, 4096))) + data[place:]


MUTATIONS: dict[str, Callable[[bytes, Random], bytes]] = {
    "truncated": _truncate,
    "bits flipped": _flip_bits,
    "head overwritten": _overwrite_head,
    "parts rearranged": _rearrange,
    "sizes lie": _lie,
    "bytes inserted": _insert,
    "splice": _insert,  # which needs another file
}
WEIGHTS = (2, 4, 3, 3, 5, 1, 2)


def split(data: bytes) -> list[bytes]:
    """The parts that a file is made of: chunks, segments, boxes; else slices. At least one."""
    places = sorted({0, *_part_starts(data)}) if data else [0]
    if len(places) < 3:
        step = max(1, len(data) // SLICES)
        places = list(range(0, max(1, len(data)), step))
    return [data[start:end] for start, end in zip(places, [*places[1:], len(data)], strict=True)]


def sizes(data: bytes) -> list[tuple[int, int]]:
    """Places and widths of the numbers in a file that say how large something is, or where."""
    image_format = sniff(data)
    starts = _part_starts(data)
    if image_format is PNG:
        return [(start, 4) for start in starts] + [(16, 4), (20, 4), (24, 1), (25, 1), (28, 1)]
    if image_format is JPEG:
        frames = [start for start in starts if data[start + 1] in (0xC0, 0xC1, 0xC2)]
        return [(start + 2, 2) for start in starts] + [
            (start + offset, 2) for start in frames for offset in (5, 7)
        ]
    if image_format is WEBP:
        return [(start + 4, 4) for start in starts] + [(24, 3), (27, 3), (26, 2), (28, 2), (21, 4)]
    if image_format is BMP:
        return [(2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4)]
    if image_format is TIFF:
        return [(4, 4)] + [(start + offset, 4) for start in starts for offset in (0, 4, 8)]
    boxes = [(start, 4) for start in starts]
    return boxes + [(start + 12, 4) for start in starts] + [
        (start + 16, 4) for start in starts if data[start + 4 : start + 8] == b"ispe"
    ]  # fmt: skip


def _part_starts(data: bytes) -> list[int]:
    image_format = sniff(data)
    if image_format is PNG:
        return _png_chunks(data)
    if image_format is TIFF:
        return _tiff_entries(data)
    pattern = {JPEG: SEGMENT, WEBP: RIFF_CHUNK}.get(image_format, BOX) if image_format else BOX
    return [found.start() for found in pattern.finditer(data)]


def _png_chunks(data: bytes) -> list[int]:
    starts: list[int] = []
    place = PNG_SIGNATURE
    while place + 12 <= len(data):
        starts.append(place)
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return starts


def _tiff_entries(data: bytes) -> list[int]:
    """Of the first directory."""
    if len(data) < 8 or data[2:4] not in (b"*\0", b"\0*"):
        return list(range(16, min(len(data), 400), 20))  # a BigTIFF whose directory comes first
    order = "<" if data[:2] == b"II" else ">"
    [place] = struct.unpack_from(f"{order}I", data, 4)
    if place + 2 > len(data):
        return []
    [count] = struct.unpack_from(f"{order}H", data, place)
    return [start for start in range(place + 2, place + 2 + 12 * count, 12) if start + 12 <= len(data)]


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums that they should: else most of it is never looked at."""
    changed = bytearray(data)
    for start in _png_chunks(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 <= len(data):
            changed[end : end + 4] = struct.pack(">I", zlib.crc32(data[start + 4 : end]))
    return bytes(changed)
