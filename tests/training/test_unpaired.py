"""What real rain is judged by: only places without rain may count, and damage done there must show."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from training.cli import evaluate
from training.rain import procedural_layer
from training.unpaired import ENOUGH, change_of, rain_free, steepness

PHOTOGRAPHS = Path(__file__).resolve().parent.parent / "data" / "pairs" / "input"


def scene(height: int = 160, width: int = 240) -> Tensor:
    """A soft picture with a grain of up to two levels, uint8."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand((1, 3, 5, 7), generator=generator) * 140 + 40
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    grain = torch.randint(-2, 3, (3, height, width), generator=generator)
    return (smooth.round() + grain).clamp(0, 255).byte()


def rained_on(image: Tensor, side: slice) -> tuple[Tensor, Tensor]:
    """The image with streaks in some of its columns, and the layer, float in [0, 1], that was added."""
    _, height, width = image.shape
    generator = torch.Generator().manual_seed(3)
    layer = procedural_layer(torch.tensor([0.1]), (height, width), 1, torch.zeros(1), generator)[0, 0]
    shown = torch.zeros_like(layer)
    shown[:, side] = layer[:, side]
    return (image / 255 + shown).clamp(0, 1).mul(255).round().byte(), shown


def run(*arguments: str | Path) -> Result:
    command = typer.Typer()
    command.command("evaluate")(evaluate)
    command.callback()(lambda: None)
    return CliRunner().invoke(command, ["evaluate", *map(str, arguments)])


def test_places_with_rain_do_not_count_and_others_do():
    rainy, layer = rained_on(scene(), slice(0, 120))
    free = rain_free(rainy)
    assert free[:, 140:].float().mean() > 0.9
    assert layer[free].mean() * 255 < 1
    assert layer[~free].mean() * 255 > 20


def test_rain_that_shows_in_one_channel_only_is_rain():
    """As on a surface too bright in the others to show it."""
    image = scene()
    rainy, layer = rained_on(image, slice(0, 240))
    image[0] = rainy[0]
    free = rain_free(image)
    assert layer[free].mean() * 255 < 2
    assert layer[~free].mean() * 255 > 20


def test_drift_is_what_was_added_to_each_channel():
    image = scene()
    restored = (image.int() + torch.tensor([3, -2, 0])[:, None, None]).byte()
    share, drift, texture = change_of(image, restored)
    assert share > 0.9
    assert drift == pytest.approx((3, -2, 0))
    assert texture == pytest.approx(1)


def test_what_changes_in_the_rain_is_no_drift():
    image = scene()
    rainy, _ = rained_on(image, slice(0, 120))
    _, drift, texture = change_of(rainy, image)
    assert drift is not None
    assert max(map(abs, drift)) < 0.5
    assert texture == pytest.approx(1, abs=0.1)


def test_blur_takes_texture():
    image = scene()
    blurred = F.avg_pool2d(image[None].float(), 3, stride=1, padding=1, count_include_pad=False)[0]
    _, _, texture = change_of(image, blurred.round().byte())
    assert texture is not None
    assert texture < 0.6


def test_without_texture_there_is_none_to_lose():
    flat = torch.full((3, 40, 50), 90, dtype=torch.uint8)
    assert change_of(flat, flat) == (1, (0, 0, 0), None)


def test_where_it_rains_everywhere_nothing_is_said():
    columns = torch.zeros((3, 40, 60), dtype=torch.uint8)
    columns[:, :, ::4] = 200
    share, drift, texture = change_of(columns, torch.zeros_like(columns))
    assert share < ENOUGH
    assert (drift, texture) == (None, None)


def test_steep_streaks_raise_steepness_and_blur_does_not():
    image = scene()
    rainy, _ = rained_on(image, slice(0, 240))
    assert steepness(rainy) > 1.3 * steepness(image)
    assert steepness(rainy.transpose(1, 2)) < steepness(image.transpose(1, 2)) / 1.3
    blurred = F.avg_pool2d(image[None].float(), 3, stride=1, padding=1, count_include_pad=False)[0]
    assert steepness(blurred) == pytest.approx(steepness(image), rel=0.2)
    assert steepness(torch.zeros(3, 1, 5)) == 0


def test_command_says_how_far_colours_drift(tmp_path: Path):
    shutil.copy(PHOTOGRAPHS / "nuthatch-heavy-rain.jpg", tmp_path)
    streaky = np.zeros((64, 96, 3), dtype=np.uint8)
    streaky[:, ::4] = 200
    Image.fromarray(streaky).save(tmp_path / "streaky.png")
    path = tmp_path / "report.json"
    result = run("--unpaired", "--data", tmp_path, "--json", path, "--device", "cpu")
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text())
    assert written["model"] == "tvi-derain-s"
    nuthatch, streaks = written["photographs"]
    assert nuthatch["name"] == "nuthatch-heavy-rain"
    for value in nuthatch["drift"]:
        assert f"{value:+.2f}" in result.output
    assert f"{nuthatch['texture']:.0%}" in result.output
    assert nuthatch["steepness"][1] < nuthatch["steepness"][0]
    assert f"{streaks['steepness'][0]:.2f}" in result.output
    largest = max(map(abs, nuthatch["drift"]))
    assert f"largest drift {largest:.2f} of 255, in nuthatch-heavy-rain" in result.output
    assert streaks["drift"] is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--prompts",), "goes with"),
        (("--save", "out"), "goes with"),
        ((), "no photographs in"),
    ],
)
def test_command_says_what_does_not_go(options: tuple[str, ...], complaint: str, tmp_path: Path):
    result = run("--unpaired", "--data", tmp_path, *options)
    assert result.exit_code == 2
    assert complaint in result.output


def test_command_names_a_photograph_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    result = run("--unpaired", "--data", tmp_path, "--device", "cpu")
    assert result.exit_code == 1
    assert "broken.jpg cannot be read" in result.output
