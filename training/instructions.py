"""Which target a prompt asks for: text that matters is trained by letting the prompt choose what is removed.

What a sentence names is removed and the rest stays: rain alone leaves the haze and the noise, haze alone
leaves the rain. Most samples are described in full, some ask for less or for nothing, and the rest comes
without a prompt (the null token), which removes everything. Of a sentence that says nothing known, rain is to
go: that is what all come for. Now and then the rain is described as perception might mistake it, or a clean
picture is called rainy and the other way round: then what is seen counts, not what was said.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.prompts import DENSITIES, DIRECTIONS, SURELY_CLEAN, Prompt, describe
from training.descriptions import (
    TRAINING,
    Attributes,
    Wording,
    canonical,
    caption,
    chatter,
    disturb,
    mentioned,
    punctuate,
    sentence,
    unheard_of,
    written,
)
from training.phrases import phrase
from training.rain import Degraded, density_name, direction_name

UNCHANGED = (
    describe(SURELY_CLEAN),
    "leave it unchanged",
    "leave the picture as it is",
    "do nothing",
    "keep the image untouched",
    "change nothing",
    "keep everything",
    "no restoration please",
    "do not change anything",
    "don't touch it",
    "no changes",
    "return the picture unchanged",
    "leave it alone",
    "keep the rain",
    "keep it as it is",
    "leave the image as is",
    "preserve everything",
    "do not remove anything",
    "no processing",
    "don't remove the rain",
    "do not derain",
    "leave the rain in",
    "i like the rain so keep it",
    "the rain should stay",
    "return the original",
    "same as the input",
)
LIGHTLY = (
    "remove the rain lightly",
    "only lightly remove the rain",
    "reduce the rain a bit",
    "remove half of the rain",
    "weaken the rain streaks",
    "lightly derain",
    "take away some of the rain",
    "make the rain a little weaker",
    "gently reduce the rain",
    "partly remove the rain",
    "only slightly remove the streaks",
    "tone down the rain",
    "soften the rain",
    "remove a little of the rain",
    "light deraining",
    "derain gently",
    "less rain please",
    "keep some of the rain",
    "remove some rain",
    "halve the rain",
)
PLAIN = (
    "remove the rain",
    "derain",
    "derain this photo",
    "remove rain streaks",
    "take the rain out",
    "clean the picture",
    "please remove the rain",
    "remove the rain from this image",
    "remove rain from the photo",
    "get rid of the rain",
    "delete the rain",
    "erase the rain streaks",
    "deraining",
    "make it look dry",
    "restore the picture",
    "rain removal",
    "remove the streaks",
    "i want this without rain",
    "clear the rain away",
)
COMPLETELY = (
    "completely remove the rain",
    "remove all of the rain",
    "remove the rain completely",
    "derain fully",
    "remove every rain streak",
    "remove all rain",
    "remove every trace of rain",
    "fully remove the rain",
    "strong deraining",
    "take all the rain away",
    "no rain may be left",
    "thoroughly remove the rain",
    "remove the rain entirely",
    "get rid of all the rain",
)
HAZE_TOO = tuple(f"{text} and the haze" for text in PLAIN)
RAIN_ONLY = (
    "remove the rain only and keep the haze",
    "only the rain, keep the fog",
    "remove rain but not the haze",
    "remove rain streaks, leave the mist",
    "take only the rain away",
    "leave the fog, remove the rain",
    "remove the rain but keep the mist",
)

MISTAKEN = ("rain", "rain and haze", "clean")
"""What perception may take a picture for that it is asked to derain."""

OTHER = ("haze", "noise", "blur", "raindrops")
"""What may be named instead of rain."""

LIGHTLY_KEEPS = 0.5
"""Share of the rain layer that `lightly` leaves."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of the kinds of prompt; the rest of 1 comes without one. `strange` of the full ones say nothing
    that is known, `perceived` of the others are what perception says, `strangers` of all have unknown words
    mixed in, and `captioned` of all have a caption as well."""

    full: float = 0.72
    partial: float = 0.12
    unchanged: float = 0.05
    strange: float = 0.15
    perceived: float = 0.4
    strangers: float = 0.2
    captioned: float = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A sentence (None: the null token) and what it asks for.

    Attributes:
        text: the degradation prompt.
        rain_left: share of the rain that stays.
        haze, noise: whether these are to be removed.
        thorough: rain left over is worse than too much taken away.
        described: what the sentence says is in the picture, if it is a description.
    """

    text: str | None
    rain_left: float = 0.0
    haze: bool = False
    noise: bool = False
    thorough: bool = False
    described: Attributes | None = None


@dataclass(frozen=True, slots=True)
class Instructed:
    """Prompts for a batch, the targets (B, 3, H, W) that they ask for, and where thoroughness is wanted
    (B,)."""

    prompts: list[Prompt]
    target: Tensor
    thorough: Tensor


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
    """What perception may take a degradation for."""
    kind = rng.choices((attributes.kind, *MISTAKEN), weights=(8, 6, 2, 0.5))[0]
    if kind not in ("rain", "rain and haze"):
        return Attributes(kind)
    return Attributes(kind, rng.choice(DENSITIES), rng.choice(DIRECTIONS))


def worded(fixed: Sequence[str], start: str, rng: random.Random) -> str:
    """One of the fixed sentences, or another for the same wish."""
    return phrase(start, rng) if rng.random() < 0.75 else rng.choice(fixed)


def in_full(attributes: Attributes, mixture: Mixture, rng: random.Random, wording: Wording) -> Request:
    """A prompt for the removal of everything that it names."""
    if rng.random() < mixture.perceived:
        named = misperceived(attributes, rng) if rng.random() < 0.4 else attributes
        return describing(named, canonical(named))
    way = rng.random()
    if way < 0.6:
        if rng.random() < (0.3 if "haze" in attributes.kind else 0.05):
            return Request(text=worded(HAZE_TOO, "remove_rain_and_haze", rng), haze=True)
        return Request(text=worded(PLAIN, "remove_rain", rng))
    if way < 0.75:
        return Request(text=worded(COMPLETELY, "remove_rain_completely", rng), thorough=True)
    named = mentioned(attributes, rng)
    return describing(named, description(named, rng, wording))


def description(named: Attributes, rng: random.Random, wording: Wording) -> str:
    """A sentence that says exactly what is named: one that was written for it, or one of the wording's."""
    for_it = written(named) if wording is TRAINING else ()
    return rng.choice(for_it) if for_it and rng.random() < 0.5 else sentence(named, rng, wording, detail=1)


def describing(named: Attributes, text: str) -> Request:
    """A sentence that names what is to go."""
    return Request(text=text, haze="haze" in named.kind, noise=named.kind == "noise", described=named)


def in_strange_words(attributes: Attributes, rng: random.Random, wording: Wording) -> Request:
    """A prompt that says nothing known: all rain is to go."""
    if rng.random() < 0.5:
        return Request(text=sentence(attributes, rng, wording, noun=unheard_of(rng)))
    return Request(text=chatter(rng))


def in_part(attributes: Attributes, rng: random.Random, wording: Wording) -> Request:
    """A prompt that leaves some or all of the rain, or the haze behind it."""
    way = rng.random()
    if attributes.kind == "rain and haze" and way < 0.4:
        return Request(text=worded(RAIN_ONLY, "remove_rain_only", rng))
    if attributes.density is not None and way < 0.65:
        return Request(text=worded(LIGHTLY, "weaken_rain", rng), rain_left=LIGHTLY_KEEPS)
    kind = "haze" if "haze" in attributes.kind and rng.random() < 0.5 else rng.choice(OTHER)
    asked = Request(text=None, rain_left=1.0, haze=kind == "haze", noise=kind == "noise")
    if kind in ("haze", "noise") and rng.random() < 0.5:
        return replace(asked, text=phrase(f"remove_{kind}", rng))
    named = Attributes(kind)
    return replace(asked, text=description(named, rng, wording), described=named)


def request(attributes: Attributes, mixture: Mixture, rng: random.Random, wording: Wording) -> Request:
    """One draw from the mixture."""
    way = rng.random()
    if way < mixture.full:
        if rng.random() < mixture.strange:
            return in_strange_words(attributes, rng, wording)
        return in_full(attributes, mixture, rng, wording)
    if way < mixture.full + mixture.partial:
        return in_part(attributes, rng, wording)
    if way < mixture.full + mixture.partial + mixture.unchanged:
        return Request(text=worded(UNCHANGED, "change_nothing", rng), rain_left=1.0)
    return Request(text=None, haze=True, noise=True)


def said(text: str, rng: random.Random, mixture: Mixture) -> str:
    """A prompt as somebody may write it."""
    return punctuate(disturb(text, rng, typos=0.4, strangers=mixture.strangers), rng)


def instruct(
    sample: Degraded, mixture: Mixture, rng: random.Random, wording: Wording = TRAINING
) -> Instructed:
    """Prompts for a batch and what they ask for."""
    requests = [request(attributes, mixture, rng, wording) for attributes in attributes_of(sample)]
    prompts = [
        Prompt(
            degradation=None if r.text is None else said(r.text, rng, mixture),
            semantic=caption(rng) if rng.random() < mixture.captioned else None,
        )
        for r in requests
    ]
    device = sample.rainy.device
    target = sample.target(
        torch.tensor([r.rain_left for r in requests], device=device),
        torch.tensor([not r.haze for r in requests], device=device),
        torch.tensor([not r.noise for r in requests], device=device),
    )
    return Instructed(prompts, target, torch.tensor([r.thorough for r in requests], device=device))
