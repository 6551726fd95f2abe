"""Samples of 16 bits. Were these wrong, skies and shadows of photographs made for editing would come back in
steps."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pyvips
import tifffile
import torch
from PIL import Image

from app import image_headers, images
from app.formats import AVIF, BMP, JPEG, PNG, TIFF, WEBP, ImageFormat, UndecodableImageError
from app.image_headers import ImageLimits
from app.images import Photograph

Samples = npt.NDArray[np.uint16]

PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Colour types by channels (PNG specification, table 11.1)."""

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column, step of rows and of columns of each pass."""


def noise(channels: int, height: int = 22, width: int = 37) -> Samples:
    return np.random.default_rng(channels).integers(0, 65536, (height, width, channels), dtype=np.uint16)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: Samples, *, interlaced: bool = False, before: bytes = b"", after: bytes = b"") -> bytes:
    """Written by hand, as Pillow writes 16 bits of greyscale only; chunks `before` and `after` the pixels."""
    height, width, channels = samples.shape
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes()
        for top, left, down, right in passes
        for row in samples[top::down, left::right]
        if row.size
    )
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOURS[channels], 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(rows))
        + after
        + chunk(b"IEND", b"")
    )


def tiff(samples: Samples, **options: Any) -> bytes:
    """Written by tifffile, uncompressed."""
    buffer = BytesIO()
    channels = samples.shape[2]
    written: dict[str, Any] = {
        "photometric": "rgb" if channels > 2 else "minisblack",
        "extrasamples": ["unassalpha"] if channels in (2, 4) else None,
        "metadata": None,
    }
    tifffile.imwrite(buffer, samples[..., 0] if channels == 1 else samples, **written | options)
    return buffer.getvalue()


def read(data: bytes) -> Samples:
    """Samples `(H, W, C)` of an answer, by other code than the service's own."""
    if data[:2] in (b"II", b"MM"):
        samples = pyvips.Image.tiffload_buffer(data).numpy()
    else:
        samples = pyvips.Image.pngload_buffer(data).numpy()
    return samples[..., None] if samples.ndim == 2 else samples


def alpha_of(photograph: Photograph) -> npt.NDArray[Any]:
    assert photograph.alpha is not None
    return photograph.alpha


@pytest.fixture
def decode(limits: ImageLimits) -> Callable[[bytes], Photograph]:
    return lambda data: images.decode(data, limits)


Decode = Callable[[bytes], Photograph]


class TestDecoding:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize(
        "write",
        [
            png,
            lambda samples: png(samples, interlaced=True),
            tiff,
            lambda samples: tiff(samples, byteorder=">"),
            lambda samples: tiff(samples, tile=(16, 16)),
            lambda samples: tiff(samples, rowsperstrip=5),
            lambda samples: tiff(samples, bigtiff=True),
        ],
        ids=["png", "interlaced", "tiff", "big-endian", "tiles", "strips", "bigtiff"],
    )
    def test_every_bit_arrives(
        self, decode: Decode, limits: ImageLimits, write: Callable[[Samples], bytes], channels: int
    ) -> None:
        samples = noise(channels)
        data = write(samples)
        header = image_headers.read_header(data, limits)
        assert (header.width, header.height, header.sample_bytes) == (37, 22, 2)
        photograph = decode(data)
        assert photograph.pixels.dtype == torch.uint16
        assert photograph.greyscale == (channels < 3)
        colour = samples[..., : 3 if channels > 2 else 1]
        assert np.array_equal(
            photograph.pixels.permute(1, 2, 0).numpy(), np.broadcast_to(colour, (22, 37, 3))
        )
        if channels in (2, 4):
            assert np.array_equal(alpha_of(photograph), samples[..., -1])
        else:
            assert photograph.alpha is None

    @pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
    @pytest.mark.parametrize("place", ["before", "after", "tiff"])
    def test_the_orientation_is_applied(
        self, decode: Decode, orientation: int, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.images.STRIP_PIXELS", 3 * 37)
        samples = noise(4)
        undo: dict[int, Callable[[Samples], Samples]] = {
            1: lambda upright: upright,
            2: lambda upright: upright[:, ::-1],
            3: lambda upright: upright[::-1, ::-1],
            4: lambda upright: upright[::-1],
            5: lambda upright: upright.swapaxes(0, 1),
            6: lambda upright: np.rot90(upright),
            7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
            8: lambda upright: np.rot90(upright, -1),
        }
        stored = np.ascontiguousarray(undo[orientation](samples))
        if place == "tiff":
            data = tiff(stored, extratags=[(274, "H", 1, orientation, True)])
        else:
            exif = Image.Exif()
            exif[274] = orientation
            told = chunk(b"eXIf", exif.tobytes()[6:])
            data = png(stored, before=told) if place == "before" else png(stored, after=told)
        photograph = decode(data)
        assert np.array_equal(photograph.pixels.permute(1, 2, 0).numpy(), samples[..., :3])
        assert np.array_equal(alpha_of(photograph), samples[..., 3])
        again = decode(images.encode(photograph, photograph.image_format))
        assert torch.equal(again.pixels, photograph.pixels)

    def test_one_transparent_grey_becomes_alpha(self, decode: Decode) -> None:
        samples = np.array([[[0], [257], [65535]]], np.uint16)
        photograph = decode(png(samples, before=chunk(b"tRNS", (257).to_bytes(2, "big"))))
        assert photograph.pixels[0].tolist() == [[0, 257, 65535]]
        assert photograph.alpha is not None
        assert photograph.alpha.tolist() == [[65535, 0, 65535]]

    def test_colour_that_was_multiplied_with_alpha_is_not_darkened(self, decode: Decode) -> None:
        samples = noise(4)
        samples[..., 3] = np.maximum(samples[..., 3], 32768)
        alpha = samples[..., 3:].astype(np.uint64)
        multiplied = samples.copy()
        multiplied[..., :3] = samples[..., :3] * alpha // 65535
        photograph = decode(tiff(multiplied, extrasamples=["assocalpha"]))
        error = photograph.pixels.permute(1, 2, 0).numpy().astype(int) - samples[..., :3]
        assert np.abs(error).max() <= 2
        assert np.array_equal(alpha_of(photograph), samples[..., 3])

    def test_a_fourth_channel_of_no_meaning_is_not_taken_for_alpha(self, decode: Decode) -> None:
        photograph = decode(tiff(noise(4), extrasamples=["unspecified"]))
        assert photograph.alpha is None

    def test_white_may_be_zero(self, decode: Decode) -> None:
        samples = noise(1)
        photograph = decode(tiff(samples, photometric="miniswhite"))
        assert np.array_equal(photograph.pixels[0].numpy(), 65535 - samples[..., 0])

    @pytest.mark.parametrize("write", [png, tiff])
    def test_a_truncated_file_is_refused(self, decode: Decode, write: Callable[[Samples], bytes]) -> None:
        data = write(noise(3, 64, 64))
        with pytest.raises(UndecodableImageError):
            decode(data[: len(data) // 2])

    @pytest.mark.parametrize("write", [png, tiff])
    def test_any_broken_byte_gives_an_image_or_a_refusal(
        self, decode: Decode, write: Callable[[Samples], bytes]
    ) -> None:
        data = write(noise(4))
        random = np.random.default_rng(1)
        for _ in range(300):
            broken = bytearray(data)
            # most of the file are pixels; what can be misunderstood is at its ends
            for position in random.integers(-300, 100, random.integers(1, 6)):
                broken[position] = random.integers(256)
            try:
                photograph = decode(bytes(broken))
            except images.ImageError:
                continue
            assert photograph.pixels.shape == (3, photograph.height, photograph.width)


class TestEncoding:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("image_format", [PNG, TIFF], ids=lambda item: item.name)
    @pytest.mark.parametrize("write", [png, tiff])
    def test_sixteen_bits_go_back_as_sixteen_bits(
        self,
        decode: Decode,
        write: Callable[[Samples], bytes],
        image_format: ImageFormat,
        channels: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        samples = noise(channels)
        photograph = decode(write(samples))
        data = images.encode(photograph, image_format)
        assert np.array_equal(read(data), samples)
        monkeypatch.setattr("app.images.STRIP_PIXELS", 3 * 37)
        assert images.encode(photograph, image_format) == data, "a seam between strips"

    def test_tifffile_reads_what_is_written(self, decode: Decode) -> None:
        data = images.encode(decode(png(noise(3))), TIFF)
        with tifffile.TiffFile(BytesIO(data)) as file:
            assert (file.pages[0].dtype, file.pages[0].shape) == (np.uint16, (22, 37, 3))

    @pytest.mark.parametrize("image_format", [JPEG, WEBP, AVIF, BMP], ids=lambda item: item.name)
    def test_where_there_are_eight_bits_they_are_rounded(
        self, decode: Decode, reopen: Callable[[bytes], Image.Image], image_format: ImageFormat
    ) -> None:
        levels = np.array([[0, 128, 129, 32895, 65406, 65407, 65535]], np.uint16)
        samples = np.repeat(np.repeat(levels, 8, 0), 16, 1)[..., None]
        back = np.asarray(reopen(images.encode(decode(png(samples)), image_format)).convert("L"))
        expected = np.array([0, 0, 1, 128, 254, 255, 255])
        # WebP and BMP are exact here; of the others only the level can be told
        tolerance = 0 if image_format in (WEBP, BMP) else 1
        assert np.abs(back[4, 8::16].astype(int) - expected).max() <= tolerance

    def test_alpha_is_rounded_with_the_colour(
        self, decode: Decode, reopen: Callable[[bytes], Image.Image]
    ) -> None:
        samples = noise(4)
        back = np.asarray(reopen(images.encode(decode(png(samples)), WEBP)))
        assert np.array_equal(back[..., 3], (samples[..., 3].astype(int) + 128) // 257)

    def test_greyscale_that_the_network_tinted_is_grey_again(self, decode: Decode) -> None:
        photograph = decode(png(np.full((8, 8, 1), 30000, np.uint16)))
        tinted = torch.tensor([30010, 30000, 29990], dtype=torch.int32).to(torch.uint16)
        tinted = tinted[:, None, None].expand(3, 8, 8)
        back = read(images.encode(photograph.with_pixels(tinted), PNG))
        assert np.unique(back).tolist() == [round((30010 * 19595 + 30000 * 38470 + 29990 * 7471) / 65536)]
