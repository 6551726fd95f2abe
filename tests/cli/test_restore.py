"""`derain restore`, `perceive` and `models` with the shipped weights, on files as people have them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from app.cli import cli
from app.image_headers import ImageLimits
from app.images import decode, set_up_codecs
from model.prompts import Prompt
from model.restorer import Restorer
from model.weights import available, default_weights_dir

PROMPT = "a photo with heavy rain streaks falling straight down"


def derain(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def draw(path: Path, width: int, height: int, seed: int) -> None:
    """A picture that no other seed gives, smooth enough for JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_checkpoint(default_weights_dir() / "tvi-derain-s", device="cpu")


def pixels(path: Path) -> torch.Tensor:
    return decode(path.read_bytes(), ImageLimits(10**8)).pixels


def test_a_folder_comes_back_whole_and_in_place(tmp_path: Path, restorer: Restorer) -> None:
    sizes = {
        "a.png": (96, 64),
        "b.png": (96, 64),
        "deep/c.png": (51, 70),
        "d.png": (93, 62),
        "e.png": (96, 64),
    }
    for seed, (name, (width, height)) in enumerate(sizes.items()):
        draw(tmp_path / "in" / name, width, height, seed)
    result = derain(
        "restore", tmp_path / "in", "--output", tmp_path / "out", "--prompt", PROMPT, "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == set(sizes)
    for name in sizes:
        [alone] = restorer.restore([pixels(tmp_path / "in" / name)], [Prompt(PROMPT)])
        difference = alone.int() - pixels(tmp_path / "out" / name).int()
        assert difference.abs().max() <= 1, name


def test_one_broken_file_stops_no_other(tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png", 64, 64, 0)
    draw(tmp_path / "in/c.png", 64, 64, 1)
    (tmp_path / "in/b.png").write_bytes(b"no picture")
    result = derain("restore", tmp_path / "in", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "b.png: not an image" in result.output
    assert "1 of 3 failed" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    draw(tmp_path / "photo.png", 64, 64, 0)
    before = (tmp_path / "photo.png").read_bytes()
    refused = derain("restore", tmp_path / "photo.png", "--output", tmp_path)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output
    assert (tmp_path / "photo.png").read_bytes() == before
    assert derain("restore", tmp_path / "photo.png", "--output", tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "photo.png").read_bytes() != before


def test_two_inputs_never_share_an_output(tmp_path: Path) -> None:
    for seed, name in enumerate(("one/photo.png", "two/photo.png")):
        draw(tmp_path / name, 64, 64, seed)
    result = derain("restore", tmp_path / "one/photo.png", tmp_path / "two/photo.png", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "is already the result of" in result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    ("output", "options", "written", "image_format"),
    [
        ("new.webp", [], "new.webp", "WEBP"),
        ("folder", [], "folder/photo.jpg", "JPEG"),
        ("folder", ["--format", "png"], "folder/photo.png", "PNG"),
        ("odd.jpg", ["--format", "png"], "odd.jpg", "PNG"),
    ],
)
def test_format_and_place_of_a_single_file(
    tmp_path: Path, output: str, options: list[str], written: str, image_format: str
) -> None:
    draw(tmp_path / "photo.jpg", 72, 48, 0)
    result = derain("restore", tmp_path / "photo.jpg", "--output", tmp_path / output, *options)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / written) as image:
        assert (image.format, image.size) == (image_format, (72, 48))


@pytest.mark.parametrize("ending", ["avif", "heic"])
def test_photographs_of_telephones_come_back_in_their_format(tmp_path: Path, ending: str) -> None:
    set_up_codecs(10**8)
    draw(tmp_path / f"photo.{ending}", 72, 48, 0)
    result = derain("restore", tmp_path, "--output", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / f"photo.{ending}") as image:
        assert image.size == (72, 48)


def test_sixteen_bits_stay_and_metadata_goes_when_it_is_to_be_dropped(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271] = "A camera"
    samples = np.random.default_rng(0).integers(0, 65536, (48, 72), dtype=np.uint16)
    Image.fromarray(samples).save(tmp_path / "photo.png", exif=exif)
    for options, maker in (([], "A camera"), (["--drop-metadata"], None)):
        out = tmp_path / f"out{len(options)}"
        result = derain("restore", tmp_path / "photo.png", "--output", out, "--device", "cpu", *options)
        assert result.exit_code == 0, result.output
        with Image.open(out / "photo.png") as image:
            assert (image.mode, image.getexif().get(271)) == ("I;16", maker)


def test_the_prompt_is_perceived_and_said(tmp_path: Path, restorer: Restorer) -> None:
    draw(tmp_path / "photo.png", 96, 96, 0)
    prompt = restorer.perceive(pixels(tmp_path / "photo.png")).prompt
    restored = derain("restore", tmp_path / "photo.png", "--output", tmp_path / "out", "--device", "cpu")
    assert f"photo.png ({prompt})" in restored.output
    perceived = derain("perceive", tmp_path / "photo.png", "--json", "--device", "cpu")
    [described] = json.loads(perceived.stdout)
    assert described["prompt"] == prompt
    assert sum(described["types"].values()) == pytest.approx(1, abs=1e-3)
    assert prompt in derain("perceive", tmp_path / "photo.png", "--device", "cpu").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["restore", "nowhere.png", "--output", "out"],
        ["restore", "."],
        ["restore", ".", "--output", "out", "--format", "gif"],
        ["perceive"],
    ],
)
def test_a_wrong_call_is_told_apart_from_a_failure(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo.png", 8, 8, 0)
    assert derain(*arguments).exit_code == 2


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    draw(tmp_path / "photo.png", 64, 64, 0)
    result = derain("restore", tmp_path / "photo.png", "--output", tmp_path / "out", "--model", "nothing")
    assert result.exit_code == 1
    assert "nothing" in result.output
    assert not isinstance(result.exception, RuntimeError)


def test_models_lists_what_is_shipped(restorer: Restorer) -> None:
    listed = json.loads(derain("models", "--json").stdout)
    assert [one["name"] for one in listed] == available(default_weights_dir())
    [default] = [one["name"] for one in listed if one["default"]]
    assert default in derain("models").stdout
    assert {one["name"]: one["parameters"] for one in listed}["tvi-derain-s"] == restorer.parameters


def test_models_tells_a_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(default_weights_dir() / "tvi-derain-s", tmp_path / "tvi-derain-s")
    weights = tmp_path / "tvi-derain-s/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    monkeypatch.setenv("DERAIN_WEIGHTS_DIR", str(tmp_path))
    result = derain("models")
    assert result.exit_code == 1
    assert "damaged" in result.output
