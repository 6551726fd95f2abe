"""Cutting an image into tiles that are restored one at a time, with a halo as wide as the network sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from model.depth import widen
from model.edges import mirrored


class Window(NamedTuple):
    """A part of one side of an image: pixels from `start` to `end` are computed, `first` to `last` kept (ends
    exclusive).
    """

    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """How images are cut.

    Attributes:
        side: longest side of a tile in pixels, its halo not counted; at the edges of an image a
            tile is longer by the halo that it does not need there.
        multiple: images are continued to multiples of this many pixels, and tiles begin at them.
        halo: pixels of context around a tile, a multiple of `multiple`.
    """

    side: int
    multiple: int
    halo: int

    def __post_init__(self) -> None:
        if self.side < self.multiple or self.side % self.multiple:
            raise ValueError(f"the tile side must be a multiple of {self.multiple}")
        if self.halo % self.multiple:
            raise ValueError(f"the halo must be a multiple of {self.multiple}")

    def padded(self, length: int) -> int:
        """The length that a side of an image is computed at: the next multiple."""
        return length + -length % self.multiple

    def halved(self) -> Tiling:
        """Tiles of half the side."""
        return replace(self, side=max(self.multiple, self.side // 2 // self.multiple * self.multiple))

    def fits(self, height: int, width: int) -> bool:
        """Whether an image is no larger than a tile with its halo, so that it is computed whole."""
        return max(self.padded(height), self.padded(width)) <= self.side + 2 * self.halo

    def windows(self, length: int) -> list[Window]:
        """Windows over a padded side of an image.

        All are of one length, so that every tile needs the same memory as the one before and takes its place.
        """
        if length <= self.side + 2 * self.halo:
            return [Window(0, length, 0, length)]
        inner = length - 2 * self.halo
        parts = -(-inner // self.side)
        size = self.padded(-(-inner // parts)) + 2 * self.halo
        starts = [self.padded((length - size) * i // (parts - 1)) for i in range(parts)]
        edges = [0, *(start + self.halo for start in starts[1:]), length]
        return [Window(start, start + size, edges[i], edges[i + 1]) for i, start in enumerate(starts)]


def continued(target: Tensor, image: Tensor, *, above: int = 0) -> None:
    """Writes `image` (3, h, w) to the left of `target` (3, H, W), below its first `above` rows, which are
    complete, and continues it to the right and all of them below, mirrored. Nothing outside `target` is
    allocated but for what is added. A uint8 image is spread over the range of a uint16 `target`.
    """
    rows, width = target[:, above : above + image.shape[-2]], image.shape[-1]
    if target.dtype == image.dtype:
        rows[..., :width] = image
    else:
        widen(rows[..., :width], image)
    rows[..., width:] = rows[..., mirrored(torch.arange(width, target.shape[-1]), width)]
    height = above + image.shape[-2]
    target[:, height:] = target[:, mirrored(torch.arange(height, target.shape[-2]), height)]


def pixels(height: int, width: int, *, images: int | None = None, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Uninitialised (3, H, W), or (B, 3, H, W), with the channels of a pixel next to each other."""
    if images is None:
        return torch.empty((height, width, 3), dtype=dtype).permute(2, 0, 1)
    return torch.empty((images, height, width, 3), dtype=dtype).permute(0, 3, 1, 2)


def restore_by_tiles(
    image: Tensor,
    restored: Tensor,
    restore: Callable[[Tensor], Tensor],
    tiling: Tiling,
    *,
    each: Callable[[Callable[[Tensor], Tensor], Iterable[Tensor]], Iterable[Tensor]] = map,
) -> None:
    """Restores an image tile by tile, without seams: a tile with its halo is restored as the whole would be.

    Beside the two images, it holds two bands of the image's width and a tile's height, and what `restore`
    needs for the tiles that `each` computes at once.

    Args:
        image: uint8 or uint16 (3, H, W).
        restored: of the same shape and type, written to; may be `image` itself.
        restore: (1, 3, h, w) -> the same shape and type, h and w multiples as in `tiling`.
        tiling: how to cut.
        each: calls `restore` with all tiles of a band; in order, as `map` does, but some may be computed at
            once.
    """
    height, width = image.shape[-2:]
    columns = tiling.windows(tiling.padded(width))
    before, before_starts = pixels(0, tiling.padded(width), dtype=image.dtype), 0
    for row in tiling.windows(tiling.padded(height)):
        band = pixels(row.end - row.start, tiling.padded(width), dtype=image.dtype)
        # rows above `first` may be restored already, so they are taken from the band before
        above = row.first - row.start
        band[:, :above] = before[:, row.start - before_starts : row.first - before_starts]
        continued(band, image[:, row.first : min(row.end, height)], above=above)
        kept_rows = slice(above, min(row.last, height) - row.start)
        tiles = each(restore, (band[None, :, :, column.start : column.end] for column in columns))
        for column, tile in zip(columns, tiles, strict=True):
            kept = tile[0, :, kept_rows, column.first - column.start : min(column.last, width) - column.start]
            restored[
                :, row.first : row.first + kept.shape[1], column.first : column.first + kept.shape[2]
            ] = kept
        before, before_starts = band, row.start
