"""What training sees of a photograph: crops of it, some stretched, shrunk or behind drawn lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from training.scenes import random_crops
from training.variety import Variety, with_lines


@pytest.fixture
def grain() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 90, 120), dtype=np.uint8))


def steps(crops: Tensor, axis: int) -> float:
    """How much neighbours along an axis differ."""
    return float(crops.float().diff(dim=axis).abs().mean())


def test_crops_are_pixels_of_the_photograph(grain: Tensor) -> None:
    crops = random_crops([grain], 16, [0] * 20, np.random.default_rng(1))
    windows = grain.unfold(1, 16, 1).unfold(2, 16, 1)
    for crop in crops:
        assert any(
            (windows == one[:, None, None]).all(-1).all(-1).all(0).any() for one in (crop, crop.flip(-1))
        )


def test_upright_crops_have_longer_lines_from_top_to_bottom(grain: Tensor) -> None:
    crops = random_crops([grain], 64, [0] * 20, np.random.default_rng(1), variety=Variety(upright=1))
    assert crops.shape == (20, 3, 64, 64)
    assert crops.dtype == torch.uint8
    assert steps(crops, -2) < 0.7 * steps(crops, -1)
    plain = random_crops([grain], 64, [0] * 20, np.random.default_rng(1))
    assert steps(plain, -2) == pytest.approx(steps(plain, -1), rel=0.05)


def test_a_photograph_smaller_than_the_crop_is_mirrored(grain: Tensor) -> None:
    assert random_crops([grain], 130, [0, 0], np.random.default_rng(1)).shape == (2, 3, 130, 130)
    for variety in (Variety(upright=1), Variety(fine=1)):
        crops = random_crops([grain], 400, [0], np.random.default_rng(1), variety=variety)
        assert crops.shape == (1, 3, 400, 400)


def test_fine_crops_show_more_of_the_photograph() -> None:
    ramp = torch.arange(240, dtype=torch.uint8).expand(3, 240, 240)
    plain = random_crops([ramp], 60, [0] * 20, np.random.default_rng(1))
    fine = random_crops([ramp], 60, [0] * 20, np.random.default_rng(1), variety=Variety(fine=1))
    assert fine.shape == plain.shape

    def span(crops: Tensor) -> float:
        ranges = crops.float().amax((1, 2, 3)) - crops.float().amin((1, 2, 3))
        return float(ranges.mean())

    assert span(plain) == 59
    assert span(fine) == pytest.approx(2 * 59, rel=0.2)
    ways = {
        bool(crop.float().diff(dim=-1).abs().sum() > crop.float().diff(dim=-2).abs().sum()) for crop in fine
    }
    assert ways == {True, False}, "some are turned by a quarter"


def test_lines_cross_the_crop_at_equal_distances() -> None:
    plain = torch.full((3, 96, 96), 128, dtype=torch.uint8)
    drawn = [with_lines(plain, np.random.default_rng(seed)) for seed in range(200)]
    assert all(crop.shape == (3, 96, 96) and crop.dtype == torch.uint8 for crop in drawn)
    changed = torch.tensor(
        [float((crop != crop.flatten(1).mode().values[:, None, None]).float().mean()) for crop in drawn]
    )
    assert 0.1 < changed.median() < 0.7
    # an even pattern is found again a few pixels further on, rain is not
    again = 0
    for crop in drawn:
        grey = crop.float().mean(0) - crop.float().mean()
        power = torch.fft.fft2(grey).abs().square()
        power[0, 0] = 0
        again += bool(power.flatten().topk(6).values.sum() > 0.25 * power.sum())
    assert again > 150


def test_a_share_of_the_photographs_is_lined() -> None:
    plain = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    crops = random_crops([plain], 64, [0] * 400, np.random.default_rng(1), variety=Variety(lined=0.25))
    lined = (crops != 128).flatten(1).any(1).float().mean()
    assert 0.18 < float(lined) < 0.3


def test_grey_crops_have_one_channel_thrice_and_the_tones_of_the_photograph(grain: Tensor) -> None:
    crops = random_crops([grain], 64, [0] * 40, np.random.default_rng(1), variety=Variety(grey=0.5))
    grey = (crops == crops[:, :1]).all((1, 2, 3))
    assert 10 < grey.sum() < 30
    assert crops.dtype == torch.uint8
    assert crops[grey].float().mean().item() == pytest.approx(grain.float().mean().item(), rel=0.05)
