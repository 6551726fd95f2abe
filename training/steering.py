"""How far prompts steer: every prompt on every degradation, each against the target that the prompt asks for.

Scenes are held-out photographs degraded by the synthesiser, so that every target is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.metrics import psnr
from model.prompts import Prompt
from model.restorer import Restorer
from training.descriptions import HELD_OUT, UNSEEN, canonical, chatter, disturb, sentence
from training.instructions import LIGHTLY_KEEPS, Request, attributes_of
from training.rain import PLAIN, Degraded, RainRecipe, synthesise
from training.scenes import TrainingData, random_crops

DEGRADATIONS: dict[str, RainRecipe] = {
    "light rain": replace(PLAIN, light=1),
    "heavy rain": replace(PLAIN, heavy=1),
    "real layers": replace(PLAIN, layered=1),
    "rain and haze": replace(PLAIN, light=1, haze=1),
    "haze": replace(PLAIN, clean=1, dry_haze=1),
    "noise": replace(PLAIN, clean=1, dry_noise=1),
    "clean": replace(PLAIN, clean=1),
}
RAINY = ("light rain", "heavy rain", "real layers")

REQUESTS = (
    Request(text="remove the rain lightly", rain_left=LIGHTLY_KEEPS),
    Request(text="remove the rain"),
    Request(text="completely remove the rain"),
    Request(text="remove the rain and the haze", haze=True),
    Request(text="remove the haze", rain_left=1.0, haze=True),
    Request(text="remove sensor noise", rain_left=1.0, noise=True),
    Request(text="leave it unchanged", rain_left=1.0),
)
AMOUNTS = tuple(request.text or "" for request in REQUESTS[:3])

WISHES = {
    "rain gone": 0.0,
    "rain weaker": LIGHTLY_KEEPS,
    "unchanged": 1.0,
    "haze only": 1.0,
    "noise only": 1.0,
}
"""What share of the rain is to stay by each kind of `UNSEEN` sentences."""

EQUAL = 60.0
"""PSNR in dB that stands for equal images, and at which means are capped."""


@dataclass(frozen=True, slots=True)
class Steering:
    """What was measured, PSNR in dB on Y, means over scenes.

    Attributes:
        scenes: photographs per degradation.
        input: degradation -> prompt -> PSNR of the degraded image against the prompt's target.
        restored: the same of the restored image.
        wordings: way of prompting -> rainy degradation -> PSNR against the clean target.
        removed: prompt -> rainy degradation -> share of the rain layer that is gone.
        obeyed: wish -> share of the `UNSEEN` sentences for it by which as much rain stays as they ask for.
        preserved: PSNR of clean photographs against themselves with the perceived prompt: mean and lowest.
    """

    scenes: int
    input: dict[str, dict[str, float]]
    restored: dict[str, dict[str, float]]
    wordings: dict[str, dict[str, float]]
    removed: dict[str, dict[str, float]]
    obeyed: dict[str, float]
    preserved: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """For a JSON report."""
        return asdict(self)


def steer(
    restorer: Restorer,
    data: TrainingData,
    *,
    scenes: int = 24,
    size: int = 192,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Steering:
    """Measures prompts on crops of `data` that training never saw.

    Args:
        restorer: the model.
        data: photographs and rain layers, read with `validation=True`.
        scenes: crops for each degradation.
        size: side of the crops in pixels.
        seed: which crops, which rain, which words.
        progress: called after each degradation.
    """
    before: dict[str, dict[str, float]] = {}
    after: dict[str, dict[str, float]] = {}
    wordings: dict[str, dict[str, float]] = {}
    removed: dict[str, dict[str, float]] = {}
    preserved = EQUAL, EQUAL
    for name, recipe in DEGRADATIONS.items():
        sample = degrade(data, recipe, scenes, size, seed)
        rainy = to_bytes(sample.rainy)
        before[name], after[name] = {}, {}
        for request in REQUESTS:
            text = request.text or ""
            target = to_bytes(target_of(sample, request))
            restored = restore(restorer, rainy, [request.text] * scenes)
            before[name][text] = mean_psnr(rainy, target)
            after[name][text] = mean_psnr(restored, target)
            if name in RAINY and text in AMOUNTS:
                removed.setdefault(text, {})[name] = share_removed(sample, restored)
        if name in RAINY:
            for way, texts in ways(restorer, sample, rainy, seed).items():
                clean = to_bytes(sample.clean)
                wordings.setdefault(way, {})[name] = mean_psnr(restore(restorer, rainy, texts), clean)
        if name == "clean":
            texts = [restorer.perceive(image).prompt for image in rainy]
            scores = scores_of(restore(restorer, rainy, texts), rainy)
            preserved = fmean(scores), min(scores)
        progress()
    return Steering(scenes, before, after, wordings, removed, obeyed(restorer, data, seed), preserved)


def obeyed(restorer: Restorer, data: TrainingData, seed: int, *, scenes: int = 4) -> dict[str, float]:
    """Wish -> share of the `UNSEEN` sentences that are done: in heavy rain (mean over scenes of 96 px), the
    share of it that stays is within 0.25 of what they ask for.
    """
    sample = degrade(data, DEGRADATIONS["heavy rain"], scenes, 96, seed)
    rainy = to_bytes(sample.rainy)

    def done(text: str, left: float) -> bool:
        return abs(1 - share_removed(sample, restore(restorer, rainy, [text] * scenes)) - left) <= 0.25

    return {wish: fmean(done(text, left) for text in UNSEEN[wish]) for wish, left in WISHES.items()}


def degrade(data: TrainingData, recipe: RainRecipe, count: int, size: int, seed: int) -> Degraded:
    """`count` crops of `size` pixels, each of another photograph where there are enough, degraded."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    indices = np.resize(rng.permutation(len(data.photographs)), count)
    crops = random_crops(data.photographs, size, indices.tolist(), rng)
    layers = data.layer_crops(size, count, rng)
    return synthesise(crops.float() / 255, layers.float() / 255, recipe, generator)


def ways(
    restorer: Restorer, sample: Degraded, rainy: Sequence[Tensor], seed: int
) -> dict[str, list[str | None]]:
    """Ways of prompting for rain, a sentence for each image: correct, perceived, empty, wrong and so on."""
    found = attributes_of(sample)
    correct: list[str | None] = [canonical(a) for a in found]
    words = random.Random(seed)
    plain = [sentence(a, words) for a in found]
    return {
        "correct": correct,
        "perceived": [restorer.perceive(image).prompt for image in rainy],
        "empty": [None] * len(found),
        "shuffled": correct[1:] + correct[:1],
        "wrong": [words.choice(("remove the haze", "a photo with sensor noise", "blur")) for _ in found],
        "training wording": list(plain),
        "training wording, typos": [disturb(text, words, typos=1, strangers=0) for text in plain],
        "training wording, unknown words": [disturb(text, words, typos=0, strangers=1) for text in plain],
        "held-out wording": [
            sentence(a, random.Random(f"{seed}/{i}"), HELD_OUT) for i, a in enumerate(found)
        ],
        "words that say nothing known": [chatter(random.Random(f"{seed}/{i}")) for i in range(len(found))],
        "as people may say it": [
            UNSEEN["rain gone"][i % len(UNSEEN["rain gone"])] for i in range(len(found))
        ],
    }


def target_of(sample: Degraded, request: Request) -> Tensor:
    """What a request makes of every image of a batch: (B, 3, H, W)."""
    count = len(sample.rainy)
    return sample.target(
        torch.full((count,), request.rain_left),
        torch.full((count,), not request.haze),
        torch.full((count,), not request.noise),
    )


def restore(restorer: Restorer, rainy: Sequence[Tensor], texts: Sequence[str | None]) -> list[Tensor]:
    """Each image with its sentence, through the door that the service uses, eight at a time."""
    restored: list[Tensor] = []
    for at in range(0, len(rainy), 8):
        prompts = [Prompt(degradation=text) for text in texts[at : at + 8]]
        restored += restorer.restore(rainy[at : at + 8], prompts)
    return restored


def to_bytes(images: Tensor) -> list[Tensor]:
    """(B, 3, H, W) in [0, 1] -> uint8 (3, H, W) each."""
    return list((images.clamp(0, 1) * 255).round().to(torch.uint8))


def scores_of(images: Sequence[Tensor], targets: Sequence[Tensor]) -> list[float]:
    """PSNR of each, at most `EQUAL`."""
    return [min(EQUAL, psnr(image, target)) for image, target in zip(images, targets, strict=True)]


def mean_psnr(images: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Mean PSNR in dB over images, each at most `EQUAL`."""
    return fmean(scores_of(images, targets))


def share_removed(sample: Degraded, restored: Sequence[Tensor]) -> float:
    """How much of the rain is gone: the projection of what was taken away onto what was added, mean over
    images.
    """
    added = sample.rainy - sample.clean
    gone = sample.rainy - torch.stack(list(restored)).float() / 255
    return float(((gone * added).sum((1, 2, 3)) / added.square().sum((1, 2, 3))).mean())
