"""Makes the pairs beside this file: crops of free photographs, and the same crops in seeded synthetic rain.

apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
for package in *.deb; do dpkg -x "$package" packages; done
cp .venv/lib/python*/site-packages/skimage/data/{chelsea,coffee}.png packages/usr/share/backgrounds
python tests/data/make_pairs.py packages/usr/share/backgrounds
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.rain import procedural_layer

HERE = Path(__file__).resolve().parent
QUALITY = 95


@dataclass(frozen=True)
class Scene:
    """A crop of a photograph and the rain that falls in it.

    Attributes:
        name: stem of the pair's files.
        source: file name in the Debian package.
        box: left, top, right, bottom of the crop as shares of width and height.
        size: width and height of the result in pixels.
        mean: mean brightness of the rain layer in [0, 1].
        layers: how many directions of streaks are overlaid, spread by `spread` degrees.
        seed: of the rain.
    """

    name: str
    source: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    mean: float
    layers: int
    spread: float
    seed: int


SCENES = (
    Scene("cat-moderate-rain", "chelsea.png", (0, 0, 1, 1), (384, 256), 0.08, 2, 5, 8),
    Scene("coffee-heavy-rain", "coffee.png", (0, 0, 1, 1), (384, 256), 0.13, 3, 5, 7),
    Scene("dogs-heavy-rain", "friends_by_Aitzol_Berasategi.jpg", (0, 0, 1, 1), (256, 384), 0.13, 4, 6, 3),
    Scene(
        "meadow-light-rain", "aitzgorri_by_Aitzol_Berasategi.jpg", (0, 0, 1, 1), (384, 256), 0.035, 1, 3, 2
    ),
    Scene(
        "mountains-moderate-rain",
        "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        (0, 0.1, 1, 0.9889),
        (384, 256),
        0.08,
        4,
        10,
        6,
    ),
    Scene(
        "nuthatch-heavy-rain",
        "Kleiber_by_Lukas_Baubkus.jpg",
        (0.1, 0.15, 0.68, 0.8373),
        (384, 256),
        0.17,
        4,
        15,
        24,
    ),
)


def save(image: Image.Image, path: Path) -> None:
    """Writes a JPEG without chroma subsampling and without metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=QUALITY, subsampling=0, optimize=True)


def make(scene: Scene, folder: Path) -> None:
    """Writes `pairs/target/NAME.jpg`, and `pairs/input/NAME.jpg` made from it as decoded."""
    with Image.open(folder / scene.source) as photograph:
        shares = np.array(scene.box).reshape(2, 2)
        left, top, right, bottom = (shares * photograph.size).round().astype(int).ravel().tolist()
        crop = photograph.convert("RGB").crop((left, top, right, bottom))
    target = HERE / "pairs" / "target" / f"{scene.name}.jpg"
    save(crop.resize(scene.size, Image.Resampling.LANCZOS), target)

    with Image.open(target) as decoded:
        clean = torch.from_numpy(np.array(decoded)).permute(2, 0, 1) / 255
    generator = torch.Generator().manual_seed(scene.seed)
    mean, spread = torch.tensor([scene.mean]), torch.tensor([scene.spread])
    layer = procedural_layer(mean, (scene.size[1], scene.size[0]), scene.layers, spread, generator)[0]
    rainy = ((clean + layer).clamp(0, 1) * 255).round().to(torch.uint8)
    save(Image.fromarray(rainy.permute(1, 2, 0).numpy()), HERE / "pairs" / "input" / target.name)


def main() -> None:
    """Makes every pair from the folder given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds the photographs as the packages name them")
    folder = parser.parse_args().folder
    for scene in SCENES:
        make(scene, folder)


if __name__ == "__main__":
    main()
