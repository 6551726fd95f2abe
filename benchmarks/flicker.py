"""Whether restored videos flicker more than their inputs: variances over time, where nothing moves.

python -m benchmarks.flicker --output benchmarks/results/flicker.json

Each photograph of tests/data stands still in moving rain and a sensor's noise, is encoded, restored by what
`derain video` calls, and decoded again. All of it is static, so that whatever varies is rain, noise, or the
network's doing. Luma is compared pixel by pixel, and, as flicker of larger areas is seen sooner, as means of
fields.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image

from app.video import VideoOrder, restore_video
from benchmarks.process import ROOT
from benchmarks.rainy_clip import rainy_frames, read_clip, write_clip
from model.checkpoint_folders import default_weights_dir
from model.restorer import Restorer

PHOTOGRAPHS = ROOT / "tests/data/pairs/target"
RAINS = {"none": 0.0, "light": 0.03, "moderate": 0.08, "heavy": 0.15}
"""Mean brightness of the rain in [0, 1]."""

NOISE = 1.5
"""Standard deviation of the sensor's noise, levels of 255."""

WIDTH, HEIGHT = 192, 128
FRAMES = 25
FIELD = 16
"""Side of a field, pixels."""

LUMA = np.array((0.299, 0.587, 0.114), np.float32)

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Flicker:
    """One clip; variances of luma over time, levels of 255 squared, means over all places.

    Attributes:
        prompts: how many prompts were used in turn.
        pixels_in, pixels_out: of pixels.
        fields_in, fields_out: of the means of fields.
        worse: share of pixels that vary more than before.
    """

    photograph: str
    rain: str
    prompts: int
    pixels_in: float
    pixels_out: float
    fields_in: float
    fields_out: float
    worse: float


def luma(path: Path) -> Samples:
    """Of all frames of a clip: (T, H, W)."""
    return np.stack([frame.astype(np.float32) @ LUMA for frame in read_clip(path)])


def fields(clip: Samples) -> Samples:
    """Means of fields: (T, H / FIELD, W / FIELD)."""
    frames, height, width = clip.shape
    return clip.reshape(frames, height // FIELD, FIELD, width // FIELD, FIELD).mean((2, 4))


def measure(restorer: Restorer, photograph: Path, rain: str, folder: Path) -> Flicker:
    """Make a clip, restore it, and compare."""
    with Image.open(photograph) as image:
        clean = np.array(image.convert("RGB").resize((WIDTH, HEIGHT)))
    source, target = folder / "in.mp4", folder / "out.mp4"
    write_clip(source, rainy_frames(clean, FRAMES, rain=RAINS[rain], noise=NOISE))
    order = VideoOrder(overwrite=True)
    summary = restore_video(restorer, source, target, order)
    before, after = luma(source), luma(target)
    varied, left = before.var(0), after.var(0)
    return Flicker(
        photograph=photograph.stem,
        rain=rain,
        prompts=len(summary.prompts),
        pixels_in=round(float(varied.mean()), 3),
        pixels_out=round(float(left.mean()), 3),
        fields_in=round(float(fields(before).var(0).mean()), 4),
        fields_out=round(float(fields(after).var(0).mean()), 4),
        worse=round(float((left > varied).mean()), 4),
    )


def all_clips(restorer: Restorer) -> Iterator[Flicker]:
    """Every photograph in every rain."""
    with tempfile.TemporaryDirectory() as folder:
        for photograph in sorted(PHOTOGRAPHS.glob("*.jpg")):
            for rain in RAINS:
                yield measure(restorer, photograph, rain, Path(folder))


def main(
    model: Annotated[str, typer.Option(help="The name of a checkpoint.")] = "tvi-derain-s",
    output: Annotated[Path | None, typer.Option(help="Write JSON here.")] = None,
) -> None:
    """Measure, and print the ratios of variances after and before."""
    restorer = Restorer.from_checkpoint(default_weights_dir() / model)
    found: list[Flicker] = []
    for flicker in all_clips(restorer):
        found.append(flicker)
        pixels = flicker.pixels_out / flicker.pixels_in
        coarse = flicker.fields_out / flicker.fields_in
        typer.echo(
            f"{flicker.photograph:24} {flicker.rain:9} pixels {pixels:.3f} fields {coarse:.3f} "
            f"worse {flicker.worse:.3f} prompts {flicker.prompts}"
        )
    if output is not None:
        output.write_text(json.dumps([asdict(flicker) for flicker in found], indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
