"""Readers of paired sets: rainy images with their clean originals, in the layouts in which they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from training.scenes import DataError, images_in, read_rgb


class PairsError(DataError):
    """A folder without paired sets, or a set in which something is missing, unreadable or of another size."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file, or the left or right half of one."""

    path: Path
    part: Literal["whole", "left", "right"] = "whole"

    def read(self) -> Tensor:
        """The pixels, uint8 (3, H, W). Raises PairsError when the file cannot be decoded."""
        try:
            image = read_rgb(self.path)
        except DataError as error:
            raise PairsError(str(error)) from error
        half = image.shape[-1] // 2
        if self.part == "left":
            return image[..., :half]
        if self.part == "right":
            return image[..., half : 2 * half]
        return image


@dataclass(frozen=True, slots=True)
class Pair:
    """A rainy image and its clean original."""

    name: str
    rainy: Picture
    clean: Picture

    def read(self) -> tuple[Tensor, Tensor]:
        """Rainy and clean, uint8 (3, H, W) each. Raises PairsError for unreadable files and for two sizes."""
        rainy, clean = self.rainy.read(), self.clean.read()
        if rainy.shape != clean.shape:
            sizes = " and ".join(f"{image.shape[2]}x{image.shape[1]}" for image in (rainy, clean))
            raise PairsError(f"{self.rainy.path} and its clean original are of two sizes: {sizes}")
        return rainy, clean


@dataclass(frozen=True, slots=True)
class PairedSet:
    """The pairs of one folder, sorted by name."""

    name: str
    pairs: tuple[Pair, ...]


Layout = Callable[[Path], list[Pair] | None]
"""The pairs in a folder of this layout, None for another folder. Raises PairsError for a broken one."""


def input_target(folder: Path) -> list[Pair] | None:
    """`input/` holds the rainy images, `target/` the clean ones under the same names; suffixes may differ."""
    if not (folder / "input").is_dir() or not (folder / "target").is_dir():
        return None
    rainy, clean = _by_stem(folder / "input"), _by_stem(folder / "target")
    alone = sorted(rainy.keys() ^ clean.keys())
    if alone:
        where = "input" if alone[0] in rainy else "target"
        raise PairsError(
            f"{folder}: {len(alone)} without a partner, for example {alone[0]!r} only in {where}"
        )
    return [Pair(stem, Picture(rainy[stem]), Picture(clean[stem])) for stem in sorted(rainy)]


def rain_norain(folder: Path) -> list[Pair] | None:
    """Rain200H, Rain200L, Rain100H and Rain100L as distributed, joined by the number in the names.

    `norain/norain-1.png` with `rain/norain-1x2.png` or `rain/X2/norain-1x2.png`, or in one folder
    `norain-001.png` with `rain-001.png`; the rain layers that lie beside them (`rainstreak-1.png`) are
    passed over.
    """
    if (folder / "norain").is_dir() and (folder / "rain").is_dir():
        beneath = folder / "rain" / "X2"
        rainy = images_in(beneath if beneath.is_dir() else folder / "rain")
        clean = images_in(folder / "norain")
    else:
        images = images_in(folder)
        clean = [path for path in images if path.stem.startswith("norain-")]
        rainy = [path for path in images if path.stem.startswith("rain-")]
        if not clean or not rainy:
            return None
    return _joined(folder, rainy, clean, lambda stem: stem.split("-")[-1].removesuffix("x2"))


def rainy_image_ground_truth(folder: Path) -> list[Pair] | None:
    """Rain1400 as distributed: `rainy_image/12_1.jpg` to `12_14.jpg` are rainy versions of
    `ground_truth/12.jpg`.
    """
    if not (folder / "rainy_image").is_dir() or not (folder / "ground_truth").is_dir():
        return None
    rainy, clean = images_in(folder / "rainy_image"), images_in(folder / "ground_truth")
    return _joined(folder, rainy, clean, lambda stem: stem.split("_")[0])


SIDE_BY_SIDE_SAMPLE = 9
SIDE_BY_SIDE_CORRELATION = 0.85
"""How many images of a folder are looked at, and how much their halves must be alike at the median.

Measured on up to 60 files each: 0.95 and more in Rain800, medians up to 0.31 in folders of photographs.
"""


def side_by_side(folder: Path) -> list[Pair] | None:
    """Rain800: every file shows the clean image on its left and the rainy one on its right.

    Recognised by what the files show: the halves of most of them look alike.
    """
    paths = images_in(folder)
    if not paths:
        return None
    sample = paths[:: -(-len(paths) // SIDE_BY_SIDE_SAMPLE)]
    if np.median([_likeness_of_halves(path) for path in sample]) < SIDE_BY_SIDE_CORRELATION:
        return None
    return [Pair(path.stem, rainy=Picture(path, "right"), clean=Picture(path, "left")) for path in paths]


LAYOUTS: tuple[Layout, ...] = (input_target, rain_norain, rainy_image_ground_truth, side_by_side)
"""Tried in this order."""


def read_set(folder: Path) -> PairedSet | None:
    """The paired set that a folder is, None where it is none. Raises PairsError for a broken or empty one."""
    for layout in LAYOUTS:
        pairs = layout(folder)
        if pairs is None:
            continue
        if not pairs:
            raise PairsError(f"{folder} is laid out as a paired set but holds no images")
        return PairedSet(folder.resolve().name, tuple(pairs))
    return None


def find_sets(root: Path) -> list[PairedSet]:
    """The paired set that `root` is, else those directly below it, sorted by name.

    Raises:
        PairsError: when there is no such folder or no set, or when one is broken.
    """
    if not root.is_dir():
        raise PairsError(f"{root} is not a folder")
    whole = read_set(root)
    if whole is not None:
        return [whole]
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    sets = [found for folder in folders if (found := read_set(folder)) is not None]
    if not sets:
        raise PairsError(
            f"no paired sets in {root}: expected input/ and target/ there or one folder below, "
            "rain/ and norain/, rainy_image/ and ground_truth/, "
            "or images that show clean (left) and rainy (right) side by side"
        )
    return sets


def _joined(folder: Path, rainy: list[Path], clean: list[Path], scene: Callable[[str], str]) -> list[Pair]:
    """Every rainy image with the clean one of its scene; numbers are compared as such, so 001 is 1."""

    def key(path: Path) -> str:
        found = scene(path.stem)
        return str(int(found)) if found.isdecimal() else found

    originals: dict[str, Path] = {}
    for path in clean:
        if key(path) in originals:
            raise PairsError(f"{folder} holds scene {key(path)!r} twice: {path.name}")
        originals[key(path)] = path
    alone = [path.name for path in rainy if key(path) not in originals]
    if alone:
        raise PairsError(f"{folder}: {len(alone)} without a clean original, for example {alone[0]!r}")
    return [Pair(path.stem, Picture(path), Picture(originals[key(path)])) for path in sorted(rainy)]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in images_in(folder):
        if path.stem in found:
            raise PairsError(f"{folder} holds {path.stem!r} twice: {found[path.stem].name} and {path.name}")
        found[path.stem] = path
    return found


def _likeness_of_halves(path: Path) -> float:
    """Correlation of the left and the right half of an image, both shrunk to 32x32 greys; 0 for flat ones."""
    try:
        with Image.open(path) as image:
            grey = image.convert("L")
    except (OSError, Image.DecompressionBombError) as error:
        raise PairsError(f"{path} cannot be read: {error}") from error
    half = grey.width // 2
    if half == 0:
        return 0.0
    boxes = ((0, 0, half, grey.height), (half, 0, 2 * half, grey.height))
    left, right = (np.asarray(grey.resize((32, 32), Image.Resampling.BOX, box)).ravel() for box in boxes)
    if left.std() == 0 or right.std() == 0:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])
