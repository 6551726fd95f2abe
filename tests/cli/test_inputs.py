"""Which files a command takes. Were this wrong, photographs would be forgotten, or restored twice."""

from pathlib import Path

import pytest

from app.inputs import PIPE, Input, InputError, find_inputs


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def relatives(inputs: list[Input]) -> list[str]:
    return [source.relative.as_posix() for source in inputs]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    touch(photos / "b.JPG", photos / "a.png", photos / "deep/er/c.webp", photos / "deep/d.jpg")
    touch(photos / "notes.txt", photos / ".hidden.png", photos / ".cache/d.png")
    (photos / "folder.png").mkdir()
    return photos


def test_a_folder_gives_its_images_and_nothing_else(photos: Path) -> None:
    assert relatives(find_inputs([str(photos)])) == ["a.png", "b.JPG", "deep/d.jpg", "deep/er/c.webp"]


def test_a_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    touch(tmp_path / "photo", tmp_path / ".photo", tmp_path / "[1].jpg")
    for name in ("photo", ".photo", "[1].jpg"):
        assert find_inputs([str(tmp_path / name)]) == [Input(tmp_path / name, Path(name))]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a.png", "b.JPG", "deep/d.jpg", "deep/er/c.webp"]),
        ("*.png", ["a.png"]),
        ("**/*.[jw]*", ["deep/d.jpg", "deep/er/c.webp"]),
        ("**", ["a.png", "b.JPG", "deep/d.jpg", "deep/er/c.webp"]),
        ("d??p/*.jpg", ["deep/d.jpg"]),
        ("d*", ["deep/d.jpg", "deep/er/c.webp"]),
        (".h*", [".hidden.png"]),
    ],
)
def test_a_quoted_pattern_finds_what_it_says_and_keeps_the_places(
    photos: Path, pattern: str, found: list[str]
) -> None:
    assert relatives(find_inputs([str(photos / pattern)])) == found


def test_a_pattern_may_begin_where_one_is_or_at_home(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert find_inputs(["deep/*.jpg"]) == [Input(Path("deep/d.jpg"), Path("d.jpg"))]
    monkeypatch.setenv("HOME", str(photos))
    assert find_inputs(["~/deep/*.jpg"]) == [Input(photos / "deep/d.jpg", Path("d.jpg"))]


def test_nothing_is_taken_twice(photos: Path) -> None:
    named = [str(photos), str(photos / "a.png"), str(photos / "*.png"), f"{photos}/"]
    assert relatives(find_inputs(named)) == ["a.png", "b.JPG", "deep/d.jpg", "deep/er/c.webp"]


def test_results_below_a_folder_are_not_its_photographs(photos: Path) -> None:
    """A second run would restore what the first one restored."""
    touch(photos / "restored/a.png")
    for named in (photos, photos / "**"):
        assert "restored/a.png" in relatives(find_inputs([str(named)]))
        assert "restored/a.png" not in relatives(
            find_inputs([str(named)], but_not_below=photos / "deep/../restored")
        )
    assert "a.png" in relatives(find_inputs([str(photos)], but_not_below=photos))


def test_standard_input_is_one_of_them() -> None:
    assert find_inputs(["-"]) == [Input(PIPE, Path("stdin"))]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.png", r"nowhere\.png does not exist"),
        ("*.gif", r"\*\.gif matches no image"),
        ("empty", "empty holds no image"),
        ("*/../*.png", "no pattern goes before"),
        ("a**/b.png", "a\\*\\*"),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(InputError, match=said):
        find_inputs([name])
