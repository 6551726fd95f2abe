"""A shallower network out of a trained deeper one: the blocks that it needs least are left out.

A residual block adds to what passes through it, so the others go on working without it (Veit et al., NeurIPS
2016, who left blocks out of residual networks). What is left begins a run of its own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast

from torch import Tensor, nn

from model.config import NetworkConfig
from model.network import TVIDerain

OF_BLOCK = re.compile(r"(encoder|decoder)\.(\d+)\.(\d+)\.")


class Block(NamedTuple):
    """A block of R: "encoder" or "decoder", its level (finest is 0), its place there."""

    part: str
    level: int
    place: int


def blocks_of(config: NetworkConfig) -> list[Block]:
    """All that can be left out; each level keeps its interaction block."""
    r = config.restoration
    parts = {"encoder": r.encoder_blocks, "decoder": r.decoder_blocks}
    return [
        Block(part, level, place)
        for part, counts in parts.items()
        for level, count in enumerate(counts)
        for place in range(count)
    ]


def least_needed(network: TVIDerain, score: Callable[[], float], count: int) -> list[tuple[Block, float]]:
    """Which blocks to leave out, in order, found by leaving out each in turn, then each of the others.

    Args:
        network: is the same again afterwards.
        score: of the network as it is then, more is better: a mean PSNR in dB, say.
        count: how many.

    Returns:
        Each block, and the score without it and those before it.
    """
    left = blocks_of(network.config)
    found: list[tuple[Block, float]] = []
    for _ in range(count):
        scores: dict[Block, float] = {}
        for block in left:
            with without(network, [*(gone for gone, _ in found), block]):
                scores[block] = score()
        least = max(left, key=scores.__getitem__)
        left.remove(least)
        found.append((least, scores[least]))
    return found


@contextmanager
def without(network: TVIDerain, blocks: list[Block]) -> Iterator[None]:
    """The network passes these blocks by for as long as the context lasts."""
    own = {block: _stage(network, block)[block.place] for block in blocks}
    for block in blocks:
        _stage(network, block)[block.place] = nn.Identity()
    try:
        yield
    finally:
        for block, module in own.items():
            _stage(network, block)[block.place] = module


def prune(
    state: Mapping[str, Tensor], config: NetworkConfig, blocks: list[Block]
) -> tuple[dict[str, Tensor], NetworkConfig]:
    """The parameters and the architecture without these blocks.

    Raises:
        ValueError: there is no such block.
    """
    if unknown := set(blocks) - set(blocks_of(config)):
        raise ValueError(f"no such block: {', '.join(map(str, sorted(unknown)))}")
    counts: dict[tuple[str, int], int] = {}
    places: dict[Block, int] = {}
    for block in blocks_of(config):
        if block not in blocks:
            places[block] = counts.get(block[:2], 0)
            counts[block[:2]] = places[block] + 1
    pruned: dict[str, Tensor] = {}
    for name, value in state.items():
        found = OF_BLOCK.match(name)
        if found is None:
            pruned[name] = value
            continue
        block = Block(found[1], int(found[2]), int(found[3]))
        if block in places:
            pruned[f"{block.part}.{block.level}.{places[block]}.{name[found.end() :]}"] = value
    r = config.restoration
    smaller = dataclasses.replace(
        r,
        encoder_blocks=tuple(counts.get(("encoder", level), 0) for level in range(len(r.encoder_blocks))),
        decoder_blocks=tuple(counts.get(("decoder", level), 0) for level in range(len(r.decoder_blocks))),
    )
    return pruned, dataclasses.replace(config, restoration=smaller)


def _stage(network: TVIDerain, block: Block) -> nn.Sequential:
    parts = {"encoder": network.encoder, "decoder": network.decoder}
    return cast(nn.Sequential, parts[block.part][block.level])
