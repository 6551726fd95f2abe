"""One prompt for pictures that follow each other: it changes with the scene or the weather, not from picture
to picture. A prompt that flips makes the restored pictures flicker."""

import math
import threading

import torch
import torch.nn.functional as F
from torch import Tensor

from model.depth import LEVELS
from model.perception import DETAILS_FROM, Perception
from model.prompts import PERHAPS_RAIN, SURELY_CLEAN, describe

LOOK_SECONDS = 0.5
"""Time between two looks; a new scene is looked at at once."""

MEMORY_SECONDS = 2.0
"""Looks at a scene are averaged; older ones count for less, by this time constant."""

STAY = 0.2
"""Share of every average that is put on the words in force: others take their place only where they are
likelier by `STAY / (1 - STAY)`, a quarter."""

GRID = 8
"""To find where scenes begin, pictures are compared by the mean colours of so many fields squared."""

CUT = 0.12
"""Mean difference of the fields of two pictures, in [0, 1], from which on another scene begins. Rain, and a
camera that pans, change them by less."""

Scores = dict[str, float]


class SteadyPrompt:
    """Tells the prompt of one picture after the other.

    The first picture of a scene is perceived, and then one every `LOOK_SECONDS`. The scores are averaged over
    the scene, and the words change only where the average is clearly against them. May be called by several
    threads.
    """

    def __init__(self, perception: Perception) -> None:
        self._perception = perception
        self._words: tuple[str, str, str] | None = None
        self._average: tuple[Scores, Scores, Scores] | None = None
        self._looks = 0
        self._looked_at = -math.inf
        self._fields: Tensor | None = None
        self._lock = threading.Lock()

    def __call__(self, image: Tensor, at: float) -> str:
        """The prompt of a uint8 or uint16 image (3, H, W) that is shown at so many seconds."""
        with self._lock:
            fields = mean_fields(image)
            if self._fields is not None and float((fields - self._fields).abs().mean()) > CUT:
                self._average = None
            self._fields = fields
            if self._words is None or self._average is None or at - self._looked_at >= LOOK_SECONDS:
                self._words = self._look(image, at)
            return describe(*self._words)

    def _look(self, image: Tensor, at: float) -> tuple[str, str, str]:
        seen = self._perception(image)
        scores = (seen.types, seen.densities, seen.directions)
        if self._average is None:
            self._looks = 1
            self._average = scores
        else:
            self._looks += 1
            weight = max(1 / self._looks, 1 - math.exp((self._looked_at - at) / MEMORY_SECONDS))
            types, densities, directions = self._average
            self._average = (
                _blend(types, seen.types, weight),
                _blend(densities, seen.densities, weight),
                _blend(directions, seen.directions, weight),
            )
        self._looked_at = at
        if self._words is None:
            return self._perception.degradation(*self._average)
        types, densities, directions = self._average
        kind, density, direction = self._words
        return self._perception.degradation(
            _leaning(types, self._types_of(kind)),
            _leaning(densities, {density: 1.0}),
            _leaning(directions, {direction: 1.0}),
        )

    def _types_of(self, kind: str) -> Scores:
        """The types that the average leans towards by what is named: the middle of where it is named."""
        rain_from, clean_below = self._perception.rain_from, self._perception.clean_below
        between = {PERHAPS_RAIN: (rain_from + DETAILS_FROM) / 2, "clean": (clean_below + rain_from) / 2}
        rain = between.get(kind, 0.0 if kind == SURELY_CLEAN else 1.0)
        return {"rain": rain, "clean": 1 - rain}


def _blend(scores: Scores, others: Scores, weight: float) -> Scores:
    return {word: score + weight * (others[word] - score) for word, score in scores.items()}


def _leaning(scores: Scores, towards: Scores) -> Scores:
    return _blend(scores, dict.fromkeys(scores, 0.0) | towards, STAY)


def mean_fields(image: Tensor) -> Tensor:
    """Mean colours (3, GRID, GRID) in [0, 1] of an image (3, H, W), from a sample of its pixels."""
    height, width = image.shape[-2:]
    sample = image[:, :: max(1, height // 64), :: max(1, width // 64)].to(torch.float32)
    return F.adaptive_avg_pool2d(sample / LEVELS[image.dtype], (GRID, GRID))
