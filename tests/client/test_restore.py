"""`Derain` against a real service: whatever an image is in, it comes back restored, with what was done."""

import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.client import Derain, DerainError, ImageSource, Restored

PROMPT = "a photo with heavy rain streaks falling straight down; très fort"


def pixels(restored: Restored) -> np.ndarray:
    return np.asarray(restored.image().convert("RGB")).astype(int)


def pipe_of(path: Path) -> ImageSource:
    """What cannot be read twice."""
    reading, writing = os.pipe()

    def fill() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(path.read_bytes())

    threading.Thread(target=fill).start()
    return os.fdopen(reading, "rb")


def moved(path: Path) -> ImageSource:
    file = path.open("rb")
    file.seek(100)
    return file


SOURCES: dict[str, Callable[[Path], ImageSource]] = {
    "path": lambda path: path,
    "name": str,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "file that was read from": moved,
    "BytesIO": lambda path: BytesIO(path.read_bytes()),
    "pipe": pipe_of,
    "Pillow": Image.open,
}


def test_an_image_may_be_in_anything(derain: Derain, photos: list[Path]) -> None:
    first = pixels(derain.restore(photos[0], prompt=PROMPT))
    with Image.open(photos[0]) as image:
        assert np.abs(first - np.asarray(image).astype(int)).max() > 1
    for name, source in SOURCES.items():
        restored = derain.restore(source(photos[0]), prompt=PROMPT)
        assert np.abs(pixels(restored) - first).max() <= 1, name


def test_pictures_that_png_cannot_hold_are_sent_as_far_as_it_can(derain: Derain) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("RGB", (40, 24), "red")
    turned.info["exif"] = exif.tobytes()
    turned.getexif()[0x0112] = 6
    for picture, size in ((Image.new("CMYK", (40, 24)), (40, 24)), (turned, (24, 40))):
        assert derain.restore(picture, prompt=PROMPT).image().size == size


def test_an_answer_says_what_was_done(derain: Derain, photos: list[Path]) -> None:
    told = derain.restore(photos[0], prompt=PROMPT, format="webp")
    assert (told.prompt, told.perceived, told.media_type) == (PROMPT, False, "image/webp")
    assert told.data[8:12] == b"WEBP"
    assert told.timings.total >= told.timings.inference > 0
    assert re.fullmatch("[0-9a-f]{32}", told.request_id)
    model, *others = derain.models()
    assert not any(other.default for other in others)
    assert (told.model, model.default, told.batch_size) == (model.name, True, 1)

    perceived = derain.perceive(photos[0], model=model.name)
    assert sum(perceived.types.values()) == pytest.approx(1, abs=1e-3)
    asked = derain.restore(photos[0], prompt=" ")
    assert (asked.prompt, asked.perceived) == (perceived.prompt, True)


def test_metadata_goes_when_it_is_to_be_dropped(derain: Derain) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    file = BytesIO()
    Image.new("RGB", (32, 24), "red").save(file, "JPEG", exif=exif)
    assert derain.restore(file).image().getexif().get(0x010F) == "A camera"
    assert derain.restore(file, metadata="drop").image().getexif().get(0x010F) is None


def test_an_answer_is_saved_as_it_is(derain: Derain, photos: list[Path], tmp_path: Path) -> None:
    restored = derain.restore(photos[0])
    assert restored.save(tmp_path / "new/a.png").read_bytes() == restored.data


def test_an_answer_goes_into_a_file_whole_or_not_at_all(
    derain: Derain, photos: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "new/a.png"
    told = derain.restore_to_file(photos[0], path, prompt=PROMPT)
    assert (told.path, told.prompt) == (path, PROMPT)
    before = path.read_bytes()
    with Image.open(path) as restored, Image.open(photos[0]) as rainy:
        assert restored.size == rainy.size
    with pytest.raises(DerainError):
        derain.restore_to_file(b"no picture", path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_large_file_is_sent_in_small_pieces(derain: Derain) -> None:
    class Recorded(BytesIO):
        sizes: list[int]

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.sizes.append(len(data))
            return data

    file = Recorded()
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    file.sizes = []
    derain.perceive(file)
    assert sum(file.sizes) == len(file.getvalue()) > 700_000
    assert max(file.sizes) <= 2**16


def test_many_come_in_order_and_no_more_are_taken_than_needed(derain: Derain, photos: list[Path]) -> None:
    taken: list[Path] = []

    def watched():
        for path in photos * 2:
            taken.append(path)
            yield path

    number = 0
    for number, restored in enumerate(derain.restore_many(watched(), concurrency=2, prompt=PROMPT), 1):
        with Image.open(photos[(number - 1) % len(photos)]) as rainy:
            assert restored.image().size == rainy.size
        assert len(taken) <= number + 4
    assert number == len(taken) == 12


def test_one_of_many_that_fails_is_raised_or_given_in_its_place(derain: Derain, photos: list[Path]) -> None:
    images = [photos[0], b"no picture", Path("nowhere.png"), photos[1]]
    got = list(derain.restore_many(images, return_errors=True))
    assert [type(one) for one in got] == [Restored, DerainError, FileNotFoundError, Restored]
    with pytest.raises(DerainError, match="415"):
        list(derain.restore_many(images))


def test_what_is_no_image_is_told_before_anything_is_sent() -> None:
    with Derain("http://192.0.2.1") as derain:
        with pytest.raises(TypeError, match="not <class 'int'>"):
            derain.restore(7)  # pyright: ignore[reportArgumentType]
        with pytest.raises(FileNotFoundError):
            derain.restore("nowhere.png")


def test_a_client_of_ones_own_is_used_and_left_open(
    url: str, keys: dict[str, str], photos: list[Path]
) -> None:
    with httpx.Client() as http:
        with Derain(url, api_key=keys["open"], http=http) as derain:
            assert derain.ready()
        assert not http.is_closed


def test_errors_survive_pickling() -> None:
    """They come from other processes, too."""
    error = DerainError("too large", status=413, title="Image too large", request_id="a")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status) == ("413 Image too large: too large (request a)", 413)


def test_importing_it_brings_nothing_of_the_service() -> None:
    code = "import sys; from app.client import Derain, AsyncDerain; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    names = set(loaded.stdout.split())
    assert "httpx" in names
    roots = {name.partition(".")[0] for name in names}
    assert not roots & {
        "torch",
        "numpy",
        "PIL",
        "fastapi",
        "starlette",
        "uvicorn",
        "pydantic",
        "model",
        "training",
    }
    ours = {name for name in names if name.startswith("app.") and not name.startswith("app.client")}
    assert ours == {"app.whole_files"}


def test_without_httpx_the_extra_is_named() -> None:
    code = "import sys; sys.modules['httpx'] = None; import app.client"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "pip install 'tvi-derain[client]'" in failed.stderr.splitlines()[-1]
