"""Training on paired sets as they are published (Rain200H, Rain200L, Rain800, Rain1400), without a
synthesiser."""

from __future__ import annotations

import csv
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


def read_captions(path: Path) -> dict[str, str]:
    """Captions by the stem of the image's name, from a CSV with the columns `file` and `caption`.

    Raises:
        DataError: a file that cannot be read or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"file", "caption"} <= set(rows.fieldnames or ()):
                raise DataError(f"{path} has no columns 'file' and 'caption'")
            return {Path(row["file"]).stem: row["caption"].strip() for row in rows if row["caption"]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_training_data(
    root: Path, *, validation: bool = False, captions: dict[str, str] | None = None
) -> TrainingData:
    """A folder with `clean/` as `TrainingData` reads it; any other as paired sets, which are trained on as
    they are.

    One scene in sixteen is kept for validation, all its rainy versions with it.

    Args:
        root: the folder.
        validation: read the scenes that are kept for validation.
        captions: semantic prompts of pairs, by the name of the rainy or of the clean image.

    Raises:
        DataError: a folder that is neither; captions for a folder of photographs, or for none of the pairs.
    """
    if (root / "clean").is_dir():
        if captions is not None:
            raise DataError(f"{root} holds photographs: captions go with paired sets")
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
    if captions is not None:
        data.captions = [captions.get(p.name, captions.get(p.clean.path.stem)) for p in chosen]
        if chosen and not any(data.captions):
            raise DataError(f"no caption names an image of {root}")
    return data
