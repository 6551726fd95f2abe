"""Makes the samples of the page: free photographs in seeded synthetic rain.

apt-get download lomiri-wallpapers-16.04
dpkg -x lomiri-wallpapers-16.04_*.deb packages
python -m benchmarks.page_samples packages/usr/share/backgrounds
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from training.rain import procedural_layer

SAMPLES = Path(__file__).resolve().parent.parent / "app" / "web" / "samples"
QUALITY = 86


@dataclass(frozen=True, slots=True)
class Scene:
    """A photograph, and the rain that falls in it.

    Attributes:
        source: file name in the Debian package.
        box: left, top, right, bottom of the crop as shares of width and height.
        size: width and height of the sample in pixels.
        mean: mean brightness of the rain layer in [0, 1].
        layers: how many directions of streaks are overlaid, spread by `spread` degrees.
        seed: of the rain.
    """

    source: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    mean: float
    layers: int
    spread: float
    seed: int


SCENES = {
    "dandelions": Scene(
        "seeding_by_Clements_Engelhardt.jpg", (0.06, 0, 0.9, 1), (1008, 672), 0.05, 2, 4, seed=11
    ),
    "dogs": Scene("friends_by_Aitzol_Berasategi.jpg", (0, 0, 1, 1), (672, 1008), 0.12, 3, 6, seed=3),
    "meadow": Scene("aitzgorri_by_Aitzol_Berasategi.jpg", (0, 0, 1, 1), (1008, 672), 0.04, 1, 3, seed=2),
    "mountains": Scene(
        "picosdeeuropa_by_Aitzol_Berasategi.jpg", (0, 0.1, 1, 0.9889), (1008, 672), 0.09, 3, 8, seed=6
    ),
}


def in_rain(scene: Scene, folder: Path) -> Image.Image:
    """The photograph of a scene, cut, scaled down and rained on."""
    with Image.open(folder / scene.source) as photograph:
        shares = np.array(scene.box).reshape(2, 2)
        left, top, right, bottom = (shares * photograph.size).round().astype(int).ravel().tolist()
        crop = photograph.convert("RGB").crop((left, top, right, bottom))
    clean = torch.from_numpy(np.array(crop.resize(scene.size, Image.Resampling.LANCZOS))).permute(2, 0, 1)
    generator = torch.Generator().manual_seed(scene.seed)
    mean, spread = torch.tensor([scene.mean]), torch.tensor([scene.spread])
    width, height = scene.size
    layer = procedural_layer(mean, (height, width), scene.layers, spread, generator)[0]
    rainy = ((clean / 255 + layer).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(rainy.permute(1, 2, 0).numpy())


def main(
    folder: Annotated[Path, typer.Argument(help="Holds the photographs as the package names them.")],
    output: Annotated[Path, typer.Option(help="Where the samples go.")] = SAMPLES,
) -> None:
    """Make every sample."""
    for name, scene in SCENES.items():
        in_rain(scene, folder).save(output / f"{name}.jpg", quality=QUALITY, optimize=True, progressive=True)


if __name__ == "__main__":
    typer.run(main)
