"""What a file says beside its pixels. Were this wrong, photographs would lose where and when they were taken,
be turned twice, show their rain in the thumbnail, or tell what the client asked to have dropped."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from app import images, metadata
from app.formats import AVIF, BMP, HEIC, JPEG, PNG, TIFF, WEBP, ImageFormat
from app.image_headers import ImageLimits
from app.images import Photograph
from app.metadata import Metadata

Scene = Callable[..., Image.Image]
Save = Callable[..., bytes]
Decode = Callable[[bytes], Photograph]

HOLDERS = [JPEG, PNG, WEBP, TIFF, AVIF, HEIC]
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" place="Łódź"/></x:xmpmeta>'.encode()


def name(image_format: ImageFormat) -> str:
    return image_format.name


def exif_block(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = orientation
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExposureTime] = 0.01
    details[ExifTags.Base.ExifImageWidth] = 37
    details[ExifTags.Base.ExifImageHeight] = 22
    details[ExifTags.Base.MakerNote] = b"a note of the maker"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return exif


def with_thumbnail(exif: bytes) -> bytes:
    """EXIF whose first directory is followed by a second one, as cameras write thumbnails."""
    body = exif.removeprefix(b"Exif\0\0")
    assert body[:2] == b"MM"
    count = int.from_bytes(body[8:10], "big")
    pointer = 10 + 12 * count
    second = (
        (1).to_bytes(2, "big")
        + (513).to_bytes(2, "big")
        + (4).to_bytes(2, "big")
        + (1).to_bytes(4, "big")
        + (len(body) + 18).to_bytes(4, "big")
        + bytes(4)
    )
    return (
        b"Exif\0\0"
        + body[:pointer]
        + len(body).to_bytes(4, "big")
        + body[pointer + 4 :]
        + second
        + b"RAINY THUMBNAIL"
    )


@pytest.fixture
def decode(limits: ImageLimits) -> Decode:
    return lambda data: images.decode(data, limits)


def described(data: bytes) -> dict[str, Any]:
    """What Pillow finds in an answer."""
    with Image.open(BytesIO(data)) as image:
        image.load()
        exif = image.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        return {
            "make": exif.get(ExifTags.Base.Make),
            "orientation": exif.get(ExifTags.Base.Orientation, 1),
            "exposure": details.get(ExifTags.Base.ExposureTime),
            "note": details.get(ExifTags.Base.MakerNote),
            "size": (details.get(ExifTags.Base.ExifImageWidth), details.get(ExifTags.Base.ExifImageHeight)),
            "latitude": exif.get_ifd(ExifTags.IFD.GPSInfo).get(ExifTags.GPS.GPSLatitudeRef),
            "thumbnail": bool(exif.get_ifd(ExifTags.IFD.IFD1)),
            "xmp": image.info.get("xmp"),
        }


KEPT = {
    "make": "A camera",
    "orientation": 1,
    "exposure": 0.01,
    "note": b"a note of the maker",
    "size": (22, 37),
    "latitude": "N",
    "thumbnail": False,
}


class TestKeeping:
    @pytest.mark.parametrize("answer", HOLDERS, ids=name)
    def test_exif_is_kept_in_every_format_that_holds_it(
        self, scene: Scene, save: Save, decode: Decode, answer: ImageFormat
    ) -> None:
        photograph = decode(save(scene(), JPEG, exif=exif_block()))
        found = described(images.encode(photograph, answer))
        assert {key: found[key] for key in KEPT} == KEPT

    @pytest.mark.parametrize("sent", HOLDERS, ids=name)
    def test_from_every_format_that_holds_it(
        self, scene: Scene, save: Save, decode: Decode, sent: ImageFormat
    ) -> None:
        photograph = decode(save(scene(), sent, exif=exif_block().tobytes()))
        assert (photograph.width, photograph.height) == (22, 37)
        found = described(images.encode(photograph, JPEG))
        assert {key: found[key] for key in KEPT} == KEPT

    @pytest.mark.parametrize("answer", HOLDERS, ids=name)
    @pytest.mark.parametrize("sent", [JPEG, PNG, WEBP, AVIF], ids=name)
    def test_xmp_is_kept_and_does_not_turn_the_photograph_again(
        self, scene: Scene, save: Save, decode: Decode, sent: ImageFormat, answer: ImageFormat
    ) -> None:
        image = scene()
        if sent is PNG:
            data = metadata.into_png(save(image, PNG), Metadata(xmp=XMP))
        else:
            data = save(image, sent, xmp=XMP)
        photograph = decode(data)
        assert (photograph.width, photograph.height) == (22, 37), "it was not turned"
        found = described(images.encode(photograph, answer))
        assert found["xmp"] == XMP.replace(b'Orientation="6"', b'Orientation="1"')
        assert found["orientation"] == 1

    @pytest.mark.parametrize("sent", [JPEG, PNG], ids=name)
    @pytest.mark.parametrize("answer", [JPEG, PNG], ids=name)
    def test_comments_are_kept(
        self, scene: Scene, save: Save, decode: Decode, sent: ImageFormat, answer: ImageFormat
    ) -> None:
        if sent is PNG:
            data = metadata.into_png(save(scene(), PNG), Metadata(comment=b"wet feet"))
        else:
            data = save(scene(), JPEG, comment=b"wet feet")
        with Image.open(BytesIO(images.encode(decode(data), answer))) as back:
            assert back.info.get("comment" if answer is JPEG else "Comment") in (b"wet feet", "wet feet")

    def test_the_thumbnail_goes_as_it_shows_the_rain(self, scene: Scene, save: Save, decode: Decode) -> None:
        exif = with_thumbnail(exif_block().tobytes())
        data = save(scene(), JPEG, exif=exif)
        assert described(data)["thumbnail"]
        answer = images.encode(decode(data), JPEG)
        assert b"THUMBNAIL" not in answer
        assert described(answer)["make"] == "A camera"

    def test_resolution_and_author_of_a_tiff_are_kept_and_its_layout_is_not(
        self, scene: Scene, save: Save, decode: Decode
    ) -> None:
        exif = exif_block(1)
        exif[ExifTags.Base.Artist] = "Nobody"
        exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = 300
        exif[ExifTags.Base.ResolutionUnit] = 2
        data = images.encode(decode(save(scene(), TIFF, exif=exif)), TIFF)
        with Image.open(BytesIO(data)) as back:
            assert back.getexif()[ExifTags.Base.Artist] == "Nobody"
            assert back.info["dpi"] == (300, 300)
            assert np.array_equal(np.asarray(back), np.asarray(scene()))
        assert not metadata.STRUCTURE & set(Image.open(BytesIO(images.encode(decode(data), PNG))).getexif())

    def test_without_metadata_none_is_made_up(self, scene: Scene, save: Save, decode: Decode) -> None:
        for answer in HOLDERS:
            with Image.open(BytesIO(images.encode(decode(save(scene(), PNG)), answer))) as back:
                made_up = set(back.getexif()) - {*metadata.STRUCTURE, 282, 283, 296}
                assert not made_up, answer.name
                assert "xmp" not in back.info or not back.info["xmp"]


class TestBroken:
    """Faults in what is beside the pixels are no reason to refuse a photograph."""

    @pytest.mark.parametrize(
        "exif",
        [
            b"Exif\0\0II*\0\xff\xff\xff\xffnonsense",
            b"Exif\0\0",
            b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x01" * 40,
            with_thumbnail(exif_block().tobytes())[:60],
        ],
    )
    @pytest.mark.parametrize("sent", [JPEG, PNG, WEBP], ids=name)
    def test_broken_exif(
        self, scene: Scene, save: Save, decode: Decode, sent: ImageFormat, exif: bytes
    ) -> None:
        photograph = decode(save(scene(), sent, exif=exif))
        for answer in HOLDERS:
            assert images.encode(photograph, answer)

    @pytest.mark.parametrize("sent", [JPEG, TIFF, AVIF], ids=name)
    def test_any_broken_byte_of_exif(
        self, scene: Scene, save: Save, decode: Decode, sent: ImageFormat
    ) -> None:
        data = save(scene(), sent, exif=exif_block())
        start = data.index(b"A camera") - 90
        random = np.random.default_rng(2)
        taken = 0
        for _ in range(200):
            broken = bytearray(data)
            for position in random.integers(start, start + 200, 3):
                broken[position % len(data)] = random.integers(256)
            try:
                photograph = decode(bytes(broken))
            except images.ImageError:
                continue  # it was not EXIF that broke
            taken += 1
            for answer in (JPEG, TIFF, PNG, WEBP):
                assert images.encode(photograph, answer)
        assert taken > 20

    def test_what_a_jpeg_has_no_room_for_is_left_out(self, scene: Scene, save: Save, decode: Decode) -> None:
        exif = exif_block()
        exif[ExifTags.Base.ImageDescription] = "x" * 70_000
        data = save(scene(), WEBP, exif=exif, xmp=b"<x>" + b" " * 70_000 + b"</x>")
        photograph = decode(data)
        found = described(images.encode(photograph, JPEG))
        assert (found["make"], found["xmp"]) == (None, None)
        assert described(images.encode(photograph, WEBP))["make"] == "A camera"


class TestDropping:
    @pytest.mark.parametrize("answer", HOLDERS, ids=name)
    def test_nothing_stays_but_the_colour_profile(
        self, scene: Scene, save: Save, decode: Decode, icc: bytes, answer: ImageFormat
    ) -> None:
        data = save(scene(), JPEG, exif=exif_block(), xmp=XMP, comment=b"A camera was here", icc_profile=icc)
        photograph = decode(data).without_metadata()
        assert (photograph.width, photograph.height) == (22, 37)
        written = images.encode(photograph, answer)
        for told in (b"A camera", b"xmpmeta", b"a note of the maker"):
            assert told in data
            assert told not in written
        with Image.open(BytesIO(written)) as back:
            assert back.info["icc_profile"] == icc

    def test_a_bmp_holds_none_and_is_written_all_the_same(
        self, scene: Scene, save: Save, decode: Decode
    ) -> None:
        photograph = decode(save(scene(), JPEG, exif=exif_block(), xmp=XMP, comment=b"rain"))
        with Image.open(BytesIO(images.encode(photograph, BMP))) as back:
            assert back.size == (22, 37)
