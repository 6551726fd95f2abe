"""Scenes that are rare among photographs: what stands upright, what is fine, bars, grids, wires, greys.

Rain is told from a scene by what a network has seen of scenes, and bars, blades, fringes and grids are
mistaken for rain where it has seen too few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Variety:
    """Shares of the photographs of which such scenes are made: `upright` ones are stretched, `fine` ones
    shrunk, in front of `lined` ones lines are drawn, and `grey` ones are as cameras see by infrared."""

    upright: float = 0.0
    fine: float = 0.0
    lined: float = 0.0
    grey: float = 0.0


def varied_crop(image: Tensor, size: int, rng: np.random.Generator, variety: Variety) -> Tensor:
    """A crop (3, size, size) of a uint8 image (3, H, W), now and then made into a rarer scene; uint8."""
    way = rng.random()
    if way < variety.upright:
        crop = upright_crop(image, size, rng)
    elif way < variety.upright + variety.fine:
        crop = fine_crop(image, size, rng)
    else:
        crop = random_crop(image, size, size, rng)
    if rng.random() < variety.lined:
        crop = with_lines(crop, rng)
    if rng.random() < variety.grey:
        weights = torch.from_numpy(rng.dirichlet((2, 4, 2)))[:, None, None]
        crop = (crop * weights).sum(0, keepdim=True).round().to(torch.uint8).expand(3, -1, -1)
    return crop


def random_crop(image: Tensor, height: int, width: int, rng: np.random.Generator) -> Tensor:
    """A crop (C, height, width) of an image (C, H, W), mirrored at its right and lower edges where that is
    smaller."""
    rows, columns = image.shape[-2:]
    if rows < height or columns < width:
        y = np.pad(np.arange(rows), (0, max(0, height - rows)), mode="reflect")
        x = np.pad(np.arange(columns), (0, max(0, width - columns)), mode="reflect")
        image = image[:, y][:, :, x]
        rows, columns = image.shape[-2:]
    top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
    return image[:, top : top + height, left : left + width]


def upright_crop(image: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """A crop (C, size, size) of a uint8 image (C, H, W), stretched up to fourfold from top to bottom, every
    other one lying on its side; uint8."""
    if rng.random() < 0.5:
        image = image.transpose(-1, -2)
    crop = random_crop(image, round(size / rng.uniform(1, 4)), size, rng).float()
    return F.interpolate(crop[None], (size, size), mode="bilinear")[0].round().to(torch.uint8)


def fine_crop(image: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """A crop (C, size, size) of a uint8 image (C, H, W), shrunk up to threefold as far as it reaches, every
    other one lying on its side; uint8."""
    if rng.random() < 0.5:
        image = image.transpose(-1, -2)
    reach = max(1.0, min(image.shape[-2:]) / size)
    side = round(size * rng.uniform(1, min(3, reach)))
    crop = random_crop(image, side, side, rng).float()
    shrunk = F.interpolate(crop[None], (size, size), mode="bilinear", antialias=True)[0]
    return shrunk.round().clamp(0, 255).to(torch.uint8)


def with_lines(crop: Tensor, rng: np.random.Generator) -> Tensor:
    """Lines in front of a crop, uint8 (3, H, W), which cross it from edge to edge at equal distances (3.5 to
    45 pixels; .7 to 9 thick): bars, a fence, wires, or with others across them a grid. They are in front of
    all of it or end at a straight edge, and what is behind them may be nearly plain; uint8."""
    height, width = crop.shape[-2:]
    y, x = np.mgrid[:height, :width] - np.array([height, width]).reshape(2, 1, 1) / 2
    period = float(np.exp(rng.uniform(np.log(3.5), np.log(45))))
    thickness = float(np.clip(period * rng.uniform(0.06, 0.5), 0.7, 9))
    angle = np.deg2rad(rng.normal(0, 20) if rng.random() < 0.6 else rng.uniform(-90, 90))
    crossed = rng.random() < 0.5
    taper = rng.uniform(-0.4, 0.4) / max(height, width) if rng.random() < 0.5 else 0.0
    cover = np.zeros((height, width))
    for turn in (angle, angle + np.deg2rad(90 + rng.normal(0, 4)))[: 1 + crossed]:
        across, along = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        phase = across * (1 + taper * along) / period + rng.random()
        distance = np.abs(phase - np.rint(phase)) * period
        cover = np.maximum(cover, np.clip(thickness / 2 + 0.5 - distance, 0, min(1, thickness)))
    if rng.random() < 0.5:
        edge = rng.uniform(0, 2 * np.pi)
        offset = rng.uniform(-0.3, 0.3) * max(height, width)
        cover *= np.clip(x * np.cos(edge) + y * np.sin(edge) - offset + 0.5, 0, 1)
    lines = torch.from_numpy(cover * rng.uniform(0.4, 1)).float()
    image = crop.float()
    if rng.random() < 0.4:
        plain = image.mean((1, 2), keepdim=True) * rng.uniform(0, 1.2)
        image = image.lerp(plain, float(rng.uniform(0.5, 1)))
    shade = 0.75 + 0.5 * crop.float().mean(0) / 255
    colour = torch.from_numpy(rng.uniform(0, 255) + rng.normal(0, 12, (3, 1, 1))).float()
    return (image + (colour * shade - image) * lines).round().clamp(0, 255).to(torch.uint8)
