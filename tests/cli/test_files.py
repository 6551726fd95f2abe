"""Which files `derain restore` takes, and where it writes."""

from pathlib import Path

import pytest

from app.files import FileError, Input, Order, destination, find_inputs, write_whole
from app.formats import JPEG, PNG, WEBP, ImageFormat
from app.image_headers import ImageLimits


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_gives_its_images_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path / "b.JPG", tmp_path / "a.png", tmp_path / "deep/er/c.webp")
    touch(tmp_path / "notes.txt", tmp_path / ".hidden.png", tmp_path / ".cache/d.png")
    (tmp_path / "folder.png").mkdir()
    found = [source.relative.as_posix() for source in find_inputs([tmp_path])]
    assert found == ["a.png", "b.JPG", "deep/er/c.webp"]


def test_a_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    touch(tmp_path / "photo")
    assert find_inputs([tmp_path / "photo"]) == [Input(tmp_path / "photo", Path("photo"))]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere\.png does not exist"):
        find_inputs([tmp_path / "nowhere.png"])
    with pytest.raises(FileError, match="holds no image"):
        find_inputs([tmp_path])


@pytest.mark.parametrize(
    ("relative", "image_format", "expected"),
    [
        ("deep/photo.JPEG", JPEG, "out/deep/photo.JPEG"),
        ("photo.jpg", PNG, "out/photo.png"),
        ("photo", WEBP, "out/photo.webp"),
        ("photo.v2", JPEG, "out/photo.jpg"),
    ],
)
def test_a_restored_file_is_named_like_its_source(
    relative: str, image_format: ImageFormat, expected: str
) -> None:
    order = Order(output=Path("out"), limits=ImageLimits(1))
    assert destination(order, Input(Path(relative), Path(relative)), image_format) == Path(expected)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.mkdir()
    with pytest.raises(OSError, match="irectory"):
        write_whole(path, b"data")
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep/photo.png"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]
