"""Where results go. Were this wrong, one would be lost under another, or a photograph under its result."""

from pathlib import Path

import pytest
from PIL import Image

from app.formats import JPEG, PNG, WEBP, ImageFormat
from app.inputs import PIPE, find_inputs
from app.outputs import OutputError, Plan, plan


def draw(*paths: Path, image_format: str | None = None) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path, image_format)


def planned(
    *named: Path, output: Path, image_format: ImageFormat | None = None, overwrite: bool = False
) -> Plan:
    inputs = find_inputs(map(str, named), but_not_below=output)
    return plan(inputs, output, image_format, overwrite=overwrite)


@pytest.mark.parametrize(
    ("relative", "came_in", "asked_for", "expected"),
    [
        ("deep/photo.JPEG", "JPEG", JPEG, "deep/photo.JPEG"),
        ("photo.jpg", "JPEG", PNG, "photo.png"),
        ("photo.jpg", "PNG", None, "photo.png"),
        ("photo.png", "PNG", None, "photo.png"),
        ("photo", "PNG", WEBP, "photo.webp"),
        ("photo.v2", "JPEG", None, "photo.v2.jpg"),
    ],
)
def test_a_result_is_named_like_its_source(
    tmp_path: Path, relative: str, came_in: str, asked_for: ImageFormat | None, expected: str
) -> None:
    draw(tmp_path / "in" / relative, image_format=came_in)
    named = tmp_path / "in" if relative.startswith("deep") else tmp_path / "in" / relative
    [task] = planned(named, output=tmp_path / "out", image_format=asked_for).ready
    assert task.destination == tmp_path / "out" / expected


@pytest.mark.parametrize(
    ("names", "image_format"),
    [(["one/photo.png", "two/photo.png"], None), (["photo.png", "photo.jpg"], WEBP)],
)
def test_two_results_are_never_one_file(
    tmp_path: Path, names: list[str], image_format: ImageFormat | None
) -> None:
    paths = [tmp_path / name for name in names]
    draw(*paths)
    with pytest.raises(OutputError, match=r"photo\.png and .*photo\.\w+ would both become .*photo\."):
        planned(*paths, output=tmp_path / "out", image_format=image_format, overwrite=True)


def test_a_photograph_is_not_replaced_by_its_own_result_unasked(tmp_path: Path) -> None:
    draw(tmp_path / "photo.png")
    for output in (tmp_path, tmp_path / "photo.png", tmp_path / "sub/.."):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="--overwrite allows that"):
            planned(tmp_path / "photo.png", output=output)
        assert planned(tmp_path / "photo.png", output=output, overwrite=True).ready


def test_a_photograph_is_never_replaced_by_the_result_of_another(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", tmp_path / "a.jpg")
    with pytest.raises(OutputError, match="which is to be restored as well"):
        planned(tmp_path / "a.jpg", tmp_path / "a.png", output=tmp_path, image_format=PNG, overwrite=True)


def test_results_that_exist_are_not_made_again(tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png", tmp_path / "in/b.png", tmp_path / "out/a.png")
    found = planned(tmp_path / "in", output=tmp_path / "out")
    assert [task.path.name for task in found.existing] == ["a.png"]
    assert [task.path.name for task in found.ready] == ["b.png"]
    assert len(planned(tmp_path / "in", output=tmp_path / "out", overwrite=True).ready) == 2


def test_what_is_no_image_is_told_apart_and_stops_nothing(tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("not a picture")
    (tmp_path / "in/c.png").write_bytes(b"")
    found = planned(tmp_path / "in", output=tmp_path / "out")
    assert [task.path.name for task in found.ready] == ["a.png"]
    assert [(one.path.name, one.error.split(" (")[0]) for one in found.unreadable] == [
        ("b.png", "not an image of a format that is taken"),
        ("c.png", "the image is empty"),
    ]


@pytest.mark.parametrize("output", ["out.png", "file", "-"])
def test_several_results_need_a_folder(tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(Path("a.png"), Path("b.png"))
    Path("file").touch()
    with pytest.raises(OutputError, match="is not a folder"):
        planned(Path("a.png"), Path("b.png"), output=Path(output))


def test_a_pipe_has_no_name_to_keep(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="has no name"):
        planned(PIPE, output=tmp_path)
    assert planned(PIPE, output=PIPE).ready[0].image_format is None
    assert planned(PIPE, output=tmp_path / "new.webp").ready[0].image_format is WEBP
