"""How images go on beyond their edges: mirrored, the outermost pixels repeated.

What repeats the last row or column instead looks like level or upright lines, which are taken for rain: on
Rain100H, whose images are seven pixels short of a multiple of eight both ways, that cost 0.5 dB.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(positions: Tensor, length: int) -> Tensor:
    """Positions in pixels, int64 of any shape and any value, as positions in [0, `length`) of an image that
    is mirrored at both its ends; the same shape."""
    # by a tensor, since the export to ONNX knows no remainder by a size that is left open
    folded = positions.remainder(torch.full_like(positions, 2 * length))
    return torch.minimum(folded, 2 * length - 1 - folded)
