"""The two prompts of TVI-Derain, and the vocabulary in which degradations are described."""

from __future__ import annotations

from dataclasses import dataclass

TYPES: tuple[str, ...] = ("clean", "rain", "rain and haze", "haze", "noise", "blur", "raindrops")
"""Degradations that `perceive` tells apart. Haze stands for the veil of distant, unresolved rain as well."""

SURELY_CLEAN, PERHAPS_RAIN = "surely clean", "perhaps rain"
"""What `perceive` names instead of `clean` where nothing is to be changed, and instead of `rain` where it is
not sure enough to tell how much and which way."""

DENSITIES: tuple[str, ...] = ("light", "moderate", "heavy")
DIRECTIONS: tuple[str, ...] = ("left", "vertical", "right")
"""Where streaks lead as they fall: `left` is from the upper right to the lower left."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the network is told about one image.

    Attributes:
        degradation: what is wrong with the picture or what to remove; None or blank: the null token.
        semantic: what the picture shows; None or blank: left out.
    """

    degradation: str | None = None
    semantic: str | None = None


def describe(kind: str, density: str | None = None, direction: str | None = None) -> str:
    """The canonical sentence for a degradation of `TYPES`, with density and direction where rain falls, or
    for `SURELY_CLEAN` or `PERHAPS_RAIN`.

    Raises:
        ValueError: for a word outside `TYPES`, `DENSITIES` or `DIRECTIONS`.
    """
    if kind == SURELY_CLEAN:
        return f"{describe('clean')}, leave it unchanged"
    if kind == PERHAPS_RAIN:
        return "a photo with rain"
    if kind not in TYPES:
        raise ValueError(f"unknown degradation {kind!r}")
    if kind == "clean":
        return "a clean photo without rain"
    if kind in ("haze", "noise", "blur", "raindrops"):
        subject = {
            "haze": "haze",
            "noise": "sensor noise",
            "blur": "blur",
            "raindrops": "raindrops on the lens",
        }[kind]
        return f"a photo with {subject}"
    if density not in DENSITIES or direction not in DIRECTIONS:
        raise ValueError("rain is described by a density and a direction")
    lean = "falling straight down" if direction == "vertical" else f"slanting to the {direction}"
    haze = " and haze" if kind == "rain and haze" else ""
    return f"a photo with {density} rain streaks {lean}{haze}"
