"""How often perception is right about whole images, and whether it is as sure as it is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from model.perception import Perceived
from model.prompts import SURELY_CLEAN, describe
from training.descriptions import Attributes

BINS = 15
"""Equal-width bins of confidence, as in the source of the measure."""


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Mean over bins of |share right - mean confidence|, each bin counting by what is in it (Guo et al., ICML
    2017, equation 3).

    Args:
        confidences: probability of each answer, in [0, 1]; a bin holds its upper edge, the first also 0.
        correct: whether it was right.

    Returns:
        From 0 (as sure as right) to 1.

    Raises:
        ValueError: no answers, not as many of the one as of the other, or a confidence that is no
            probability.
    """
    if not confidences or len(confidences) != len(correct):
        raise ValueError("expected as many confidences as answers, and at least one")
    if not all(0 <= confidence <= 1 for confidence in confidences):
        raise ValueError("a confidence is not in [0, 1]")
    excess = [0.0] * BINS
    for confidence, right in zip(confidences, correct, strict=True):
        place = next(i for i in range(BINS) if confidence <= (i + 1) / BINS)
        excess[place] += right - confidence
    return sum(map(abs, excess)) / len(confidences)


@dataclass(frozen=True, slots=True)
class Score:
    """Answers about one attribute: how many, the share that is right, and the expected calibration error."""

    images: int
    top1: float
    ece: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured.

    Attributes:
        attributes: scores of `type`, and of `density` and `direction` where it rains.
        rain_found: share of the rainy images whose sentence names rain.
        photographs: clean photographs looked at.
        clean_kept: share of them whose sentence says clean.
    """

    attributes: dict[str, Score]
    rain_found: float
    photographs: int
    clean_kept: float

    def to_dict(self) -> dict[str, Any]:
        """For a JSON report."""
        return asdict(self)


def measure_perception(
    perceive: Callable[[Tensor], Perceived],
    degraded: Iterable[tuple[Tensor, Attributes]],
    clean: Sequence[Tensor],
    *,
    progress: Callable[[], object] = lambda: None,
) -> Calibration:
    """Asks about each image what the service would ask.

    Args:
        perceive: a `Perception`.
        degraded: images, uint8 (3, H, W), and what they show; some rainy, and not all.
        clean: photographs, uint8 (3, H, W).
        progress: called after each image.

    Raises:
        ValueError: nothing rainy among the images, or no photograph.
    """
    answers: dict[str, list[tuple[float, bool]]] = {"type": [], "density": [], "direction": []}

    def note(attribute: str, probabilities: Mapping[str, float], truth: str) -> None:
        answer = max(probabilities, key=probabilities.__getitem__)
        answers[attribute].append((min(1.0, probabilities[answer]), answer == truth))

    dry = describe("clean"), describe(SURELY_CLEAN)
    found: list[bool] = []
    for image, shown in degraded:
        perceived = perceive(image)
        note("type", perceived.types, shown.kind)
        if shown.density is not None and shown.direction is not None:
            note("density", perceived.densities, shown.density)
            note("direction", perceived.directions, shown.direction)
            found.append(perceived.prompt not in dry)
        progress()
    kept: list[bool] = []
    for photograph in clean:
        kept.append(perceive(photograph).prompt in dry)
        progress()
    if not found or not kept:
        raise ValueError("perception is measured on rainy images and on clean photographs")
    return Calibration(
        attributes={name: _score(given) for name, given in answers.items()},
        rain_found=sum(found) / len(found),
        photographs=len(kept),
        clean_kept=sum(kept) / len(kept),
    )


def _score(answers: Sequence[tuple[float, bool]]) -> Score:
    confidences, correct = zip(*answers, strict=True)
    return Score(len(answers), sum(correct) / len(answers), expected_calibration_error(confidences, correct))
