"""Training on paired sets as they are published (Rain200H, Rain200L, Rain800, Rain1400), without a
synthesiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from training.captions import caption_of
from training.pairs import Pair, PairedSet, find_sets
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


def training_sets(root: Path, *, validation: bool = False) -> list[PairedSet]:
    """The paired sets under a folder without the scenes that are kept for validation, or those alone: one
    scene in sixteen, all its rainy versions with it.

    Raises:
        DataError: a folder without paired sets; photographs to rain on, which have no rainy images yet.
    """
    if (root / "clean").is_dir():
        raise DataError(f"{root} holds photographs: captions go with paired sets")

    def kept(found: PairedSet) -> tuple[Pair, ...]:
        return tuple(p for p in found.pairs if held_out(f"{found.name}/{p.clean.path.stem}") == validation)

    return [PairedSet(found.name, kept(found)) for found in find_sets(root)]


def read_training_data(
    root: Path, *, validation: bool = False, captions: Sequence[Mapping[str, str]] = ()
) -> TrainingData:
    """A folder with `clean/` as `TrainingData` reads it; any other as paired sets, which are trained on as
    they are.

    One scene in sixteen is kept for validation, all its rainy versions with it.

    Args:
        root: the folder.
        validation: read the scenes that are kept for validation.
        captions: semantic prompts of pairs, by the name of the rainy or of the clean image; where several
            have one, the first counts.

    Raises:
        DataError: a folder that is neither; captions for a folder of photographs, or for none of the pairs.
    """
    if (root / "clean").is_dir() and not captions:
        return TrainingData(root, validation=validation)
    sets = training_sets(root, validation=validation)
    chosen = [pair for found in sets for pair in found.pairs]
    if not chosen and not validation:
        raise DataError(f"every scene of {root} is held out from training: it holds too few")
    data = TrainingData(None, validation=validation)
    data.pairs = PublishedPairs(chosen)
    if captions:
        data.captions = [training_caption(captions, found, pair) for found in sets for pair in found.pairs]
        if chosen and not any(data.captions):
            raise DataError(f"no caption names an image of {root}")
    return data


def training_caption(captions: Sequence[Mapping[str, str]], found: PairedSet, pair: Pair) -> str | None:
    """The first caption of a pair, by the name of its rainy image or of its clean one."""
    for one in captions:
        caption = caption_of(one, found, pair) or one.get(pair.clean.path.stem)
        if caption:
            return caption
    return None
