"""Draws which words the pixels of a photograph attend to: docs/images/attention.svg.

python -m benchmarks.attention

The photograph is restored as the service does it, by the sentence that it perceives, and every CAFI block of
the network says how each of its pixels spreads its attention over the tokens, in the mean over heads. Beside
each token is its share where it rains most and where it rains least, by the photograph without rain.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.drawing import alone
from benchmarks.process import ROOT
from model.checkpoint_folders import default_weights_dir
from model.prompts import Prompt
from model.restorer import Restorer
from training.scenes import read_rgb

PAIRS = ROOT / "tests/data/pairs"
PHOTOGRAPH = "coffee-heavy-rain.jpg"

WIDTH, COLUMNS, GAP, LINE = 960, 6, 12, 24
"""Of the drawing, in its own units: its width, tiles in a row, between tiles, and of a line of text."""

BRIGHTEST = 0.995
"""The part of a tile's pixels that is darker than its brightest colour; each tile has a scale of its own."""

PART = 0.2
"""The part of the places that count as those where it rains most, and least."""


def tokens_of(restorer: Restorer, sentence: str) -> list[str]:
    """What the tokens that a sentence becomes are called, the null token first."""
    tokenizer: Any = restorer.text.tokenizer
    ids = [int(one) for one in tokenizer([sentence])[0] if int(one)]
    names = [str(tokenizer.decoder[one]).removesuffix("</w>") for one in ids]
    return ["(none)", "start", *names[1:-1], "end"]


def attention_of(restorer: Restorer, image: Tensor, sentence: str) -> tuple[Tensor, dict[int, Tensor]]:
    """The restored image, and by stride how its pixels attend to the tokens: (T, H, W), 1 in sum over T.

    Args:
        image: uint8 (3, H, W), small enough for one tile.
    """
    seen: dict[int, Tensor] = {}
    strides = restorer.network.config.restoration.strides

    def look(stride: int, block: Any, arguments: tuple[Tensor, Tensor, Tensor]) -> None:
        (heard,) = arguments[2]  # the rest is padding
        seen[stride] = block.attention(*arguments)[0].mean(0)[heard]

    hooks = [
        block.register_forward_pre_hook(partial(look, strides[int(level)]))
        for level, block in restorer.network.interaction.items()
    ]
    try:
        (restored,) = restorer.restore([image], [Prompt(degradation=sentence)])
    finally:
        for hook in hooks:
            hook.remove()
    return restored, seen


def shares(attention: Tensor, rain: Tensor) -> tuple[float, float]:
    """Mean attention (H, W) where it rains most, and where it rains least, by the rain (H, W)."""
    most, least = rain.quantile(1 - PART), rain.quantile(PART)
    return float(attention[rain >= most].mean()), float(attention[rain <= least].mean())


def draw(
    picture: Tensor,
    clean: Tensor,
    restored: Tensor,
    sentence: str,
    names: Sequence[str],
    seen: dict[int, Tensor],
) -> str:
    """The drawing, as SVG with a place for its head."""
    height, width = picture.shape[-2:]
    rain = (picture.float() - clean.float()).clamp(0).mean(0)
    tile = (WIDTH + GAP) / COLUMNS - GAP
    large = 2 * tile + GAP
    parts = [
        _image(0, 0, large, large * height / width, _pixels(picture)),
        _image(large + GAP, 0, large, large * height / width, _pixels(restored)),
        _text(2 * (large + GAP), 20, "what came, what was restored,", "note"),
        _text(2 * (large + GAP), 20 + LINE, "and the sentence that was perceived:", "note"),
    ]
    words = sentence.split()
    middle = (len(words) + 1) // 2
    for row, some in enumerate((words[:middle], words[middle:])):
        parts.append(_text(2 * (large + GAP), 64 + (row + 1) * LINE, " ".join(some), "name"))
    top = large * height / width + LINE
    for stride, maps in seen.items():
        top += LINE
        falling = F.avg_pool2d(rain[None], stride)[0]
        parts.append(_text(WIDTH, top, "share in %, where it rains most | least", "note end"))
        parts.append(_text(0, top, f"stride {stride}: one place is {stride}×{stride} pixels", "title"))
        step = tile * height / width + LINE + GAP / 2
        for index, (name, one) in enumerate(zip(names, maps, strict=True)):
            row, column = divmod(index, COLUMNS)
            left, above = column * (tile + GAP), top + LINE / 2 + row * step
            below = above + tile * height / width + 16
            parts.append(_image(left, above, tile, tile * height / width, _coloured(one)))
            parts.append(_text(left, below, name, "name"))
            most, least = shares(one, falling)
            parts.append(_text(left + tile, below, f"{100 * most:.1f} | {100 * least:.1f}", "note end small"))
        top += -(-len(names) // COLUMNS) * step + LINE / 2
    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}"'
    return f"<svg {box} {FONT}>{{}}{''.join(parts)}</svg>\n"


FONT = 'font-family="system-ui, sans-serif" font-size="14"'

STYLE = (
    "<style>.m-name{fill:var(--ink)}.m-title{fill:var(--ink);font-weight:600}.m-note{fill:var(--muted)}"
    ".m-end{text-anchor:end}.m-small{font-size:12px}.m-map{image-rendering:pixelated}</style>"
)


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    return image.permute(1, 2, 0).numpy()


def _coloured(attention: Tensor) -> NDArray[np.uint8]:
    """A map (H, W) in colours, (H, W, 3)."""
    import matplotlib as mpl

    values = attention.numpy()
    scaled = np.clip(values / max(float(np.quantile(values, BRIGHTEST)), 1e-6), 0, 1)
    return (mpl.colormaps["magma"](scaled)[..., :3] * 255).astype(np.uint8)


def _image(left: float, top: float, width: float, height: float, pixels: NDArray[np.uint8]) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=78)
    data = base64.b64encode(buffer.getvalue()).decode()
    box = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<image class="m-map" {box} href="data:image/jpeg;base64,{data}"/>'


def _text(left: float, top: float, text: str, kinds: str) -> str:
    classes = " ".join(f"m-{kind}" for kind in kinds.split())
    return f'<text x="{left:.1f}" y="{top:.1f}" class="{classes}">{html.escape(text)}</text>'


def main(
    photograph: Annotated[str, typer.Option(help="The name of one of the pairs of the tests.")] = PHOTOGRAPH,
    model: Annotated[str, typer.Option(help="The name of a checkpoint.")] = "tvi-derain-s",
    output: Annotated[Path, typer.Option(help="The drawing to write.")] = ROOT / "docs/images/attention.svg",
) -> None:
    """Restore a photograph and draw what its pixels attended to."""
    folder = default_weights_dir() / model
    restorer = Restorer.from_checkpoint(folder, device="cpu", precision="float32")
    image, clean = (read_rgb(PAIRS / side / photograph) for side in ("input", "target"))
    sentence = restorer.perceive(image).prompt
    restored, seen = attention_of(restorer, image, sentence)
    drawing = draw(image, clean, restored, sentence, tokens_of(restorer, sentence), seen)
    digest = json.loads((folder / "config.json").read_text())["sha256"]
    output.write_text(drawing.format(f"<desc>weights {digest}</desc>{alone()}{STYLE}"))


if __name__ == "__main__":
    typer.run(main)
