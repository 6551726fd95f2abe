"""Training on paired sets as they are published (Rain200H, Rain200L, Rain800, Rain1400), without a
synthesiser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from training.pairs import Pair, find_sets
from training.scenes import DataError, TrainingData, held_out

MEMORY = 8 * 2**30
"""Bytes of decoded pairs that are kept; further ones are read from their files each time."""


class PublishedPairs(Sequence[Tensor]):
    """Pairs as uint8 (6, H, W), rainy over clean, decoded when first asked for."""

    def __init__(self, pairs: Sequence[Pair], memory: int = MEMORY) -> None:
        self.pairs = pairs
        self.room = memory
        self.kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return PublishedPairs(self.pairs[index], self.room)
        if index in self.kept:
            return self.kept[index]
        pair = torch.cat(self.pairs[index].read())
        if pair.numel() <= self.room:
            self.room -= pair.numel()
            self.kept[index] = pair
        return pair


def read_training_data(root: Path, *, validation: bool = False) -> TrainingData:
    """A folder with `clean/` as `TrainingData` reads it; any other as paired sets, which are trained on as
    they are.

    One scene in sixteen is kept for validation, all its rainy versions with it.

    Raises:
        DataError: a folder that is neither.
    """
    if (root / "clean").is_dir():
        return TrainingData(root, validation=validation)
    chosen = [
        pair
        for found in find_sets(root)
        for pair in found.pairs
        if held_out(f"{found.name}/{pair.clean.path.stem}") == validation
    ]
    if not chosen and not validation:
        raise DataError(f"every scene of {root} is held out from training: it holds too few")
    data = TrainingData(None, validation=validation)
    data.pairs = PublishedPairs(chosen)
    return data
