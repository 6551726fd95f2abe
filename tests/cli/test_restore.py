"""`derain restore`, `perceive` and `models` with the shipped weights, on files as people have them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from app import files
from app.cli import cli
from app.files import Order, Restoration
from app.image_headers import ImageLimits
from app.images import decode, set_up_codecs
from app.inputs import find_inputs
from app.outputs import Task, plan
from model.checkpoint_folders import available, default_weights_dir
from model.prompts import Prompt
from model.restorer import Restorer

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


def test_a_broken_file_stops_no_other_and_every_line_of_json_says_what_became_of_one(tmp_path: Path) -> None:
    for seed, name in enumerate(("in/a.png", "in/d.png", "out/d.png")):
        draw(tmp_path / name, 64, 64, seed)
    (tmp_path / "in/b.png").write_bytes(b"no picture")
    (tmp_path / "in/c.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:200])
    kept = (tmp_path / "out/d.png").read_bytes()
    result = derain("restore", tmp_path / "in", "--output", tmp_path / "out", "--prompt", PROMPT, "--json")
    assert result.exit_code == 1
    assert "b.png: not an image" in result.stderr
    assert "2 of 4 failed" in result.stderr
    told = {Path(one["input"]).name: one for one in map(json.loads, result.stdout.splitlines())}
    assert {name: one["status"] for name, one in told.items()} == {
        "a.png": "restored",
        "b.png": "failed",
        "c.png": "failed",
        "d.png": "skipped",
    }
    assert told["a.png"] == {
        "input": str(tmp_path / "in/a.png"),
        "output": str(tmp_path / "out/a.png"),
        "status": "restored",
        "prompt": PROMPT,
        "width": 64,
        "height": 64,
        "error": None,
    }
    assert told["c.png"]["output"] is None
    assert "broken png data" in told["c.png"]["error"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "d.png"]
    assert (tmp_path / "out/d.png").read_bytes() == kept


def test_what_exists_is_skipped_counted_and_replaced_only_when_asked(tmp_path: Path) -> None:
    for seed, name in enumerate(("in/a.png", "in/b.png", "out/a.png")):
        draw(tmp_path / name, 64, 64, seed)
    before = (tmp_path / "out/a.png").read_bytes()
    again = ["restore", tmp_path / "in/*.png", "-o", tmp_path / "out", "--prompt", PROMPT]
    for expected in ({"restored": "1", "skipped,": "1"}, {"skipped,": "2"}):
        result = derain(*again)
        assert result.exit_code == 0, result.output
        rows = {words[0]: words[1:] for line in result.stdout.splitlines() if (words := line.split())}
        table = {name: rows[name][-1] if name == "skipped," else rows[name][0] for name in expected}
        assert table == expected
        assert (tmp_path / "out/a.png").read_bytes() == before
    assert derain(*again, "--overwrite").exit_code == 0
    assert (tmp_path / "out/a.png").read_bytes() != before


def test_no_work_is_begun_where_a_result_has_no_place(tmp_path: Path) -> None:
    for seed, name in enumerate(("one/photo.png", "two/photo.png")):
        draw(tmp_path / name, 64, 64, seed)
    both = derain("restore", tmp_path / "one/photo.png", tmp_path / "two/photo.png", "-o", tmp_path / "out")
    itself = derain("restore", tmp_path / "one", "-o", tmp_path / "one")
    for result, said in ((both, "would both become"), (itself, "--overwrite")):
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_image_comes_through_pipes_whatever_they_are(tmp_path: Path, restorer: Restorer) -> None:
    draw(tmp_path / "photo.png", 51, 70, 0)
    data = (tmp_path / "photo.png").read_bytes()
    [alone] = restorer.restore([pixels(tmp_path / "photo.png")], [Prompt(PROMPT)])
    arguments = ["restore", "-", "--prompt", PROMPT]
    piped = CliRunner().invoke(cli, arguments, input=data)
    assert piped.exit_code == 0, piped.stderr
    assert piped.stderr == ""
    assert (decode(piped.stdout_bytes, ImageLimits(10**8)).pixels.int() - alone.int()).abs().max() <= 1
    jpeg = CliRunner().invoke(cli, [*arguments, "-o", "-", "--format", "jpeg"], input=data)
    assert jpeg.stdout_bytes.startswith(b"\xff\xd8\xff")
    file = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "new.webp")], input=data)
    assert file.exit_code == 0
    assert (tmp_path / "new.webp").read_bytes()[8:12] == b"WEBP"
    broken = CliRunner().invoke(cli, arguments, input=b"no picture")
    assert (broken.exit_code, broken.stdout_bytes) == (1, b"")
    assert "-: not an image" in broken.stderr


def test_the_network_gets_batches_while_files_are_read_and_written(
    tmp_path: Path, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time, a GPU would mostly wait."""
    for seed in range(24):
        draw(tmp_path / f"{seed}.png", 64, 64, seed)
    inputs = plan(find_inputs([str(tmp_path)]), tmp_path / "out").ready
    batches: list[int] = []
    original = restorer.restore

    def counted(images: list[torch.Tensor], prompts: list[Prompt], **options: Any) -> list[torch.Tensor]:
        batches.append(len(images))
        return original(images, prompts, **options)

    monkeypatch.setattr(restorer, "restore", counted)
    order = Order(prompt=PROMPT, limits=ImageLimits(10**8))
    outcomes = list(Restoration(restorer, order, jobs=2).run(inputs))
    assert {outcome.status for outcome in outcomes} == {"restored"}
    assert (len(outcomes), sum(batches)) == (24, 24)
    assert max(batches) > 1


def test_a_device_that_fails_is_told_of_every_file(
    tmp_path: Path, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    for seed in range(8):
        draw(tmp_path / f"{seed}.png", 64, 64, seed)
    monkeypatch.setattr(restorer, "restore", fail)
    monkeypatch.setattr(restorer, "healthy", lambda: False)
    inputs = plan(find_inputs([str(tmp_path)]), tmp_path / "out").ready
    order = Order(prompt=PROMPT, limits=ImageLimits(10**8))
    outcomes = list(Restoration(restorer, order, jobs=1).run(inputs))
    assert [outcome.status for outcome in outcomes] == ["failed"] * 8
    assert all("device" in (outcome.error or "") for outcome in outcomes)


def test_large_photographs_are_not_all_held_at_once(
    tmp_path: Path, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(12):
        draw(tmp_path / f"{seed}.png", 96, 96, seed)
    monkeypatch.setattr(files, "CPU_BATCH_PIXELS", 32 * 32)
    inputs = plan(find_inputs([str(tmp_path)]), tmp_path / "out").ready
    run = Restoration(restorer, Order(prompt=PROMPT, limits=ImageLimits(10**8)), jobs=1)
    taken: list[Task] = []

    def watched() -> Iterator[Task]:
        for task in inputs:
            taken.append(task)
            yield task

    ended = 0
    for outcome in run.run(watched()):
        ended += 1
        assert outcome.status == "restored"
        # one in the network, one or two that wait, and what is being written
        assert len(taken) - ended <= 6
    assert ended == 12


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
    assert described["image"] == str(tmp_path / "photo.png")
    assert described["prompt"] == prompt
    assert sum(described["types"].values()) == pytest.approx(1, abs=1e-3)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    both = derain("perceive", tmp_path / "*.png", "--device", "cpu")
    assert both.exit_code == 1
    assert prompt in both.stdout
    assert "broken.png: not an image" in both.stderr
    piped = CliRunner().invoke(cli, ["perceive", "-", "--json"], input=(tmp_path / "photo.png").read_bytes())
    assert json.loads(piped.stdout) == [{**described, "image": "-"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ["restore", "nowhere.png", "--output", "out"],
        ["restore", "."],
        ["restore", ".", "--output", "out", "--format", "gif"],
        ["restore", ".", "--output", "out", "--jobs", "0"],
        ["restore", ".", "--output", "out", "--model", "nothing"],
        ["restore", ".", "--output", "-", "--json"],
        ["restore", "*.gif", "--output", "out"],
        ["perceive"],
    ],
)
def test_a_wrong_call_is_told_apart_from_a_failure(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo.png", 8, 8, 0)
    result = derain(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"derain {arguments[0]}: ")
    assert result.stderr.count("\n") == 1
    assert not Path("out").exists()


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
