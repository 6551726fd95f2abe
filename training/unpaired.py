"""Photographs without a clean original: whether colours drift and texture is blurred where it does not rain,
and whether what is steep has gone.

Streaks are bright, thin and steep. Where nothing in the photograph is, there is nothing to take away, and
whatever changes there is damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.prompts import Prompt
from model.restorer import Restorer
from training.pairs import Picture

STREAK_WIDTH = 15
"""Pixels along a row within which what is brighter than both its sides may be a streak."""

FAINTEST = 8.0
"""Levels of 255 by which a streak is at least brighter than its sides; less is noise and compression."""

MARGIN = 3
"""Pixels around what may be a streak that may still belong to it."""

ENOUGH = 0.01
"""Share of a photograph that must be free of rain for its figures to mean something."""


@dataclass(frozen=True, slots=True)
class Change:
    """What restoring changed in a photograph where it does not rain.

    Attributes:
        name: the file's stem.
        prompt: the prompt that was perceived and used.
        rain_free: share of the photograph that was looked at.
        drift: mean of restored minus input in R, G and B, in 8-bit levels; None where less than `ENOUGH` is
            free of rain.
        texture: mean absolute difference between neighbours after restoring over that before, 1 where all is
            left; None likewise, and where there was none.
        steepness: of all of the photograph (`steepness`), before and after.
    """

    name: str
    prompt: str
    rain_free: float
    drift: tuple[float, float, float] | None
    texture: float | None
    steepness: tuple[float, float]

    @property
    def largest_drift(self) -> float | None:
        """That of the channel that drifts most, without its sign."""
        return None if self.drift is None else max(map(abs, self.drift))

    def to_dict(self) -> dict[str, Any]:
        """For a JSON report."""
        return asdict(self)


def rain_free(image: Tensor) -> Tensor:
    """Where no streak of rain can be: nothing there is bright, thin and steep.

    The white top-hat along rows (Serra, Image Analysis and Mathematical Morphology, 1982) keeps what is
    brighter than its surroundings and narrower than `STREAK_WIDTH`, streaks among it; a place is free where
    that is faint in every channel. Rain that falls nearly level would be missed.

    Args:
        image: uint8 (3, H, W).

    Returns:
        bool (H, W).
    """
    levels = image.double()
    row, across = (1, STREAK_WIDTH), (0, STREAK_WIDTH // 2)
    eroded = -F.max_pool2d(-levels, row, stride=1, padding=across)
    opened = F.max_pool2d(eroded, row, stride=1, padding=across)
    top_hat = (levels - opened).amax(0, keepdim=True)
    return F.max_pool2d(top_hat, 2 * MARGIN + 1, stride=1, padding=MARGIN)[0] <= FAINTEST


def change_of(
    image: Tensor, restored: Tensor
) -> tuple[float, tuple[float, float, float] | None, float | None]:
    """Compares an image with what was made of it.

    Args:
        image: uint8 (3, H, W).
        restored: uint8 (3, H, W).

    Returns:
        The share of it that is free of rain, in [0, 1], and drift and texture there as in `Change`.
    """
    free = rain_free(image)
    share = free.double().mean().item()
    if share < ENOUGH:
        return share, None, None
    red, green, blue = (restored.double() - image.double())[:, free].mean(1).tolist()
    before, after = (_differences(one, free) for one in (image, restored))
    return share, (red, green, blue), after / before if before > 0 else None


def steepness(image: Tensor) -> float:
    """Mean absolute difference between neighbours along rows over that along columns.

    Steep streaks add to the former and hardly to the latter, so taking them away lowers it, whatever the
    scene has; what blurs both alike does not.

    Args:
        image: uint8 (3, H, W).

    Returns:
        0 or more; less than a thousandth of a level along columns counts as that.
    """
    differences = (image.double().diff(dim=axis).abs() for axis in (-1, -2))
    across, along = (float(one.sum()) / max(one.numel(), 1) for one in differences)
    return across / max(along, 1e-3)


def evaluate_unpaired(
    restorer: Restorer, photographs: Sequence[Path], *, progress: Callable[[], object] = lambda: None
) -> list[Change]:
    """Restores photographs, one after the other, with the prompt perceived in each.

    Args:
        restorer: the model.
        photographs: image files.
        progress: called after each.

    Raises:
        PairsError: a file that cannot be read.
    """
    changes: list[Change] = []
    for path in photographs:
        image = Picture(path).read()
        prompt = restorer.perceive(image).prompt
        (restored,) = restorer.restore([image], [Prompt(degradation=prompt)])
        steep = steepness(image), steepness(restored)
        changes.append(Change(path.stem, prompt, *change_of(image, restored), steep))
        progress()
    return changes


def _differences(image: Tensor, free: Tensor) -> float:
    """Mean absolute difference between neighbours that both lie in `free`, 0 without any."""
    found: list[Tensor] = []
    for axis in (-1, -2):
        length = image.shape[axis] - 1
        inside = free.narrow(axis, 0, length) & free.narrow(axis, 1, length)
        found.append(image.double().diff(dim=axis).abs()[:, inside].flatten())
    together = torch.cat(found)
    return together.mean().item() if together.numel() else 0.0
