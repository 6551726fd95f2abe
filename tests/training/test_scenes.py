"""What training sees of a photograph: crops of it, some stretched upright."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from training.scenes import random_crops


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
    crops = random_crops([grain], 64, [0] * 20, np.random.default_rng(1), upright=1)
    assert crops.shape == (20, 3, 64, 64)
    assert crops.dtype == torch.uint8
    assert steps(crops, -2) < 0.7 * steps(crops, -1)
    plain = random_crops([grain], 64, [0] * 20, np.random.default_rng(1))
    assert steps(plain, -2) == pytest.approx(steps(plain, -1), rel=0.05)


def test_a_photograph_smaller_than_the_crop_is_mirrored(grain: Tensor) -> None:
    assert random_crops([grain], 130, [0, 0], np.random.default_rng(1)).shape == (2, 3, 130, 130)
    assert random_crops([grain], 400, [0], np.random.default_rng(1), upright=1).shape == (1, 3, 400, 400)
