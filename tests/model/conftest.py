"""What the tests of the network share: the shipped weights, and a photograph in the rain."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.checkpoint_folders import default_weights_dir
from model.config import PRESETS
from model.network import TVIDerain
from model.restorer import Restorer
from model.text import TextEncoder
from model.weights import build_text_encoder

PAIRS = Path(__file__).resolve().parent.parent / "data" / "pairs"


@pytest.fixture(scope="session")
def weights() -> Path:
    return default_weights_dir()


@pytest.fixture(scope="session")
def shipped(weights: Path) -> Restorer:
    """The shipped model, computing in float32; treat as read-only."""
    return Restorer.from_checkpoint(weights / "tvi-derain-s", device="cpu", precision="float32")


@pytest.fixture
def encoder(weights: Path) -> TextEncoder:
    """An untrained text encoder E on the shipped, frozen text tower."""
    torch.manual_seed(0)
    return build_text_encoder(PRESETS["s"].text, weights)


@pytest.fixture(params=["s", "m", "paper"])
def preset(request: pytest.FixtureRequest) -> TVIDerain:
    """An untrained network of every preset, without its text encoder."""
    torch.manual_seed(0)
    return TVIDerain(PRESETS[request.param])


@pytest.fixture(scope="session")
def rainy() -> Tensor:
    """A photograph in heavy rain, uint8 (3, 256, 384)."""
    with Image.open(PAIRS / "input" / "nuthatch-heavy-rain.jpg") as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
