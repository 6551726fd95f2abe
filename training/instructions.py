"""Which target a prompt asks for: text that matters is trained by letting the prompt choose what is removed.

About half of the samples are described in full, a quarter asks for less, a tenth asks for nothing, and the
rest comes without a prompt (the null token).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from model.prompts import DENSITIES, DIRECTIONS, Prompt
from training.descriptions import TRAINING, Attributes, Wording, canonical, disturb, sentence
from training.rain import Degraded, density_name, direction_name

UNCHANGED = (
    "leave it unchanged",
    "leave the picture as it is",
    "do nothing",
    "keep the image untouched",
    "change nothing",
    "keep everything",
    "no restoration please",
)
LIGHTLY = (
    "remove the rain lightly",
    "only lightly remove the rain",
    "reduce the rain a bit",
    "remove half of the rain",
    "weaken the rain streaks",
    "lightly derain",
)
PLAIN = (
    "remove the rain",
    "derain",
    "derain this photo",
    "remove rain streaks",
    "take the rain out",
    "clean the picture",
)
COMPLETELY = (
    "completely remove the rain",
    "remove all of the rain",
    "remove the rain completely",
    "derain fully",
    "remove every rain streak",
)
RAIN_ONLY = (
    "remove the rain only and keep the haze",
    "only the rain, keep the fog",
    "remove rain but not the haze",
    "remove rain streaks, leave the mist",
)

MISTAKEN = ("rain", "rain and haze", "haze", "noise", "clean")
"""What perception mistakes a degradation for, likelier ones first."""

LIGHTLY_KEEPS = 0.5
"""Share of the rain layer that `lightly` leaves."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of the kinds of prompt; the rest of 1 comes without one."""

    full: float = 0.55
    partial: float = 0.17
    unchanged: float = 0.10


def attributes_of(sample: Degraded) -> list[Attributes]:
    """What is wrong with each image of a batch, from what was composed."""
    found: list[Attributes] = []
    for density, angle, haze, noise in zip(
        sample.density.tolist(),
        sample.angle.tolist(),
        sample.has_haze.tolist(),
        sample.has_noise.tolist(),
        strict=True,
    ):
        if density > 0.002:
            kind = "rain and haze" if haze else "rain"
            found.append(Attributes(kind, density_name(density), direction_name(angle)))
        else:
            found.append(Attributes("haze" if haze else "noise" if noise else "clean"))
    return found


def misperceived(attributes: Attributes, rng: random.Random) -> Attributes:
    """What perception may take a degradation for; a wrong description asks for a clean picture as well."""
    kind = rng.choices((attributes.kind, *MISTAKEN), weights=(4, 2, 2, 1, 1, 1))[0]
    if kind not in ("rain", "rain and haze"):
        return Attributes(kind)
    return Attributes(kind, rng.choice(DENSITIES), rng.choice(DIRECTIONS))


def instruct(
    sample: Degraded, mixture: Mixture, rng: random.Random, wording: Wording = TRAINING
) -> tuple[list[Prompt], Tensor]:
    """Prompts for a batch and the targets (B, 3, H, W) that they ask for."""
    strength = torch.zeros_like(sample.density)
    keep_haze = torch.zeros_like(sample.has_haze)
    keep_all = torch.zeros_like(sample.has_haze)
    prompts: list[Prompt] = []
    for i, attributes in enumerate(attributes_of(sample)):
        choice = rng.random()
        text: str | None = None
        rainy = attributes.density is not None
        if choice < mixture.full:
            if rng.random() < 0.5:
                text = canonical(misperceived(attributes, rng) if rng.random() < 0.4 else attributes)
            elif rainy and rng.random() < 0.4:
                text = rng.choice(PLAIN if rng.random() < 0.6 else COMPLETELY)
                if attributes.kind == "rain and haze":
                    text += " and the haze"
            else:
                text = sentence(attributes, rng, wording)
        elif choice < mixture.full + mixture.partial:
            if attributes.kind == "rain and haze" and rng.random() < 0.6:
                text = rng.choice(RAIN_ONLY)
                keep_haze[i] = True
            elif rainy:
                text = rng.choice(LIGHTLY)
                strength[i] = LIGHTLY_KEEPS
            else:
                text = rng.choice(PLAIN)
                keep_haze[i] = True
        elif choice < mixture.full + mixture.partial + mixture.unchanged:
            text = rng.choice(UNCHANGED)
            keep_all[i] = True
        prompts.append(Prompt(degradation=None if text is None else disturb(text, rng)))

    def select(flag: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(flag[:, None, None, None], yes, no)

    target = select(keep_haze, sample.with_rain(strength), sample.with_rain(strength, haze=False))
    return prompts, select(keep_all, sample.rainy, target)
