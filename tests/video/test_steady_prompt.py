"""The prompt of a video. Were this wrong, the restored video would flicker between two of them, or keep that
of the scene before."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from app.steady_prompt import SteadyPrompt
from benchmarks.rainy_clip import Frame, rainy_frames
from model.perception import Perception
from model.restorer import Restorer
from tests.video.conftest import PAIRS

DRY = "a clean photo without rain"


@pytest.fixture(scope="module")
def perception(restorer: Restorer) -> Perception:
    assert restorer.perception is not None
    return restorer.perception


def cat() -> Frame:
    with Image.open(PAIRS / "cat-moderate-rain.jpg") as image:
        return np.array(image.convert("RGB").resize((128, 96)))


def pictures(photograph: Frame, count: int, rain: float) -> list[Tensor]:
    frames = rainy_frames(photograph, count, rain=rain, noise=1.5)
    return [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames]


def changes(prompts: list[str]) -> int:
    return sum(one != other for one, other in pairwise(prompts))


def test_it_stays_where_single_pictures_are_called_now_this_now_that(perception: Perception) -> None:
    seen = 0
    for rain in (0.005, 0.07):
        frames = pictures(cat(), 25, rain)
        seen += changes([perception(frame).prompt for frame in frames])
        for rate in (8, 25):
            steady = SteadyPrompt(perception)
            assert changes([steady(frame, number / rate) for number, frame in enumerate(frames)]) <= 1
    assert seen >= 8, "these frames were meant to be hard to tell"


def test_it_changes_with_the_scene_at_once(perception: Perception, photograph: Frame) -> None:
    dry, rainy = pictures(photograph, 10, 0), pictures(cat(), 10, 0.15)
    steady = SteadyPrompt(perception)
    prompts = [steady(frame, number / 25) for number, frame in enumerate([*dry, *rainy, *dry])]
    assert all(prompt.startswith(DRY) for prompt in (*prompts[:10], *prompts[20:]))
    assert len(set(prompts[10:20])) == 1
    assert "rain streaks" in prompts[10]


def test_it_changes_with_the_weather_once_it_is_sure(perception: Perception, photograph: Frame) -> None:
    frames = [*pictures(photograph, 20, 0), *pictures(photograph, 60, 0.12)]
    steady = SteadyPrompt(perception)
    prompts = [steady(frame, number / 10) for number, frame in enumerate(frames)]
    assert all(prompt.startswith(DRY) for prompt in prompts[:20])
    assert "rain streaks" in prompts[-1]
    assert changes(prompts) <= 4  # from surely dry to dry, perhaps rain, rain and the right rain


def test_sixteen_bits_are_perceived_as_eight(perception: Perception) -> None:
    [frame] = pictures(cat(), 1, 0.1)
    deep = (frame.to(torch.int32) * 257).to(torch.uint16)
    assert SteadyPrompt(perception)(deep, 0) == SteadyPrompt(perception)(frame, 0)
