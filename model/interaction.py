"""The textual-visual interaction module M: cross-attention feature interaction (CAFI) at three levels of the
decoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CAFI(nn.Module):
    """Cross-attention feature interaction (TVI-Derain, module M).

    Every pixel attends to every text token: queries come from the visual features, keys and values from the
    token features. What it reads is fused with the visual features: concatenate, 1x1 convolution, block,
    residual.

    Scores are q.k with q = Wq x and k = Wk t. They depend on the text only through Wq^T k, the output only
    through Wo v. Both are folded first: attending is two 1x1 convolutions with prompt-dependent kernels and a
    softmax between them, and neither queries nor values are ever held per pixel.
    """

    def __init__(self, *, width: int, text_width: int, heads: int, norm: nn.Module, block: nn.Module) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.norm = norm
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(text_width, width, bias=False)
        self.value = nn.Linear(text_width, width)
        self.out = nn.Linear(width, width)
        self.fuse = nn.Conv2d(2 * width, width, 1)
        self.block = block

    def fold(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of a text as kernels of 1x1 convolutions over the visual features.

        Args:
            tokens: token features (B, T, D).

        Returns:
            score kernel (B, C, heads*T), score bias (B, 1, heads*T), output kernel (B, heads*T, C).
        """
        batch, length, _ = tokens.shape
        width = self.query.in_features
        channels = width // self.heads
        key = self.key(tokens).view(batch, length, self.heads, channels).permute(0, 2, 1, 3) * channels**-0.5
        value = self.value(tokens).view(batch, length, self.heads, channels).permute(0, 2, 1, 3)
        query_weight = self.query.weight.view(self.heads, channels, width)
        score = torch.matmul(key, query_weight).reshape(batch, self.heads * length, width).transpose(1, 2)
        query_bias = self.query.bias.view(self.heads, channels, 1)
        bias = torch.matmul(key, query_bias).reshape(batch, 1, self.heads * length)
        out_weight = self.out.weight.t().reshape(self.heads, channels, width)
        output = torch.matmul(value, out_weight).reshape(batch, self.heads * length, width)
        return score, bias, output

    def weights(self, x: Tensor, score: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        """Attention of each pixel over the tokens: (B, H*W, heads, T), summing to 1 over T."""
        batch, width, height, columns = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * columns, width)
        # padding is masked in the bias, which has no pixels, so that the scores are written only once
        bias = bias.view(batch, self.heads, -1).masked_fill(~mask[:, None], -torch.inf).view(batch, 1, -1)
        logits = torch.baddbmm(bias, pixels, score)
        return logits.view(batch, height * columns, self.heads, mask.shape[1]).softmax(dim=-1)

    def attention(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """The attention map (B, heads, T, H, W) of visual features (B, C, H, W) over tokens (B, T, D)."""
        score, bias, _ = self.fold(tokens)
        weights = self.weights(x, score, bias, mask)
        return weights.permute(0, 2, 3, 1).reshape(x.shape[0], self.heads, tokens.shape[1], *x.shape[2:])

    def read(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Visual features (B, C, H, W) fused with what each pixel reads in the text, (B, C, H, W)."""
        batch, width, height, columns = x.shape
        score, bias, output = self.fold(tokens)
        weights = self.weights(x, score, bias, mask).flatten(2)
        # fuse(cat(x, read)) without the concatenation: its kernel's second half goes into the output kernel,
        # its first half is a convolution onto which the product adds what was read
        seen, told = self.fuse.weight[:, :width], self.fuse.weight[:, width:, 0, 0]
        constant = F.linear(self.out.bias, told, self.fuse.bias)
        fused = F.conv2d(x, seen, constant).permute(0, 2, 3, 1).reshape(batch, height * columns, width)
        fused = torch.baddbmm(fused, weights, F.linear(output, told))
        return fused.view(batch, height, columns, width).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Visual features (B, C, H, W), tokens (B, T, D), mask (B, T) true where a token is -> (B, C, H,
        W).
        """
        return x + self.block(self.read(x, tokens, mask))
