"""TVIDerain: the restoration network R with the interaction module M, and the text encoder E beside them."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import (
    ChannelLayerNorm,
    ConvolutionBlock,
    Downsample,
    RepConv3x3,
    TransformerBlock,
    Upsample,
)
from model.config import NetworkConfig, RestorationConfig
from model.edges import mirrored
from model.interaction import CAFI
from model.text import NoText, TextEncoder


class TVIDerain(nn.Module):
    """`(rainy (B, 3, H, W) in [0, 1], tokens (B, T, D), mask (B, T)) -> restored (B, 3, H, W)`, any H and W.

    R is an encoder-decoder with skips and a residual output. The latent and the skips at the strides of M's
    configuration pass through a CAFI block on their way to the decoder, so that the text decides what is
    removed. The restored image is not clamped.
    """

    def __init__(self, config: NetworkConfig, text: TextEncoder | NoText | None = None) -> None:
        """
        Args:
            config: the architecture.
            text: E; may be None where token features are given from outside (export, cost counts).
        """
        super().__init__()
        self.config = config
        self.text = text
        r = config.restoration
        convolution = r.block == "convolution"
        levels = len(r.widths)

        if r.stem_stride == 2:
            self.stem: nn.Module = nn.Sequential(
                nn.PixelUnshuffle(2), nn.Conv2d(12, r.widths[0], 3, padding=1)
            )
        else:
            self.stem = nn.Conv2d(3, r.widths[0], 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(
            stage(r, r.widths[i], r.heads[i], r.encoder_blocks[i]) for i in range(levels)
        )
        self.down = nn.ModuleList(
            Downsample(r.widths[i], r.widths[i + 1], convolution=convolution) for i in range(levels - 1)
        )

        self.interaction = nn.ModuleDict()
        heads_of = dict(zip(config.interaction.strides, config.interaction.heads, strict=True))
        for level, stride in enumerate(r.strides):
            if stride not in heads_of:
                continue
            width = r.widths[level]
            self.interaction[str(level)] = CAFI(
                width=width,
                text_width=config.text.width,
                heads=heads_of[stride],
                norm=nn.Identity() if convolution else ChannelLayerNorm(width),
                block=stage(r, width, r.heads[level], config.interaction.fusion_blocks),
            )
        if len(self.interaction) != len(heads_of):
            raise ValueError(
                f"interaction strides {config.interaction.strides} are not all among {r.strides}"
            )

        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        self.decoder = nn.ModuleList()
        below = r.widths[-1]
        for level in range(levels - 1):
            below = r.widths[-1] if level == levels - 2 else r.decoder_widths[level + 1]
            up_width, width = r.widths[level], r.decoder_widths[level]
            self.up.append(Upsample(below, up_width, convolution=convolution))
            joined = up_width + r.widths[level]
            self.merge.append(
                nn.Identity() if joined == width else nn.Conv2d(joined, width, 1, bias=convolution)
            )
            self.decoder.append(stage(r, width, r.heads[level], r.decoder_blocks[level]))
        self.refinement = stage(r, r.decoder_widths[0], r.heads[0], r.refinement_blocks)

        if r.stem_stride == 2:
            self.head: nn.Module = nn.Sequential(
                nn.Conv2d(r.decoder_widths[0], 12, 3, padding=1), nn.PixelShuffle(2)
            )
        else:
            self.head = nn.Conv2d(r.decoder_widths[0], 3, 3, padding=1, bias=False)

    @property
    def multiple(self) -> int:
        """Height and width are continued to multiples of this many pixels inside `forward`, mirrored at the
        edges."""
        return self.config.restoration.strides[-1]

    def fold(self) -> None:
        """Folds re-parameterised convolutions for inference; the outputs stay the same."""
        for module in self.modules():
            if isinstance(module, RepConv3x3):
                module.fold()

    def forward(self, rainy: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        height, width = rainy.shape[-2:]
        rows = torch.arange(height + -height % self.multiple, device=rainy.device)
        columns = torch.arange(width + -width % self.multiple, device=rainy.device)
        padded = rainy[:, :, mirrored(rows, height)][..., mirrored(columns, width)]
        return self.restore(padded, tokens, mask)[..., :height, :width]

    def restore(self, padded: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """`forward` of an image whose sides are multiples of `multiple`, without a copy of it."""
        restored = self.restore_once(padded, tokens, mask)
        if self.config.restoration.cycle_spinning and not self.training:
            shifted = F.pad(padded[..., :-1, :-1], (1, 0, 1, 0), mode="replicate")
            again = self.restore_once(shifted, tokens, mask)[..., 1:, 1:]
            twice = restored[..., :-1, :-1]  # the last row and column have left the shifted image
            twice += (again - twice) / 2
        return restored

    def restore_once(self, padded: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """`restore` without cycle spinning."""
        x = self.stem(padded)
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.encoder):
            # block by block: as an argument of the whole stage, its input would stay in memory until the end
            for block in cast(nn.Sequential, blocks):
                x = block(x)
            key = str(level)
            if key in self.interaction:
                skips.append(cast(CAFI, self.interaction[key])(x, tokens, mask))
            else:
                skips.append(x)
            if level < len(self.down):
                x = self.down[level](x)

        x = skips.pop()
        for level in reversed(range(len(self.decoder))):
            x = self.up[level](x)
            x = self.merge[level](torch.cat((x, skips.pop()), dim=1))
            for block in cast(nn.Sequential, self.decoder[level]):
                x = block(x)
        return padded + self.head(self.refinement(x))


def stage(config: RestorationConfig, width: int, heads: int, blocks: int) -> nn.Sequential:
    """`blocks` blocks of the configured kind in a row."""
    if config.block == "convolution":
        return nn.Sequential(*(ConvolutionBlock(width, config.expansion) for _ in range(blocks)))
    return nn.Sequential(*(TransformerBlock(width, heads, config.expansion) for _ in range(blocks)))
