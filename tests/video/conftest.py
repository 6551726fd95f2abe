"""What the tests of videos share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.video import VideoOrder, VideoSummary, restore_video
from benchmarks.rainy_clip import Frame, rainy_frames
from model.checkpoint_folders import default_weights_dir
from model.restorer import Restorer

PAIRS = Path(__file__).parents[1] / "data/pairs/target"

Restore = Callable[..., VideoSummary]


@pytest.fixture(scope="session")
def restorer() -> Restorer:
    """The shipped model; treat as read-only."""
    return Restorer.from_checkpoint(default_weights_dir() / "tvi-derain-s", device="cpu", precision="float32")


@pytest.fixture(scope="session")
def photograph() -> Frame:
    """128 x 96 pixels without rain."""
    with Image.open(PAIRS / "coffee-heavy-rain.jpg") as image:
        return np.array(image.convert("RGB").resize((128, 96)))


@pytest.fixture(scope="session")
def rainy(photograph: Frame) -> list[Frame]:
    """The photograph in a second's moving rain, and a sensor's noise."""
    return list(rainy_frames(photograph, 24, rain=0.08, noise=1.5))


@pytest.fixture(scope="session")
def restore(restorer: Restorer) -> Restore:
    """Restores a video file into another."""

    def restore(source: Path, target: Path, **order: Any) -> VideoSummary:
        return restore_video(restorer, source, target, VideoOrder(**order))

    return restore
