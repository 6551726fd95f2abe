"""Photographs and rain layers to train on, held as uint8 in memory and cropped at random."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from model.edges import mirrored
from training.variety import Variety, random_crop, varied_crop

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class DataError(RuntimeError):
    """A data folder that is missing or does not hold what is expected of it."""


def read_rgb(path: Path, longest: int | None = None) -> Tensor:
    """An image file as uint8 (3, H, W), upright and of 8 bits as the service reads it, shrunk (Lanczos) so
    that its longer side is at most `longest` pixels. Raises DataError when it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                samples = np.asarray(upright).astype(np.uint32)
                upright = Image.fromarray(((samples + 128) // 257).astype(np.uint8))
            rgb = upright.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if longest is not None and max(rgb.size) > longest:
        scale = longest / max(rgb.size)
        rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def images_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def held_out(name: str) -> bool:
    """Whether a training scene is kept for validation: one in sixteen, by the hash of its name, for ever."""
    return hashlib.sha256(name.encode()).digest()[0] < 16


def random_crops(
    images: Sequence[Tensor],
    size: int,
    indices: Iterable[int],
    rng: np.random.Generator,
    *,
    variety: Variety | None = None,
) -> Tensor:
    """Crops of `size` pixels of the images at `indices`, flipped at random left to right: uint8 (B, C, size,
    size).

    Images smaller than the crop are mirrored at their right and lower edges. `variety` is for photographs, of
    three channels.
    """
    crops: list[Tensor] = []
    for index in indices:
        if variety is None:
            crop = random_crop(images[index], size, size, rng)
        else:
            crop = varied_crop(images[index], size, rng, variety)
        crops.append(crop.flip(-1) if rng.random() < 0.5 else crop)
    return torch.stack(crops)


def sheared_crop(layer: Tensor, hidden: Tensor | None, size: int, rng: np.random.Generator) -> Tensor:
    """A crop of a rain layer (1, H, W), its rows shifted by whole pixels (a shear, so that thin streaks
    stay sharp) and mirrored at random: uint8 (1, size, size).

    Where `hidden` (H, W) says that the scene was too bright to show its rain, the place is left out if
    possible: of eight tries the one with the least of it is taken, the first with none at once.
    """
    height, width = layer.shape[-2:]
    along = torch.arange(size)
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(8):
        slope = rng.uniform(-0.3, 0.3) if rng.random() < 0.6 else 0.0
        top, left = rng.integers(max(1, height - size + 1)), rng.integers(max(1, width - size + 1))
        shift = (slope * (along - size // 2).double()).round().long()[:, None]
        y = mirrored(along + int(top), height)[:, None]
        x = mirrored(along + int(left) + shift, width)
        lost = 0.0 if hidden is None else float(hidden[y, x].float().mean())
        if best is None or lost < best[0]:
            best = lost, y, x
        if best[0] < 0.01:
            break
    assert best is not None
    crop = layer[:, best[1], best[2]]
    flips = [axis for axis in (-1, -2) if rng.random() < 0.5]
    return crop.flip(flips)


class TrainingData:
    """Everything under a data folder that may be trained on.

    Expects `clean/*/` (photographs), `streaks/*/` (renderings on black) and `pairs_train/` (Rain800 side by
    side, clean left; other sets as `input/` and `target/`). Scenes for which `held_out` is true are in no
    training crop. Without a root it is empty.

    Attributes:
        photographs: uint8 (3, H, W) each.
        layers: uint8 (1, H, W) rain layers each: rainy minus clean of the additive pairs, and the renderings.
        hidden: bool (H, W) for each layer where the rain is out of range in all channels of its pair, or
            None.
        additive: which of the layers are real, by index.
        chances: of each of those to be drawn, summing to 1.
        pairs: uint8 (6, H, W) each: rainy over clean.
        captions: what each pair shows, where that is known; empty where nothing is.
    """

    def __init__(self, root: Path | None, *, validation: bool = False, longest: int = 1024) -> None:
        """Reads what is there. Raises DataError where nothing is to be trained on, or cannot be read."""
        if root is not None and not (root / "clean").is_dir():
            raise DataError(f"no folder 'clean' with photographs in {root}")
        self.photographs: list[Tensor] = []
        self.layers: list[Tensor] = []
        self.hidden: list[Tensor | None] = []
        self.additive: list[int] = []
        self.chances: np.ndarray = np.zeros(0)
        self.pairs: Sequence[Tensor] = []
        self.captions: Sequence[str | None] = []
        if root is not None:
            self._read(root, validation, longest)
            if not self.photographs and not validation:
                raise DataError(f"no photographs to train on in {root / 'clean'}/*/ nor in pairs_train")

    def _read(self, root: Path, validation: bool, longest: int) -> None:
        for folder in sorted(p for p in (root / "clean").iterdir() if p.is_dir()):
            for path in images_in(folder):
                if held_out(path.stem) == validation:
                    self.photographs.append(read_rgb(path, longest))
        self._read_pairs(root / "pairs_train", validation)
        streaks = root / "streaks"
        for folder in sorted(p for p in streaks.iterdir() if p.is_dir()) if streaks.is_dir() else []:
            for path in images_in(folder):
                if held_out(path.stem) == validation:
                    self.layers.append(read_rgb(path)[:1])
                    self.hidden.append(None)

    def _read_pairs(self, root: Path, validation: bool) -> None:
        pairs: list[Tensor] = []
        for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []:
            if (folder / "input").is_dir():
                named = (
                    (p.stem, read_rgb(p), read_rgb(folder / "target" / p.name))
                    for p in images_in(folder / "input")
                )
                additive = folder.name.startswith("rain200")
            else:
                named = ((p.stem, *_right_left(read_rgb(p))) for p in images_in(folder))
                additive = False
            for stem, rainy, clean in named:
                if held_out(f"{folder.name}/{stem}") != validation:
                    continue
                self.photographs.append(clean)
                if additive:
                    difference = (rainy.int() - clean.int()).clamp(0, 255).amax(0, keepdim=True)
                    self.additive.append(len(self.layers))
                    self.layers.append(difference.to(torch.uint8))
                    self.hidden.append((rainy >= 254).all(0))
                pairs.append(torch.cat((rainy, clean)))
        self.pairs = pairs
        rarity = np.array([float(self.layers[i].float().mean().clamp(min=1)) ** -0.5 for i in self.additive])
        self.chances = rarity / rarity.sum()

    def layer_crops(self, size: int, count: int, rng: np.random.Generator) -> Tensor:
        """Crops of rain layers: uint8 (count, 1, size, size); zeros where there are no layers.

        Half of them are real layers of the additive pairs, the light ones, which are few, more often: in
        proportion to the root of one over their mean.
        """
        if not self.layers:
            return torch.zeros(count, 1, size, size, dtype=torch.uint8)
        chosen = rng.integers(len(self.layers), size=count)
        if self.additive:
            chosen = np.where(
                rng.random(count) < 0.5, rng.choice(self.additive, size=count, p=self.chances), chosen
            )
        return torch.stack([sheared_crop(self.layers[i], self.hidden[i], size, rng) for i in chosen])


def _right_left(side_by_side: Tensor) -> tuple[Tensor, Tensor]:
    half = side_by_side.shape[-1] // 2
    return side_by_side[..., half : 2 * half], side_by_side[..., :half]
