"""AVIF and HEIC, and what is refused by its header. Were these wrong, photographs of telephones would not be
taken, animations would come back as one picture, or a header could ask for all memory there is."""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import pyvips
from PIL import Image

from app import av1, formats, heic, image_headers, images
from app.formats import AVIF, BMP, FORMATS, HEIC, JPEG, PNG, TIFF, WEBP, ImageFormat, sniff
from app.image_headers import ImageLimits
from app.images import Photograph

Scene = Callable[..., Image.Image]
Save = Callable[..., bytes]
Reopen = Callable[[bytes], Image.Image]
Decode = Callable[[bytes], Photograph]


def name(image_format: ImageFormat) -> str:
    return image_format.name


def ftyp(*brands: bytes) -> bytes:
    boxes = brands[0] + bytes(4) + b"".join(brands[1:])
    return (8 + len(boxes)).to_bytes(4, "big") + b"ftyp" + boxes


@pytest.fixture
def decode(limits: ImageLimits) -> Decode:
    return lambda data: images.decode(data, limits)


class TestSniffing:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (ftyp(b"avif", b"mif1", b"miaf"), AVIF),
            (ftyp(b"mif1", b"avif"), AVIF),
            (ftyp(b"avis", b"msf1"), AVIF),
            (ftyp(b"heic", b"mif1"), HEIC),
            (ftyp(b"heix"), HEIC),
            (ftyp(b"mif1", b"heic"), HEIC),
            (ftyp(b"msf1", b"hevc"), HEIC),
            (ftyp(b"isom", b"mp41"), None),
            (ftyp(b"qt  "), None),
            (b"\0\0\0\x08ftyp", None),
            (b"II+\0", TIFF),
        ],
    )
    def test_brands_tell_photographs_from_films(self, data: bytes, expected: ImageFormat | None) -> None:
        assert sniff(data) is expected


class TestAVIF:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
    def test_it_comes_and_goes_with_its_channels(
        self, scene: Scene, save: Save, decode: Decode, reopen: Reopen, mode: str
    ) -> None:
        image = scene(mode)
        sent = save(image, AVIF, quality=100, subsampling="4:0:0" if mode == "L" else "4:4:4")
        photograph = decode(sent)
        assert photograph.greyscale == (mode == "L")
        back = reopen(images.encode(photograph, AVIF))
        assert (back.format, back.mode) == ("AVIF", mode)
        assert np.abs(np.asarray(back).astype(int) - np.asarray(image)).mean() < 3

    def test_its_alpha_is_not_touched(self, scene: Scene, save: Save, decode: Decode, reopen: Reopen) -> None:
        image = scene("RGBA")
        back = reopen(images.encode(decode(save(image, PNG)), AVIF))
        assert np.array_equal(np.asarray(back)[..., 3], np.asarray(image)[..., 3])

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_its_orientation_is_applied_once(
        self, scene: Scene, save: Save, decode: Decode, reopen: Reopen, orientation: int
    ) -> None:
        undo = [
            None,
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_90,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_270,
        ][orientation - 1]
        exif = Image.Exif()
        exif[274] = orientation
        stored = scene() if undo is None else scene().transpose(undo)
        photograph = decode(save(stored, AVIF, quality=100, subsampling="4:4:4", exif=exif))
        difference = photograph.pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(scene())
        assert np.abs(difference).mean() < 3
        assert reopen(images.encode(photograph, AVIF)).getexif().get(274, 1) == 1

    def test_its_colour_profile_is_kept(
        self, scene: Scene, save: Save, decode: Decode, reopen: Reopen, icc: bytes
    ) -> None:
        photograph = decode(save(scene(), AVIF, icc_profile=icc))
        assert reopen(images.encode(photograph, AVIF)).info["icc_profile"] == icc

    def test_it_is_lossy_so_its_answers_as_webp_are_too(
        self, scene: Scene, save: Save, decode: Decode
    ) -> None:
        assert not decode(save(scene(), AVIF)).lossless


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the extra were not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic.is_readable.cache_clear()
    yield
    heic.is_readable.cache_clear()


class TestHEIC:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
    def test_it_comes_and_goes_with_its_channels(
        self, scene: Scene, save: Save, decode: Decode, reopen: Reopen, mode: str
    ) -> None:
        photograph = decode(save(scene(mode), HEIC, quality=100))
        assert photograph.greyscale == (mode == "L")
        back = reopen(images.encode(photograph, HEIC))
        assert (back.format, back.mode) == ("HEIF", mode)
        assert np.abs(np.asarray(back).astype(int) - np.asarray(scene(mode))).mean() < 8

    def test_what_telephones_write_is_turned_upright_once(
        self, scene: Scene, save: Save, decode: Decode, reopen: Reopen
    ) -> None:
        exif = Image.Exif()
        exif[274] = 6
        turned = scene(width=64, height=48).transpose(Image.Transpose.ROTATE_90)
        photograph = decode(save(turned, HEIC, exif=exif.tobytes()))
        difference = photograph.pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(
            scene(width=64, height=48)
        )
        assert np.abs(difference).mean() < 8
        assert reopen(images.encode(photograph, JPEG)).getexif().get(274, 1) == 1

    def test_the_primary_one_of_several_is_taken(self, scene: Scene, save: Save, decode: Decode) -> None:
        companion = Image.new("RGB", (64, 48), "red")
        data = save(scene(), HEIC, save_all=True, append_images=[companion], primary_index=0)
        assert (decode(data).width, decode(data).height) == (37, 22)

    @pytest.mark.usefixtures("without_heif")
    def test_without_the_extra_the_refusal_says_which_one(self, limits: ImageLimits) -> None:
        with pytest.raises(formats.UnsupportedFormatError, match=r"tvi-derain\[heif\]"):
            image_headers.read_header(ftyp(b"heic", b"mif1"), limits)
        assert heic.answer_format(HEIC) is JPEG

    def test_where_it_cannot_be_written_it_goes_back_as_jpeg(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert heic.answer_format(HEIC) is HEIC
        assert heic.answer_format(PNG) is PNG
        monkeypatch.delitem(Image.SAVE, "HEIF")
        assert heic.answer_format(HEIC) is JPEG


class TestAnimations:
    @pytest.fixture
    def frames(self) -> list[Image.Image]:
        return [Image.new("RGB", (16, 16), colour) for colour in ("red", "green")]

    @pytest.mark.parametrize("image_format", [PNG, WEBP, TIFF, AVIF], ids=name)
    def test_they_are_refused_for_what_they_are(
        self, save: Save, frames: list[Image.Image], limits: ImageLimits, image_format: ImageFormat
    ) -> None:
        data = save(frames[0], image_format, save_all=True, append_images=frames[1:])
        with pytest.raises(formats.AnimatedImageError, match=r"animated|several pages"):
            image_headers.read_header(data, limits)

    def test_an_image_sequence_of_heic_is_refused(
        self, scene: Scene, save: Save, limits: ImageLimits
    ) -> None:
        data = save(scene(), HEIC).replace(b"ftypheic", b"ftyphevc", 1)
        with pytest.raises(formats.AnimatedImageError):
            image_headers.read_header(data, limits)

    def test_one_frame_is_a_picture(self, save: Save, frames: list[Image.Image], decode: Decode) -> None:
        for image_format in (PNG, WEBP, TIFF, AVIF):
            assert decode(save(frames[0], image_format, save_all=True)).width == 16

    def test_a_smaller_version_in_a_tiff_is_no_page(
        self, save: Save, frames: list[Image.Image], decode: Decode
    ) -> None:
        data = bytearray(save(frames[0], TIFF, save_all=True, append_images=[frames[1]]))
        first = int.from_bytes(data[4:8], "little")
        count = int.from_bytes(data[first : first + 2], "little")
        second = int.from_bytes(data[first + 2 + 12 * count : first + 6 + 12 * count], "little")
        # the second directory's first entry becomes NewSubfileType: a reduced version
        data[second + 2 : second + 14] = bytes.fromhex("fe00 0400 01000000 01000000")
        assert decode(bytes(data)).pixels[0, 0, 0] == 255

    def test_directories_without_end_are_refused(self, save: Save, limits: ImageLimits) -> None:
        frames = [Image.new("L", (2, 2))] * (image_headers.MAX_DIRECTORIES + 2)
        data = bytearray(save(frames[0], TIFF, save_all=True, append_images=frames[1:]))
        place = int.from_bytes(data[4:8], "little")
        while place:
            count = int.from_bytes(data[place : place + 2], "little")
            data[place + 2 : place + 14] = bytes.fromhex("fe00 0400 01000000 01000000")
            data[place + 14 : place + 26] = bytes.fromhex("0001 0400 01000000 02000000")
            data[place + 26 : place + 38] = bytes.fromhex("0101 0400 01000000 02000000")
            place = int.from_bytes(data[place + 2 + 12 * count : place + 6 + 12 * count], "little")
        with pytest.raises(formats.AnimatedImageError):
            image_headers.read_header(bytes(data), limits)


class TestSides:
    @pytest.mark.parametrize("image_format", [JPEG, PNG, WEBP, BMP, TIFF, AVIF, HEIC], ids=name)
    @pytest.mark.parametrize("size", [(101, 20), (20, 101)])
    def test_a_long_side_is_refused_with_its_limit(
        self, scene: Scene, save: Save, image_format: ImageFormat, size: tuple[int, int]
    ) -> None:
        data = save(scene("RGB", *size), image_format)
        assert image_headers.read_header(data, ImageLimits(10_000, side=101)).pixels == 2020
        with pytest.raises(formats.ImageSideTooLongError) as refused:
            image_headers.read_header(data, ImageLimits(10_000, side=100))
        assert (refused.value.side, refused.value.limit) == (101, 100)

    @pytest.mark.parametrize("image_format", list(FORMATS.values()), ids=name)
    def test_pixels_are_limited_in_every_format(
        self, scene: Scene, save: Save, image_format: ImageFormat
    ) -> None:
        data = save(scene("RGB", 50, 41), image_format)
        with pytest.raises(formats.ImageTooLargeError) as refused:
            image_headers.read_header(data, ImageLimits(2049))
        assert (refused.value.pixels, refused.value.limit) == (2050, 2049)

    @pytest.mark.parametrize("image_format", [AVIF, HEIC], ids=name)
    def test_a_header_that_its_decoder_would_not_believe_is_refused_by_its_size(
        self, scene: Scene, save: Save, limits: ImageLimits, image_format: ImageFormat
    ) -> None:
        data = bytearray(save(scene(), image_format))
        place = data.index(b"ispe") + 8
        data[place : place + 8] = (4_000_000_000).to_bytes(4, "big") * 2
        with pytest.raises(formats.ImageTooLargeError) as refused:
            image_headers.read_header(bytes(data), limits)
        assert refused.value.pixels == 4_000_000_000**2


class TestCodedSizes:
    """What the bitstream of an AVIF says; tests/app/test_bombs.py shows what that is good for."""

    @pytest.mark.parametrize("size", [(1, 1), (37, 22), (640, 481), (8192, 64)])
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    def test_they_are_the_sizes_of_the_pictures(self, save: Save, mode: str, size: tuple[int, int]) -> None:
        pictures = 2 if mode == "RGBA" else 1  # alpha is one of its own
        assert av1.coded_sizes(save(Image.new(mode, size), AVIF, speed=10)) == [size] * pictures

    def test_other_items_are_not_taken_for_pictures(self, save: Save) -> None:
        data = save(Image.new("RGB", (64, 48)), AVIF, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0", xmp=b"\n\x0a<x/>")
        assert av1.coded_sizes(data) == [(64, 48)]

    def test_libheif_writes_what_is_read(self) -> None:
        data = pyvips.Image.black(300, 200, bands=3).heifsave_buffer(compression="av1", bitdepth=10)
        assert av1.coded_sizes(data) == [(300, 200)]

    def test_whatever_is_broken_is_said_to_be(self, save: Save, scene: Scene) -> None:
        data = save(scene("RGBA"), AVIF)
        random = np.random.default_rng(3)
        for _ in range(2000):
            broken = bytearray(data)
            for position in random.integers(0, len(data), 3):
                broken[position] = random.integers(256)
            try:
                sizes = av1.coded_sizes(bytes(broken)[: random.integers(1, len(data) + 1)])
            except av1.BrokenError:
                continue
            assert sizes
