"""What is wrong with a picture: zero-shot classification by a dual encoder over crops at native
resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from model.depth import to_uint8
from model.edges import mirrored
from model.prompts import DENSITIES, DIRECTIONS, PERHAPS_RAIN, SURELY_CLEAN, TYPES, describe
from model.weights import CompactCLIP


@dataclass(frozen=True, slots=True)
class Perceived:
    """Probabilities of type, density and direction (each sums to 1) and the sentence that they give."""

    prompt: str
    types: dict[str, float]
    densities: dict[str, float]
    directions: dict[str, float]


RAIN_FROM = 0.5
"""Rain is named where it is at least so likely, other degradations left aside, unless the compact CLIP's
settings say otherwise (`rain_from`)."""

DETAILS_FROM = 0.6
"""Where rain is named and at least so likely, so are its density and direction."""

CLEAN_BELOW = 0.0
"""Where rain is less likely than this, nothing is to be changed, unless the settings say otherwise
(`clean_below`)."""

Degradation = tuple[str, str | None, str | None]
"""Type, density and direction; the latter two where rain falls."""

ATTRIBUTES = {"type": TYPES, "density": DENSITIES, "direction": DIRECTIONS}
"""The attributes of a degradation, in the order of `Degradation`, and their values."""

DEGRADATIONS: tuple[Degradation, ...] = tuple(
    degradation
    for kind in TYPES
    for degradation in (
        [(kind, density, direction) for density, direction in product(DENSITIES, DIRECTIONS)]
        if kind in ("rain", "rain and haze")
        else [(kind, None, None)]
    )
)


FLAT = 8
"""By how many of 255 levels pixels of a line of one colour may differ, for what JPEG does to it."""


def without_bands(image: Tensor) -> Tensor:
    """A view of an image (3, H, W) without bands of one colour at its edges, as in a letterbox: of each side
    at most a quarter, and of each line 32 pixels are looked at.
    """
    height, width = image.shape[-2:]
    rows = image[:, :, :: max(1, width // 32)]
    columns = image[:, :: max(1, height // 32)].transpose(1, 2)
    y, x = height // 4, width // 4
    top, bottom = band(rows[:, :y]), band(rows[:, height - y :].flip(1))
    left, right = band(columns[:, :x]), band(columns[:, width - x :].flip(1))
    return image[:, top : height - bottom, left : width - right]


def band(lines: Tensor) -> int:
    """How many lines (3, N, M), from the first on, are of one colour each; mostly none, which the first
    tells."""

    def flat(lines: Tensor) -> Tensor:
        seen = to_uint8(lines)
        return (seen.amax(2) - seen.amin(2)).amax(0) <= FLAT

    return int(flat(lines).long().cumprod(0).sum()) if bool(flat(lines[:, :1]).all()) else 0


class Perception:
    """`(3, H, W) -> Perceived`, from a handful of crops, so the time does not grow with the image.

    Resizing would destroy the streaks, so crops are taken as they are, on a fixed grid; smaller images are
    continued at their edges. Similarities are averaged over crops, divided by a temperature fitted on
    held-out scenes for each marginal, and summed over the combinations for it. Density and direction are
    those under the assumption that it rains.

    Args:
        clip: the dual encoder; its image tower is moved and cast.
        precision: of the image tower. In bfloat16 probabilities of sixteen photographs changed by 0.009 at
            most.
    """

    def __init__(
        self, clip: CompactCLIP, device: torch.device, precision: torch.dtype = torch.float32
    ) -> None:
        self.clip = clip
        self.device = device
        self.precision = precision
        self.crop: int = clip.settings["open_clip"]["vision_cfg"]["image_size"]
        fitted: dict[str, float] = clip.settings.get("temperatures", {})
        self.temperatures = {attribute: fitted.get(attribute, 1.0) for attribute in ATTRIBUTES}
        self.rain_from: float = clip.settings.get("rain_from", RAIN_FROM)
        self.clean_below: float = clip.settings.get("clean_below", CLEAN_BELOW)
        clip.model.to(device).eval()
        self.mean = torch.tensor(clip.mean, device=device)[:, None, None]
        self.std = torch.tensor(clip.std, device=device)[:, None, None]
        model = cast(Any, clip.model)
        with torch.inference_mode():
            sentences = [describe(*degradation) for degradation in DEGRADATIONS]
            ids = clip.tokenizer(sentences).to(device)
            self.text: Tensor = model.encode_text(ids, normalize=True) * model.logit_scale.exp()
        model.visual.to(precision, memory_format=torch.channels_last)

    def crops(self, image: Tensor) -> Tensor:
        """Up to nine crops (N, 3, C, C) in [0, 1] of an image (3, H, W), on a grid of three by three between
        bands of one colour. It is seen in 8 bits, as all images were in training.
        """
        size = self.crop
        image = without_bands(image)
        height, width = image.shape[-2:]
        if height < size or width < size:
            image = to_uint8(image)
            rows = mirrored(torch.arange(max(height, size)), height)
            columns = mirrored(torch.arange(max(width, size)), width)
            image = image[:, rows][:, :, columns]
            height, width = image.shape[-2:]
        room_y, room_x = height - size, width - size
        corners = {(room_y * y // 8, room_x * x // 8) for y, x in product((1, 4, 7), repeat=2)}
        cut = [to_uint8(image[:, top : top + size, left : left + size]) for top, left in sorted(corners)]
        return torch.stack(cut).to(self.device).float() / 255

    def scores(self, crops: Tensor) -> Tensor:
        """Scaled similarities (N, len(DEGRADATIONS)) of crops (N, 3, C, C) in [0, 1]."""
        normalised = ((crops - self.mean) / self.std).to(self.precision, memory_format=torch.channels_last)
        features = cast(Tensor, cast(Any, self.clip.model).encode_image(normalised)).float()
        return F.normalize(features, dim=-1) @ self.text.T

    def logits(self, image: Tensor) -> Tensor:
        """Mean scores (len(DEGRADATIONS),) of the crops of an image (3, H, W)."""
        return self.scores(self.crops(image)).mean(0)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Perceived:
        """Perceives a uint8 or uint16 image (3, H, W), H and W at least 1."""
        logits = self.logits(image)
        types, densities, directions = (self.marginal(logits, a) for a in ATTRIBUTES)
        return Perceived(
            describe(*self.degradation(types, densities, directions)), types, densities, directions
        )

    def marginal(self, logits: Tensor, attribute: str) -> dict[str, float]:
        """Probabilities (they sum to 1) of the values of one of `ATTRIBUTES` by mean scores
        (len(DEGRADATIONS),), tempered; of density and direction given that it rains."""
        joint = cast(list[float], cast(Any, (logits / self.temperatures[attribute]).softmax(-1)).tolist())
        place = tuple(ATTRIBUTES).index(attribute)
        sums: dict[str, float] = dict.fromkeys(ATTRIBUTES[attribute], 0.0)
        for degradation, probability in zip(DEGRADATIONS, joint, strict=True):
            value = degradation[place]
            if value is not None:
                sums[value] += probability
        total = max(sum(sums.values()), 1e-12)
        return {value: probability / total for value, probability in sums.items()}

    def degradation(
        self, types: dict[str, float], densities: dict[str, float], directions: dict[str, float]
    ) -> tuple[str, str, str]:
        """What the sentence names by these probabilities: type (as `decide` does), density, direction."""
        return (
            decide(types, self.rain_from, self.clean_below),
            max(densities, key=densities.__getitem__),
            max(directions, key=directions.__getitem__),
        )


def rain_or_clean(types: dict[str, float]) -> float:
    """The probability of rain given that it is rain or nothing, by probabilities over `TYPES`; haze counts as
    rain, whose distant streaks no longer show.
    """
    rain = types["rain"] + types["rain and haze"] + types["haze"]
    return rain / max(rain + types["clean"], 1e-12)


def decide(types: dict[str, float], rain_from: float = RAIN_FROM, clean_below: float = CLEAN_BELOW) -> str:
    """What the sentence names, by probabilities over `TYPES`: `rain`, `PERHAPS_RAIN`, `clean` or
    `SURELY_CLEAN`.

    The sentence is the prompt of a service that takes rain away and leaves the rest of a picture alone, so
    whatever else is seen is reported but not named: what is named would be removed. `rain_from` is set so
    that nearly every picture without rain is called clean, `clean_below` so that hardly any rain is left
    alone: between them what is called clean is looked through for rain all the same. Below `DETAILS_FROM`
    rain is only perhaps there.
    """
    rain = rain_or_clean(types)
    if rain >= rain_from:
        return "rain" if rain >= DETAILS_FROM else PERHAPS_RAIN
    return "clean" if rain >= clean_below else SURELY_CLEAN
