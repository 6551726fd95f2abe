"""Sentences without pictures: what they ask for is known, so text encoders can learn from very many."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from model.prompts import DENSITIES, DIRECTIONS, TYPES
from model.text import Tokenizer
from training.descriptions import TRAINING, Attributes, canonical, caption
from training.instructions import LIGHTLY_KEEPS, Mixture, Request, request, said

EXEMPLARS = {
    "rain": "remove the rain",
    "all rain": "completely remove the rain",
    "some rain": "remove the rain lightly",
    "nothing": "leave it unchanged",
    "haze": "remove the haze",
    "noise": "remove sensor noise",
    "rain and haze": "remove the rain and the haze",
}
"""What may be wished to go -> the sentence that says so best."""

MEANINGS = tuple(dict.fromkeys((*TYPES, *EXEMPLARS)))
"""What sentences are about: what they describe, or wish to go."""

MIXTURE = Mixture(
    full=0.62, partial=0.27, unchanged=0.11, strange=0.35, perceived=0.1, strangers=0.2, captioned=0.04
)

KINDS = ("rain",) * 4 + ("rain and haze",) * 3 + ("haze", "noise", "clean")
"""What is wrong with the pictures that sentences are drawn for."""

AHEAD = 6
"""Batches that are drawn at once, so that sentences of about one length come together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceRun:
    """Training on sentences: `steps` of `batch` sentences for each process that torchrun started.

    The learning rate warms up and follows a cosine to zero; `ema` is the decay of the averaged weights.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    ema: float
    seed: int = 0
    threads: int | None = None
    bfloat16: bool = False

    def rate(self, step: int) -> float:
        """Learning rate at a step, counted from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * cosine * min(1, (step + 1) / self.warmup_steps)


@dataclass(frozen=True, slots=True)
class Saying:
    """A sentence as somebody may write it, what it asks for, and perhaps what the picture shows."""

    text: str
    asked: Request
    caption: str | None

    @property
    def meaning(self) -> str:
        """One of `MEANINGS`."""
        asked = self.asked
        if asked.described is not None:
            return asked.described.kind
        if asked.rain_left == LIGHTLY_KEEPS:
            return "some rain"
        if asked.haze:
            return "haze" if asked.rain_left else "rain and haze"
        if asked.rain_left:
            return "noise" if asked.noise else "nothing"
        return "all rain" if asked.thorough else "rain"

    def exemplar(self, rng: random.Random) -> str:
        """The sentence that a network knows for what this one means; what it leaves open is drawn."""
        described = self.asked.described
        if described is None:
            return EXEMPLARS[self.meaning]
        if described.kind not in ("rain", "rain and haze"):
            return canonical(described)
        return canonical(
            Attributes(
                described.kind,
                described.density or rng.choice(DENSITIES),
                described.direction or rng.choice(DIRECTIONS),
            )
        )


def batches(tokenizer: Tokenizer, size: int, *, seed: int, rank: int = 0) -> Iterator[list[Saying]]:
    """Batches without end, a function of `seed` and `rank`; sentences of a batch are of about one length."""
    rng = random.Random(f"{seed}/{rank}")
    while True:
        drawn = [draw(rng) for _ in range(size * AHEAD)]
        lengths = tokenizer([saying.text for saying in drawn]).argmax(-1).tolist()
        order = sorted(range(len(drawn)), key=lengths.__getitem__)
        together = [[drawn[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
        rng.shuffle(together)
        yield from together


def draw(rng: random.Random) -> Saying:
    """A sentence at random; one in ten without typos and unknown words."""
    kind = rng.choice(KINDS)
    rainy = "rain" in kind
    attributes = Attributes(
        kind, rng.choice(DENSITIES) if rainy else None, rng.choice(DIRECTIONS) if rainy else None
    )
    asked = request(attributes, MIXTURE, rng, TRAINING)
    assert asked.text is not None  # the shares of the mixture add up to 1
    text = asked.text if rng.random() < 0.1 else said(asked.text, rng, MIXTURE)
    return Saying(text, asked, caption(rng) if rng.random() < MIXTURE.captioned else None)
