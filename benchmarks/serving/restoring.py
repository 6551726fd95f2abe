"""The same work for every server: JPEG files in, the same network and prompt, JPEG files out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from app import images
from app.image_headers import ImageLimits
from app.images import Photograph
from model.checkpoint_folders import default_weights_dir
from model.prompts import Prompt
from model.restorer import Restorer

MODEL = "tvi-derain-s"
PROMPT = "a photo with heavy rain streaks"
LIMITS = ImageLimits(2**27)


def load() -> Restorer:
    """The shipped weights, with their prompt encoded."""
    restorer = Restorer.from_checkpoint(default_weights_dir() / MODEL)
    restorer.encode([Prompt(PROMPT)])
    return restorer


def decode(data: bytes) -> Photograph:
    """As the service does."""
    return images.decode(data, LIMITS)


def encode(photograph: Photograph) -> bytes:
    """As the service does."""
    return images.encode(photograph, photograph.image_format)


def restore(restorer: Restorer, photographs: Sequence[Photograph]) -> list[Photograph]:
    """A batch of mixed sizes: those of one padded size go through the network together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, photograph in enumerate(photographs):
        groups.setdefault(restorer.padded_size(photograph.height, photograph.width), []).append(index)
    restored: dict[int, Tensor] = {}
    for indices in groups.values():
        pixels = [photographs[index].pixels for index in indices]
        restored |= zip(indices, restorer.restore(pixels, [Prompt(PROMPT)] * len(pixels)), strict=True)
    return [photograph.with_pixels(restored[index]) for index, photograph in enumerate(photographs)]
