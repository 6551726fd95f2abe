"""Sample sheets: what the network trains on, rendered to a PNG so that one can look at it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from training.instructions import attributes_of
from training.rain import RainRecipe, synthesise
from training.scenes import TrainingData, random_crops


def render_sheet(
    data: TrainingData,
    path: Path,
    *,
    recipe: RainRecipe | None = None,
    size: int = 192,
    rows: int = 6,
    seed: int = 0,
) -> None:
    """Draws `rows` x 4 samples as rainy | layer, each named by what it shows, into a PNG at `path`."""
    count = rows * 4
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    photographs = random_crops(data.photographs, size, rng.integers(len(data.photographs), size=count), rng)
    layers = data.layer_crops(size, count, rng)
    sample = synthesise(photographs.float() / 255, layers.float() / 255, recipe or RainRecipe(), generator)
    both = torch.cat((sample.rainy, sample.layer.clamp(0, 1).expand(-1, 3, -1, -1)), dim=3)
    tiles = (both * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    sheet = Image.new("RGB", (4 * 2 * size, rows * size))
    draw = ImageDraw.Draw(sheet)
    for i, (tile, attributes) in enumerate(zip(tiles, attributes_of(sample), strict=True)):
        x, y = i % 4 * 2 * size, i // 4 * size
        sheet.paste(Image.fromarray(tile), (x, y))
        label = ", ".join(
            part for part in (attributes.kind, attributes.density, attributes.direction) if part
        )
        draw.rectangle((x, y, x + 7 * len(label) + 6, y + 13), fill="black")
        draw.text((x + 3, y + 1), label, fill="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
