"""A wider or deeper network that begins as a trained smaller one.

Net2Net (Chen et al., ICLR 2016) copies channels; here new channels are drawn at random instead, and nothing
that was there reads them: their way into the old channels begins at zero. New blocks come after the old ones
of their level and add nothing at first. The larger network restores as the smaller one did, and learns from
the first step what to do with the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import InteractionConfig, NetworkConfig
from model.network import TVIDerain


class GrowthError(ValueError):
    """One network cannot begin as the other."""


PER_HEAD_OUT = re.compile(r"interaction\.\d+\.(query|key|value)\.(weight|bias)")
PER_HEAD_IN = re.compile(r"interaction\.\d+\.out\.weight")
BLOCK_OUT = re.compile(r"(encoder|decoder)\.\d+\.\d+\.project\.(weight|bias)")
JOINED_IN = re.compile(r"(merge\.\d+|interaction\.\d+\.fuse)\.weight")


@torch.no_grad()
def grow(network: TVIDerain, state: Mapping[str, Tensor], config: NetworkConfig) -> None:
    """Puts the weights of a smaller network into an untrained larger one; both restore alike then.

    Args:
        network: convolution blocks only, which have no statistic over channels.
        state: of the smaller network; what `network` has not (a twin without text) is left out.
        config: the smaller one's.

    Raises:
        GrowthError: when the two differ in more than width and depth, or `network` is smaller somewhere.
    """
    check_growth(config, network.config)
    own = network.state_dict()
    for name, new in own.items():
        if BLOCK_OUT.fullmatch(name) and name not in state:
            new.zero_()
    for name, old in state.items():
        if name not in own:
            continue
        new = own[name]
        if new.shape == old.shape:
            new.copy_(old)
            continue
        heads = heads_of(name, network.config.interaction, network.config.restoration.strides)
        rows = positions(old.shape[0], new.shape[0], heads if PER_HEAD_OUT.fullmatch(name) else 1)
        if name.endswith(".key.weight"):
            new.zero_()  # scores are summed over a head's channels: new ones add nothing
        if ".query." in name:
            old = (
                old * (new.shape[0] / old.shape[0]) ** 0.5
            )  # scores are divided by the root of a head's width
        if old.ndim == 1:
            new[rows] = old
            continue
        parts = heads if PER_HEAD_IN.fullmatch(name) else 2 if JOINED_IN.fullmatch(name) else 1
        columns = positions(old.shape[1], new.shape[1], parts)
        new[rows] = 0
        new[rows[:, None], columns] = old


def positions(old: int, new: int, parts: int) -> Tensor:
    """Where `old` channels in `parts` equal groups lie among `new` ones in as many: (old,), int64."""
    groups = torch.arange(new).view(parts, new // parts)
    return groups[:, : old // parts].flatten()


def heads_of(name: str, interaction: InteractionConfig, strides: tuple[int, ...]) -> int:
    """Attention heads of the interaction block that a parameter is of, 1 for any other."""
    found = re.match(r"interaction\.(\d+)\.", name)
    return interaction.heads[interaction.strides.index(strides[int(found[1])])] if found else 1


def check_growth(old: NetworkConfig, new: NetworkConfig) -> None:
    """Raises GrowthError when `old` cannot begin `new`."""
    before, after = old.restoration, new.restoration
    same = ("block", "stem_stride", "refinement_blocks", "expansion")
    differing = [name for name in same if getattr(before, name) != getattr(after, name)]
    if old.interaction != new.interaction:
        differing.append("interaction")
    if old.text != new.text:
        differing.append("text")
    if len(before.widths) != len(after.widths):
        differing.append("levels")
    if differing:
        raise GrowthError(
            f"a network grows in width and depth alone, but these differ: {', '.join(differing)}"
        )
    if after.block != "convolution":
        raise GrowthError("only networks of convolution blocks grow: Restormer's normalise over the channels")
    narrower = zip(before.widths + before.decoder_widths, after.widths + after.decoder_widths, strict=True)
    if any(wide < narrow for narrow, wide in narrower):
        raise GrowthError("a network does not grow into a narrower one")
    shallower = zip(
        before.encoder_blocks + before.decoder_blocks,
        after.encoder_blocks + after.decoder_blocks,
        strict=True,
    )
    if any(deep < shallow for shallow, deep in shallower):
        raise GrowthError("a network does not grow into a shallower one")
