"""Layer-wise learning rates, in proportion to what each layer is made of.

Muon moves all matrices alike and AdamW all biases. In a network without normalisation one layer works on
values of 0.05 with weights of 0.3, another on values of 60 with weights of 0.006: the same step is nothing to
the one and turns the other over, and a bias that moves faster than what it is added to silences its rectified
unit for good. Here a layer's rate follows its size (You et al., "Large Batch Training of Convolutional
Networks", 2017, section 4), which is measured once, at the start.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from model.blocks import ConvolutionBlock, RepConv3x3
from model.interaction import CAFI
from model.network import TVIDerain
from model.prompts import Prompt
from training.revive import observe

USUAL = 0.08
"""Root mean square of the weights whose rate stays as it is: that of He's initialisation at 32 channels."""
BRANCH = 0.3
"""What the branch of a block adds to what passes by it, at least, for its size: one that still adds nothing
is to learn to."""


@torch.no_grad()
def learning_rate_multipliers(
    network: TVIDerain, samples: Iterable[tuple[Tensor, list[Prompt]]]
) -> dict[str, float]:
    """Multipliers of the learning rate for the parameters of R and M, by name; any other keeps the rate.

    A matrix is as large as the root mean square of its entries, a bias as the standard deviation, over pixels
    and images, of what it is added to.

    Args:
        network: of convolution blocks.
        samples: rainy images (B, 3, H, W) in [0, 1] and their prompts.

    Raises:
        ValueError: its blocks are others.
    """
    if network.config.restoration.block != "convolution":
        raise ValueError("layer-wise rates are for networks of convolution blocks")
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | RepConv3x3) and not name.startswith("text.")
    }
    blocks = [module for module in network.modules() if isinstance(module, ConvolutionBlock)]
    variances: dict[nn.Module, list[Tensor]] = {}

    def measure(module: nn.Module, values: Tensor) -> None:
        variances.setdefault(module, []).append(values.float().var((0, 2, 3)).mean())

    def leave(layer: nn.Module, _: object, output: Tensor) -> None:
        measure(layer, output)

    def enter(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        measure(block, inputs[0])

    hooks = [layer.register_forward_hook(leave) for layer in layers.values()]
    hooks += [block.register_forward_pre_hook(enter) for block in blocks]
    observe(network, samples, hooks)
    spread = {module: float(torch.stack(found).mean().sqrt()) for module, found in variances.items()}

    multipliers = {
        name: float(parameter.square().mean().sqrt()) / USUAL
        for name, parameter in network.named_parameters()
        if parameter.ndim > 1 and not name.startswith("text.")
    }
    for name, layer in layers.items():
        if layer.bias is not None and layer in spread:
            multipliers[f"{name}.bias"] = spread[layer]
    for name, module in network.named_modules():
        if isinstance(module, CAFI):
            # fused by hand, not by calling the layer
            multipliers[f"{name}.fuse.bias"] = spread[cast(nn.Sequential, module.block)[0]]
        if not isinstance(module, ConvolutionBlock):
            continue
        expand, project = module.expand.weight, module.project.weight
        he = (2 / expand[0].numel()) ** 0.5
        widening = max(multipliers[f"{name}.expand.weight"], he / USUAL)
        multipliers[f"{name}.expand.weight"] = multipliers[f"{name}.expand.pointwise"] = widening
        least = BRANCH * project.shape[1] ** -0.5
        multipliers[f"{name}.project.weight"] = max(multipliers[f"{name}.project.weight"], least / USUAL)
        multipliers[f"{name}.project.bias"] = BRANCH * spread[module]
    return multipliers
