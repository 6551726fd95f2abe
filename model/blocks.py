"""Layers of the restoration network R: Restormer's transformer block and a re-parameterised convolution
block.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of each pixel: (B, C, H, W) -> (B, C, H, W), statistics of one pixel
    only.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normalised = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return normalised.permute(0, 3, 1, 2)


class MDTA(nn.Module):
    """Multi-Dconv head transposed attention (Restormer, section 3.1): attention between channels, (B, C, H,
    W).

    The channel covariance is taken over the whole image, so the result at a pixel depends on all others.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False)
        self.project = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, columns = x.shape
        q, k, v = self.depthwise(self.qkv(x)).chunk(3, dim=1)
        q = F.normalize(q.reshape(batch, self.heads, width // self.heads, height * columns), dim=-1)
        k = F.normalize(k.reshape(batch, self.heads, width // self.heads, height * columns), dim=-1)
        v = v.reshape(batch, self.heads, width // self.heads, height * columns)
        attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.project((attention @ v).reshape(batch, width, height, columns))


class GDFN(nn.Module):
    """Gated-Dconv feed-forward network (Restormer, section 3.2): (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, width: int, expansion: float) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.expand = nn.Conv2d(width, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.depthwise(self.expand(x)).chunk(2, dim=1)
        return self.project(F.gelu(gate) * value)


class TransformerBlock(nn.Module):
    """Restormer's block: x + MDTA(norm(x)), then + GDFN(norm(x)); (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, width: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm_attention = ChannelLayerNorm(width)
        self.attention = MDTA(width, heads)
        self.norm_feedforward = ChannelLayerNorm(width)
        self.feedforward = GDFN(width, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.feedforward(self.norm_feedforward(x))


class RepConv3x3(nn.Module):
    """A 3x3 convolution trained as 3x3 + 1x1 + identity (RepVGG, CVPR 2021, section 3): (B, C, H, W) -> (B,
    K, H, W).

    The branches are linear, so they are summed as kernels before the one convolution that runs: training
    sees the branches' parameters, the device sees a single 3x3. `fold` keeps only the sum.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in, 3, 3))
        self.pointwise: nn.Parameter | None = nn.Parameter(torch.zeros(width_out, width_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(width_out))
        self.identity = width_in == width_out
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def kernel(self) -> Tensor:
        """The sum of the branches, (K, C, 3, 3)."""
        if self.pointwise is None:
            return self.weight
        centre = self.pointwise
        if self.identity:
            eye = torch.eye(centre.shape[0], dtype=centre.dtype, device=centre.device)
            centre = centre + eye[:, :, None, None]
        return self.weight + F.pad(centre, (1, 1, 1, 1))

    def fold(self) -> None:
        """Replaces the branches by their sum, for inference. The output stays the same; idempotent."""
        self.weight = nn.Parameter(
            self.kernel().detach().clone(memory_format=torch.channels_last), requires_grad=False
        )
        self.pointwise = None

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.bias, padding=1)


class ConvolutionBlock(nn.Module):
    """x + project(relu(3x3(x))) with one 3x3 per block, so the receptive field grows by one position only.

    (B, C, H, W) -> (B, C, H, W). No normalisation and no statistic over the image.
    """

    def __init__(self, width: int, expansion: float) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.expand = RepConv3x3(width, hidden)
        self.project = nn.Conv2d(hidden, width, 1)
        nn.init.normal_(self.project.weight, std=0.1 * hidden**-0.5)
        nn.init.zeros_(cast(Tensor, self.project.bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.relu(self.expand(x), inplace=True)).add_(x)


class Downsample(nn.Module):
    """Halves the resolution: Restormer's 3x3 and PixelUnshuffle, or a 2x2 convolution of stride 2."""

    def __init__(self, width_in: int, width_out: int, *, convolution: bool) -> None:
        super().__init__()
        if convolution:
            self.body: nn.Module = nn.Conv2d(width_in, width_out, 2, stride=2)
        else:
            self.body = nn.Sequential(
                nn.Conv2d(width_in, width_out // 4, 3, padding=1, bias=False), nn.PixelUnshuffle(2)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsample(nn.Module):
    """Doubles the resolution: a convolution (3x3 as in Restormer, 1x1 otherwise) and PixelShuffle."""

    def __init__(self, width_in: int, width_out: int, *, convolution: bool) -> None:
        super().__init__()
        kernel = 1 if convolution else 3
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width_out * 4, kernel, padding=kernel // 2, bias=convolution),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)
