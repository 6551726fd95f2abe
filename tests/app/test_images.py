"""Were these wrong, photographs would come back turned, recoloured, without their transparency, or not at
all."""

import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from app import formats, image_headers, images
from app.formats import BMP, FORMATS, JPEG, PNG, TIFF, WEBP, ImageFormat
from app.image_headers import ImageLimits
from app.images import Photograph
from tests.app.pictures import reopen, save, scene

LIMIT = 1_000_000
LIMITS = ImageLimits(LIMIT)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def decode(data: bytes) -> Photograph:
    return images.decode(data, LIMITS)


def restored_unchanged(photograph: Photograph, image_format: ImageFormat) -> Image.Image:
    return reopen(images.encode(photograph, image_format))


class TestSniffing:
    @pytest.mark.parametrize("image_format", FORMATS.values(), ids=list(FORMATS))
    def test_the_bytes_tell_the_format(self, image_format: ImageFormat) -> None:
        header = image_headers.read_header(save(scene(), image_format), LIMITS)
        assert (header.image_format, header.width, header.height) == (image_format, 37, 22)

    @pytest.mark.parametrize(
        "data", [b"", b"GIF89a", b"%PDF-1.7", b"<svg/>", b"\xff\xd8", b"RIFF\0\0\0\0WAVE"]
    )
    def test_anything_else_is_not_taken(self, data: bytes) -> None:
        with pytest.raises(formats.UnsupportedFormatError):
            image_headers.read_header(data, LIMITS)

    def test_only_the_reader_of_the_sniffed_format_sees_the_bytes(self) -> None:
        with pytest.raises(formats.UndecodableImageError):
            image_headers.read_header(b"BM" + save(scene(), PNG), LIMITS)


class TestLimits:
    def test_too_many_pixels_are_refused_by_the_header_alone(self) -> None:
        data = save(Image.new("L", (1001, 1000)), PNG)
        header_only = data[: data.index(b"IDAT") + 8]
        with pytest.raises(formats.ImageTooLargeError) as refused:
            image_headers.read_header(header_only, LIMITS)
        assert (refused.value.pixels, refused.value.limit) == (1_001_000, LIMIT)

    def test_a_decompression_bomb_is_refused(self) -> None:
        data = bytearray(save(Image.new("L", (8, 8)), PNG))
        data[16:24] = (60_000).to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        with pytest.raises(formats.ImageTooLargeError) as refused:
            image_headers.read_header(bytes(data), LIMITS)
        assert refused.value.limit == LIMIT

    def test_the_limit_itself_is_taken(self) -> None:
        assert image_headers.read_header(save(Image.new("L", (1000, 1000)), PNG), LIMITS).pixels == LIMIT


class TestBrokenImages:
    @pytest.mark.parametrize("image_format", FORMATS.values(), ids=list(FORMATS))
    def test_a_truncated_file_is_refused(self, image_format: ImageFormat) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        data = save(noise, image_format)
        with pytest.raises(formats.UndecodableImageError):
            decode(data[: len(data) // 2])

    @pytest.mark.parametrize("image_format", FORMATS.values(), ids=list(FORMATS))
    def test_any_broken_byte_gives_an_image_or_a_refusal_and_nothing_else(
        self, image_format: ImageFormat
    ) -> None:
        data = save(scene(), image_format)
        random = np.random.default_rng(1)
        for _ in range(300):
            broken = bytearray(data)
            for position in random.integers(0, len(data), random.integers(1, 6)):
                broken[position] = random.integers(256)
            try:
                photograph = decode(bytes(broken))
            except formats.ImageError:
                continue
            assert photograph.pixels.shape == (3, photograph.height, photograph.width)

    def test_floating_point_samples_are_refused(self) -> None:
        with pytest.raises(formats.UndecodableImageError, match="samples"):
            decode(save(Image.new("F", (8, 8)), TIFF))


class TestDecoding:
    @pytest.mark.parametrize("image_format", [PNG, BMP, TIFF], ids=lambda item: item.name)
    def test_pixels_arrive_as_they_are(self, image_format: ImageFormat) -> None:
        photograph = decode(save(scene(), image_format))
        assert np.array_equal(photograph.pixels.permute(1, 2, 0).numpy(), np.asarray(scene()))
        assert photograph.alpha is None
        assert not photograph.greyscale
        assert photograph.lossless

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_orientation_is_applied(self, orientation: int) -> None:
        upright = scene()
        undo = {
            1: None,
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }[orientation]
        exif = Image.Exif()
        exif[274] = orientation
        stored = upright if undo is None else upright.transpose(undo)
        photograph = decode(save(stored, PNG, exif=exif))
        assert np.array_equal(photograph.pixels.permute(1, 2, 0).numpy(), np.asarray(upright))
        # and it is not applied once more by whoever opens the answer
        assert restored_unchanged(photograph, PNG).getexif().get(274, 1) == 1

    def test_a_broken_exif_block_does_not_spoil_the_image(self) -> None:
        photograph = decode(save(scene(), PNG, exif=b"Exif\0\0II*\0\xff\xff\xff\xffnonsense"))
        assert (photograph.width, photograph.height) == (37, 22)

    def test_cmyk_becomes_rgb(self) -> None:
        photograph = decode(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), JPEG, quality=100))
        red, green, blue = photograph.pixels[:, 4, 4].tolist()
        assert red > 200
        assert max(green, blue) < 60

    def test_a_palette_with_transparency_keeps_it(self) -> None:
        palette = scene().quantize(16)
        colour = palette.getpixel((0, 0))
        photograph = decode(save(palette, PNG, transparency=colour))
        assert photograph.alpha is not None
        assert photograph.alpha[0, 0] == 0
        assert photograph.alpha[-1, -1] == 255

    def test_one_transparent_colour_becomes_alpha(self) -> None:
        image = Image.new("RGB", (4, 4), (10, 20, 30))
        image.putpixel((1, 2), (1, 2, 3))
        photograph = decode(save(image, PNG, transparency=(1, 2, 3)))
        assert photograph.alpha is not None
        assert np.argwhere(photograph.alpha == 0).tolist() == [[2, 1]]

    def test_lossless_webp_is_told_from_lossy(self) -> None:
        assert decode(save(scene(), WEBP, lossless=True)).lossless
        assert decode(save(scene("RGBA"), WEBP, lossless=True, icc_profile=ICC)).lossless
        assert not decode(save(scene(), WEBP, quality=90)).lossless
        assert not decode(save(scene(), JPEG)).lossless


def strips_of(rows: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.images.STRIP_PIXELS", rows * width)


class TestStrips:
    """Large photographs pass in strips: a seam between two of them would be seen."""

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    @pytest.mark.parametrize("orientation", [1, 3, 6, 7])
    def test_reading_in_strips_changes_nothing(
        self, mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exif = Image.Exif()
        exif[274] = orientation
        data = save(scene(mode), PNG, exif=exif)
        whole = decode(data)
        strips_of(3, 37, monkeypatch)
        parts = decode(data)
        assert torch.equal(parts.pixels, whole.pixels)
        if whole.alpha is None:
            assert parts.alpha is None
        else:
            assert parts.alpha is not None
            assert np.array_equal(parts.alpha, whole.alpha)

    @pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
    @pytest.mark.parametrize("image_format", [PNG, TIFF, JPEG, WEBP], ids=lambda item: item.name)
    def test_writing_in_strips_changes_nothing(
        self, mode: str, image_format: ImageFormat, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        photograph = decode(save(scene(mode), PNG))
        whole = restored_unchanged(photograph, image_format)
        strips_of(3, 37, monkeypatch)
        parts = restored_unchanged(photograph, image_format)
        assert parts.mode == whole.mode
        assert np.array_equal(np.asarray(parts), np.asarray(whole))

    def test_a_cmyk_profile_is_applied_to_every_strip(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # any profile that does not suit CMYK falls back to the plain conversion, strip by strip as well
        image = scene().convert("CMYK")
        data = save(image, TIFF, icc_profile=ICC)
        strips_of(3, 37, monkeypatch)
        photograph = decode(data)
        assert np.array_equal(photograph.pixels.permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))
        assert photograph.icc_profile is None

    @pytest.mark.parametrize("width", [1, 2, 5])
    @pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
    def test_the_narrowest_images_survive_the_png_filter(self, mode: str, width: int) -> None:
        samples = np.random.default_rng(0).integers(0, 256, (9, width, 4), dtype=np.uint8)
        image = Image.fromarray(samples).convert("LA" if mode == "LA" else mode)
        back = restored_unchanged(decode(save(image, PNG)), PNG)
        assert back.mode == mode
        assert np.array_equal(np.asarray(back), np.asarray(image))


class TestEncoding:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
    @pytest.mark.parametrize("image_format", [PNG, TIFF], ids=lambda item: item.name)
    def test_what_came_without_loss_goes_out_without_loss(self, mode: str, image_format: ImageFormat) -> None:
        image = scene(mode)
        back = restored_unchanged(decode(save(image, image_format)), image_format)
        assert back.mode == mode
        assert np.array_equal(np.asarray(back), np.asarray(image))

    def test_also_as_webp(self) -> None:
        image = scene("RGBA")
        back = restored_unchanged(decode(save(image, PNG)), WEBP)
        opaque = np.asarray(image)[..., 3] > 0
        assert np.array_equal(np.asarray(back)[opaque], np.asarray(image)[opaque])

    @pytest.mark.parametrize("image_format", [JPEG, PNG, WEBP, TIFF], ids=lambda item: item.name)
    def test_the_colour_profile_is_kept(self, image_format: ImageFormat) -> None:
        photograph = decode(save(scene(), image_format, icc_profile=ICC))
        assert restored_unchanged(photograph, image_format).info["icc_profile"] == ICC

    @pytest.mark.parametrize("image_format", [JPEG, PNG, BMP, TIFF], ids=lambda item: item.name)
    def test_greyscale_stays_greyscale(self, image_format: ImageFormat) -> None:
        photograph = decode(save(scene("L"), image_format))
        assert restored_unchanged(photograph, image_format).mode == "L"

    @pytest.mark.parametrize("image_format", [JPEG, WEBP], ids=lambda item: item.name)
    def test_lossy_formats_stay_close(self, image_format: ImageFormat) -> None:
        photograph = decode(save(scene(width=96, height=64), JPEG, quality=98))
        back = np.asarray(restored_unchanged(photograph, image_format).convert("RGB")).astype(int)
        assert np.abs(back - photograph.pixels.permute(1, 2, 0).numpy()).mean() < 3

    def test_where_there_is_no_alpha_the_image_lies_on_white(self) -> None:
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        back = restored_unchanged(decode(save(image, PNG)), JPEG)
        assert back.getpixel((4, 4)) == (255, 255, 255)

    def test_a_side_that_the_format_cannot_hold_is_refused(self) -> None:
        photograph = decode(save(Image.new("L", (16384, 2)), PNG))
        images.check_fits(photograph, PNG)
        with pytest.raises(formats.UnencodableImageError, match="16383"):
            images.check_fits(photograph, WEBP)
