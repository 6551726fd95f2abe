"""What is perceived becomes the prompt: a wrong crop or scale, and the network is told the wrong thing."""

import copy
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.metrics import psnr
from model.perception import ATTRIBUTES, DEGRADATIONS, Perception, decide, without_bands
from model.prompts import DENSITIES, DIRECTIONS, PERHAPS_RAIN, SURELY_CLEAN, TYPES, Prompt, describe
from model.restorer import Restorer
from tests.model.conftest import PAIRS


def read(kind: str, name: str) -> Tensor:
    with Image.open(PAIRS / kind / f"{name}.jpg") as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture
def perception(shipped: Restorer) -> Perception:
    assert shipped.perception is not None
    return shipped.perception


def test_crops_are_pixels_of_the_image_as_they_are(perception: Perception, rainy: Tensor):
    crops = perception.crops(rainy)
    assert crops.shape[1:] == (3, perception.crop, perception.crop)
    assert len(crops) > 1
    windows = rainy.unfold(1, perception.crop, 1).unfold(2, perception.crop, 1)
    for crop in (crops * 255).round().to(torch.uint8):
        found = (windows[0, :, :, :4, :4] == crop[0, :4, :4]).all(-1).all(-1).nonzero()
        assert any(torch.equal(windows[:, y, x], crop) for y, x in found.tolist())


def test_time_does_not_grow_with_the_image(perception: Perception, rainy: Tensor):
    large = rainy.repeat(1, 8, 8)
    assert perception.crops(large).shape == perception.crops(rainy).shape
    assert len(perception.crops(large)) <= 16


@pytest.mark.parametrize("side", [1, 2])
def test_a_letterbox_is_seen_as_the_picture_within(perception: Perception, rainy: Tensor, side: int):
    """Black crops would be votes for dry weather."""
    noise = torch.randint(0, 7, rainy.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    depth = rainy.shape[side] // 6
    black = noise.narrow(side, 0, depth), noise.narrow(side, 0, 2 * depth)
    boxed = torch.cat((black[0], rainy, black[1]), dim=side)
    assert torch.equal(without_bands(boxed), rainy)
    assert perception(boxed) == perception(rainy)


def test_only_bands_are_left_out(rainy: Tensor):
    assert torch.equal(without_bands(rainy), rainy)
    assert without_bands(torch.zeros(3, 80, 60, dtype=torch.uint8)).shape == (3, 40, 30)  # all of one colour
    line = rainy.clone()
    line[:, 5] = 0  # within the picture
    assert torch.equal(without_bands(line), line)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (40, 300), (96, 96)])
def test_small_images_are_continued_not_refused(perception: Perception, rainy: Tensor, size: tuple[int, int]):
    image = rainy.repeat(1, 1, 2)[:, : size[0], : size[1]]
    crops = perception.crops(image)
    assert crops.shape[1:] == (3, perception.crop, perception.crop)
    assert set((crops * 255).round().to(torch.uint8).unique().tolist()) <= set(image.unique().tolist())


def test_every_degradation_has_a_sentence_of_its_own():
    sentences = [describe(*degradation) for degradation in DEGRADATIONS]
    assert len(set(sentences)) == len(sentences)
    assert {kind for kind, _, _ in DEGRADATIONS} == set(TYPES)
    assert len(DEGRADATIONS) == len(TYPES) - 2 + 2 * len(DENSITIES) * len(DIRECTIONS)


@pytest.mark.parametrize(
    "words", [("snow",), ("rain",), ("rain", "light"), ("rain", "wet", "left"), ("rain", "light", "up")]
)
def test_unknown_words_are_not_described(words: tuple[str, ...]):
    with pytest.raises(ValueError, match=r"unknown degradation|density and a direction"):
        describe(*words)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_each_marginal_has_a_temperature_of_its_own(shipped: Restorer, rainy: Tensor, attribute: str):
    assert shipped.perception is not None
    perception = copy.copy(shipped.perception)
    before = asdict(perception(rainy))
    perception.temperatures = perception.temperatures | {attribute: 0.1}
    after = asdict(perception(rainy))
    changed = {name for name in after if after[name] != before[name]} - {"prompt"}
    names = dict(zip(ATTRIBUTES, ("types", "densities", "directions"), strict=True))
    assert changed == {names[attribute]}
    surer = after[names[attribute]]
    assert sum(surer.values()) == pytest.approx(1)
    assert max(surer.values()) > max(before[names[attribute]].values())


@pytest.mark.parametrize(
    ("types", "named"),
    [
        ({"rain": 0.9, "clean": 0.1}, "rain"),
        ({"rain": 0.1, "rain and haze": 0.6, "clean": 0.3}, "rain"),
        ({"rain": 0.1, "rain and haze": 0.45, "clean": 0.45}, PERHAPS_RAIN),
        ({"rain": 0.1, "clean": 0.9}, "clean"),
        ({"rain": 0.1, "haze": 0.85, "clean": 0.05}, "rain"),
        ({"rain": 0.1, "clean": 0.7, "noise": 0.2}, "clean"),
        ({"rain": 0.05, "clean": 0.95}, SURELY_CLEAN),
        ({"noise": 1.0}, SURELY_CLEAN),
    ],
)
def test_only_rain_is_ever_asked_to_be_removed(types: dict[str, float], named: str):
    """A veil or noise that is perceived by mistake must not cost the picture its tones or its texture."""
    assert decide(dict.fromkeys(TYPES, 0.0) | types, clean_below=0.08) == named


def test_what_is_surely_clean_is_not_changed(shipped: Restorer):
    """Upright bars look like rain to the network: where perception knows better, the sentence says so."""
    bars = torch.full((3, 96, 96), 90, dtype=torch.uint8)
    bars[:, :, ::7] = bars[:, :, 1::7] = 200
    [restored] = shipped.restore([bars], [Prompt(degradation=describe(SURELY_CLEAN))])
    assert psnr(restored, bars) > 50
    assert shipped.perception is not None
    assert 0 < shipped.perception.clean_below < shipped.perception.rain_from


@pytest.mark.parametrize(
    "name", ["dogs-heavy-rain", "meadow-light-rain", "mountains-moderate-rain", "nuthatch-heavy-rain"]
)
def test_rain_is_told_from_its_absence(shipped: Restorer, name: str):
    def rain(image: Tensor) -> float:
        types = shipped.perceive(image).types
        return types["rain"] + types["rain and haze"]

    assert rain(read("input", name)) > 0.5
    assert rain(read("input", name)) > rain(read("target", name)) + 0.1


def test_heavy_rain_is_told_from_light_rain(shipped: Restorer):
    heavy, light = (
        shipped.perceive(read("input", name)).densities for name in ("dogs-heavy-rain", "meadow-light-rain")
    )
    assert heavy["heavy"] > light["heavy"]
    assert light["light"] > heavy["light"]
