"""Rectified units that have died begin anew.

A ReLU that is negative everywhere has no gradient and never comes back (Sokar et al., "The Dormant Neuron
Phenomenon", ICML 2023). Its weights are drawn again, and its way out begins at zero, so the network restores
as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.blocks import ConvolutionBlock
from model.network import TVIDerain
from model.prompts import Prompt

DORMANT = 1e-3
"""Share of the pixels at which a living unit is positive at least."""


@torch.no_grad()
def revive(network: TVIDerain, samples: Iterable[tuple[Tensor, list[Prompt]]]) -> int:
    """Draws the dormant units of all convolution blocks anew.

    Args:
        network: a trained one.
        samples: rainy images (B, 3, H, W) in [0, 1] and their prompts; a unit is dormant when it is positive
            at fewer than `DORMANT` of the pixels of all of them.

    Returns:
        How many units there were.
    """
    blocks = [module for module in network.modules() if isinstance(module, ConvolutionBlock)]
    positive: dict[nn.Module, list[Tensor]] = {block.expand: [] for block in blocks}

    def watch(expand: nn.Module, _: object, hidden: Tensor) -> None:
        positive[expand].append((hidden > 0).float().mean((0, 2, 3)))

    observe(network, samples, [block.expand.register_forward_hook(watch) for block in blocks])
    count = 0
    for block in blocks:
        dormant = torch.stack(positive[block.expand]).mean(0) < DORMANT
        count += int(dormant.sum())
        expand = block.expand
        drawn = torch.empty_like(expand.weight)
        nn.init.kaiming_normal_(drawn, nonlinearity="relu")
        expand.weight[dormant] = drawn[dormant]
        cast(Tensor, expand.pointwise)[dormant] = 0
        expand.bias[dormant] = 0
        block.project.weight[:, dormant] = 0
    return count


def observe(
    network: TVIDerain, samples: Iterable[tuple[Tensor, list[Prompt]]], hooks: list[RemovableHandle]
) -> None:
    """Restores rainy images, each with its prompts, for what the hooks see, and takes the hooks away."""
    assert network.text is not None
    for rainy, prompts in samples:
        features = network.text.encode(prompts)
        network(rainy, features.tokens, features.mask)
    for hook in hooks:
        hook.remove()
