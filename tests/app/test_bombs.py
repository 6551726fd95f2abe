"""Small files that ask for much memory. Were these wrong, some kilobytes would end the service."""

import json
import math
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from app.formats import UndecodableImageError
from app.image_headers import ImageLimits, read_header
from tests.app.bombs import MIB, chunk, ispe, png, tiff, webp, zeros

ROOM = 24 * MIB
"""Far more than refusing needs, far less than any of the bombs would take."""

MEASURE = """
import json, sys
from pathlib import Path
from PIL import Image
from app import images
from app.formats import ImageError
from app.image_headers import ImageLimits

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def attempt(path, pixels):
    try:
        images.decode(Path(path).read_bytes(), ImageLimits(pixels))
    except ImageError as error:
        return f"{type(error).__name__}: {error}"
    return "decoded"

images.set_up_codecs(2**27)
folder = Path(sys.argv[1])
for path in folder.glob("harmless-*"):
    attempt(path, 2**27)
measured = {}
for path in folder.glob("bomb-*"):
    Path("/proc/self/clear_refs").write_text("5")
    idle = status("VmRSS")
    said = attempt(path, 2**27)
    measured[path.name.removeprefix("bomb-")] = (said, status("VmHWM") - idle)
print(json.dumps(measured))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def measure(folder: Path, bombs: dict[str, bytes], harmless: list[bytes]) -> dict[str, str]:
    """What a process says of each bomb, once it has decoded harmless files; none takes more than `ROOM`."""
    for name, data in bombs.items():
        (folder / f"bomb-{name}").write_bytes(data)
    for number, data in enumerate(harmless):
        (folder / f"harmless-{number}").write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    measured: dict[str, tuple[str, int]] = json.loads(result.stdout)
    assert measured.keys() == bombs.keys()
    for name, (said, taken) in measured.items():
        assert taken < ROOM, f"{name} took {taken / MIB:.0f} MiB: {said}"
    return {name: said for name, (said, _) in measured.items()}


PIXELS = np.zeros((64, 64, 3), np.uint8)


def test_a_size_over_the_limit_is_refused_before_anything_is_decoded(
    tmp_path: Path, scene: Callable[..., Image.Image], save: Callable[..., bytes]
) -> None:
    harmless = {kind: save(scene(), kind) for kind in ("PNG", "WEBP", "TIFF", "AVIF", "HEIF")}
    bombs = {
        "png": png(60_000, 60_000, chunk(b"IDAT", zeros(100))),
        "webp": webp(60_000, 60_000),
        "tiff": tiff(tmp_path, PIXELS, {256: 60_000, 257: 60_000, 278: 60_000}),
        "avif": ispe(harmless["AVIF"], 30_000, 30_000),
        "avif of billions": ispe(harmless["AVIF"], 2**31, 2**31),
        "heic": ispe(harmless["HEIF"], 30_000, 30_000),
        "heic of billions": ispe(harmless["HEIF"], 2**31, 2**31),
    }
    for name, said in measure(tmp_path, bombs, list(harmless.values())).items():
        assert said.startswith("ImageTooLargeError"), name


def test_texts_profiles_and_pixels_that_a_png_does_not_need_are_not_unpacked(tmp_path: Path) -> None:
    large = zeros(300)
    bombs: dict[str, bytes] = {}
    harmless: list[bytes] = []
    for depth in (8, 16):
        pixels = chunk(b"IDAT", zlib.compress(bytes(16 * (16 * 3 * depth // 8 + 1))))
        text = chunk(b"zTXt", b"Comment\0\0" + large)
        harmless.append(png(16, 16, pixels, depth=depth))
        stuffed = {
            "zTXt": [text, pixels],
            "zTXt behind": [pixels, text],
            "iTXt": [chunk(b"iTXt", b"Comment\0\x01\0\0\0" + large), pixels],
            "iCCP": [chunk(b"iCCP", b"profile\0\0" + large), pixels],
            "IDAT": [chunk(b"IDAT", large)],
        }
        bombs |= {f"{name} {depth}": png(16, 16, *chunks, depth=depth) for name, chunks in stuffed.items()}
    assert max(map(len, bombs.values())) < MIB
    measure(tmp_path, bombs, harmless)


def test_strips_tiles_and_tags_of_a_tiff_are_not_believed(tmp_path: Path) -> None:
    bombs: dict[str, bytes] = {}
    harmless: list[bytes] = []
    for kind in (np.uint8, np.uint16):
        depth = np.dtype(kind).itemsize * 8
        samples = np.zeros((8192, 8192, 3), kind)
        packed: dict[str, Any] = {"photometric": "rgb", "compression": "zlib"}
        strips = {**packed, "rowsperstrip": 8192}
        harmless.append(tiff(tmp_path, samples[:64, :64], {}, **packed))
        harmless.append(tiff(tmp_path, samples[:64, :64], {}, **packed, tile=(64, 64)))
        bombs[f"tile {depth}"] = tiff(tmp_path, samples, {256: 64, 257: 64}, **packed, tile=(8192, 8192))
        bombs[f"strip {depth}"] = tiff(tmp_path, samples, {256: 64, 257: 64}, **strips)
        bombs[f"rows {depth}"] = tiff(tmp_path, samples[:, :64], {257: 64, 278: 2**31 - 1}, **strips)
    place = harmless[0].index(struct.pack("<HH", 305, 2))
    bombs["tag"] = harmless[0][: place + 4] + struct.pack("<I", 2**31) + harmless[0][place + 8 :]
    assert max(map(len, bombs.values())) < MIB
    said = measure(tmp_path, bombs, harmless)
    assert "tiles of 8192x8192" in said["tile 8"]
    assert "tiles of 8192x8192" in said["tile 16"]


def test_a_picture_that_is_far_larger_than_its_box_says_is_not_decoded(
    tmp_path: Path, save: Callable[..., bytes]
) -> None:
    """Decoders compare only when they have decoded."""
    large, small = Image.new("L", (8192, 8192)), Image.new("L", (64, 64))
    ways: dict[str, dict[str, Any]] = {"AVIF": {"speed": 10}, "HEIF": {"enc_params": {"preset": "ultrafast"}}}
    bombs = {kind: ispe(save(large, kind, **options), 64, 64) for kind, options in ways.items()}
    measure(tmp_path, bombs, [save(small, kind, **options) for kind, options in ways.items()])


def directory(tags: list[tuple[int, int, bytes]], then: int = 0) -> bytes:
    """Of a TIFF of little endian: tag, type and four bytes of each."""
    entries = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in tags)
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", then)


def test_long_directories_of_a_tiff_are_not_read() -> None:
    """They may overlap: less than a megabyte of them would keep the event loop for seconds."""
    size = [(tag, 3, struct.pack("<HH", 8, 0)) for tag in (256, 257)]
    many = [(tag, 3, bytes(4)) for tag in range(1, 2000)]
    for tags, then in ((many, b""), (size, directory(many))):
        made = (
            b"II*\0" + struct.pack("<I", 8) + directory(tags, 8 + len(directory(tags)) if then else 0) + then
        )
        with pytest.raises(UndecodableImageError, match="more than 1024 tags"):
            read_header(made, ImageLimits(10**6))


@pytest.mark.parametrize(("byteorder", "bigtiff"), [("<", False), (">", False), ("<", True)])
def test_tiffs_of_all_kinds_are_read_all_the_same(byteorder: Any, bigtiff: bool) -> None:
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((8, 9, 3), np.uint8), byteorder=byteorder, bigtiff=bigtiff)
    header = read_header(file.getvalue(), ImageLimits(10**6))
    assert (header.width, header.height) == (9, 8)


def test_an_endless_tiff_is_refused() -> None:
    size = [(256, 11, struct.pack("<f", math.inf)), (257, 3, struct.pack("<HH", 8, 0))]
    with pytest.raises(UndecodableImageError, match="tag 256"):
        read_header(b"II*\0" + struct.pack("<I", 8) + directory(size), ImageLimits(10**6))
