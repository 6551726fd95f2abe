"""Composes pictures of before and after: input, restored and clean side by side, one row per pair.

python benchmarks/before_after.py --data tests/data --output docs/images/before-after.jpg
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from model.checkpoint_folders import default_weights_dir
from model.metrics import psnr, ssim
from model.prompts import Prompt
from model.restorer import Restorer
from training.pairs import Pair, PairsError, find_sets

GAP = 6
"""Pixels between pictures, and around all of them."""

FONT_SIZE = 14
LINE = FONT_SIZE + 8
"""Height in pixels of the label under a picture."""

INK, PAPER = "black", "white"


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture, uint8 (3, H, W), and what is written under it."""

    image: Tensor
    label: str


def panels(restorer: Restorer, pair: Pair, prompt: str | None) -> list[Panel]:
    """Input, restored and clean of a pair, with PSNR and SSIM on Y."""
    rainy, clean = pair.read()
    used = restorer.perceive(rainy).prompt if prompt is None else prompt
    (restored,) = restorer.restore([rainy], [Prompt(degradation=used)])

    def figures(image: Tensor) -> str:
        return f"{psnr(image, clean):.2f} dB / {ssim(image, clean):.3f}"

    return [
        Panel(rainy, f"input  {figures(rainy)}"),
        Panel(restored, f"restored  {figures(restored)}"),
        Panel(clean, "clean"),
    ]


def compose(rows: Sequence[Sequence[Panel]], columns: int = 1) -> Image.Image:
    """Rows of labelled pictures, unscaled, `columns` rows beside one another."""
    strips = [compose_row(row) for row in rows]
    lines = [strips[i : i + columns] for i in range(0, len(strips), columns)]
    width = max(sum(strip.width for strip in line) for line in lines)
    sheet = Image.new("RGB", (width + GAP, sum(max(s.height for s in line) for line in lines) + GAP), PAPER)
    top = GAP
    for line in lines:
        left = GAP
        for strip in line:
            sheet.paste(strip, (left, top))
            left += strip.width
        top += max(strip.height for strip in line)
    return sheet


def compose_row(row: Sequence[Panel]) -> Image.Image:
    """Labelled pictures side by side, with a gap after each and below."""
    pictures = [Image.fromarray(panel.image.permute(1, 2, 0).numpy()) for panel in row]
    height = max(picture.height for picture in pictures)
    strip = Image.new("RGB", (sum(p.width + GAP for p in pictures), height + LINE + GAP), PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(FONT_SIZE)
    left = 0
    for panel, picture in zip(row, pictures, strict=True):
        strip.paste(picture, (left, 0))
        draw.text((left, height + 2), panel.label, fill=INK, font=font)
        left += picture.width + GAP
    return strip


def main(
    data: Annotated[Path, typer.Option(metavar="DIR", help="A paired set, or a folder of such sets.")],
    output: Annotated[Path, typer.Option(help="The picture to write.")],
    model: Annotated[str, typer.Option(help="The name of a checkpoint.")] = "tvi-derain-s",
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Only the pair of this name; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many pairs.")] = 4,
    columns: Annotated[int, typer.Option(min=1, help="Pairs beside one another.")] = 1,
    prompt: Annotated[str | None, typer.Option(help="For all; else it is perceived for each.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Restore the rainy images of a paired set and write them beside their inputs and clean originals."""
    try:
        found = [pair for paired_set in find_sets(data) for pair in paired_set.pairs]
    except PairsError as error:
        raise typer.BadParameter(str(error), param_hint="--data") from None
    chosen = [pair for pair in found if names is None or pair.name in names][:limit]
    if not chosen:
        raise typer.BadParameter(f"there is none of these in {data}", param_hint="--name")
    restorer = Restorer.from_checkpoint(default_weights_dir() / model, device=device)
    output.parent.mkdir(parents=True, exist_ok=True)
    compose([panels(restorer, pair, prompt) for pair in chosen], columns).save(output, quality=92)


if __name__ == "__main__":
    typer.run(main)
