"""Draws the gallery of docs/gallery.md: photographs that no training saw, in rain, restored, side by side.

python -m benchmarks.gallery
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.before_after import Panel, compose
from model.checkpoint_folders import default_weights_dir
from model.metrics import psnr
from model.prompts import Prompt
from model.restorer import Restorer
from training.rain import PLAIN, blurred_noise_layer, procedural_layer, synthesise
from training.scenes import read_rgb
from training.steering import to_bytes

GALLERY = Path(__file__).resolve().parent.parent / "docs" / "gallery"

MEANS = {"light": 0.025, "moderate": 0.08, "heavy": 0.2}
"""Mean brightness of the rain layers in [0, 1]."""

AMOUNTS = ("remove the rain lightly", "remove the rain", "completely remove the rain", "leave it unchanged")

ADDITIVE = replace(PLAIN, layered=1)
VEILED = replace(ADDITIVE, haze=1)


def rain_on(clean: Tensor, mean: float, seed: int, *, strokes: bool = False, veil: bool = False) -> Tensor:
    """A photograph, uint8 (3, H, W), under a layer of this mean brightness: uint8 (3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    draw = procedural_layer if strokes else blurred_noise_layer
    height, width = clean.shape[-2:]
    layer = draw(torch.tensor([mean]), (height, width), 2, torch.tensor([3.0]), generator)
    sample = synthesise(clean[None].float() / 255, layer, VEILED if veil else ADDITIVE, generator)
    return to_bytes(sample.rainy)[0]


def panel(restorer: Restorer, rainy: Tensor, clean: Tensor, prompt: str | None = None) -> Panel:
    """A picture restored by a prompt, or by the one that is perceived in it."""
    said = prompt or restorer.perceive(rainy).prompt
    (restored,) = restorer.restore([rainy], [Prompt(degradation=said)])
    return Panel(restored, f"{prompt or 'restored'}  {psnr(restored, clean):.1f} dB")


def main(
    model: Annotated[str, typer.Option(help="The name of a checkpoint.")] = "tvi-derain-s",
    folder: Annotated[Path, typer.Option(help="Holds photographs/; the pictures go here.")] = GALLERY,
) -> None:
    """Restore each photograph in light, moderate and heavy rain, one by four prompts, and one in a veil."""
    restorer = Restorer.from_checkpoint(default_weights_dir() / model)
    for number, path in enumerate(sorted((folder / "photographs").glob("*.jpg"))):
        clean = read_rgb(path)
        rows: list[list[Panel]] = []
        for seed, (density, mean) in enumerate(MEANS.items(), start=10 * number):
            rainy = rain_on(clean, mean, seed, strokes=seed % 2 == 1)
            given = Panel(rainy, f"{density} rain  {psnr(rainy, clean):.1f} dB")
            rows.append([given, panel(restorer, rainy, clean)])
        rows.append([Panel(clean, "without rain"), panel(restorer, clean, clean)])
        compose(rows, columns=2).save(folder / f"{path.stem}.jpg", quality=88)
    clean = read_rgb(folder / "photographs" / "cat.jpg")
    rainy = rain_on(clean, MEANS["moderate"], 1)
    compose([[panel(restorer, rainy, clean, text)] for text in AMOUNTS], columns=2).save(
        folder / "amounts.jpg", quality=88
    )
    veiled = rain_on(clean, MEANS["moderate"], 2, veil=True)
    texts = ("remove the rain", "remove the rain and the haze")
    row = [Panel(veiled, f"rain in haze  {psnr(veiled, clean):.1f} dB")]
    row += [panel(restorer, veiled, clean, text) for text in texts]
    compose([row]).save(folder / "haze.jpg", quality=88)


if __name__ == "__main__":
    typer.run(main)
