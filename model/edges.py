"""How images go on beyond their edges: mirrored, the outermost pixels repeated.

What repeats the last row or column instead looks like level or upright lines, which are taken for rain: on
the first ten pairs of Rain100H's every fourth that cost 0.5 dB.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(positions: Tensor, length: int) -> Tensor:
    """Positions at and beyond 0 to `length`, any int64, as positions within, mirrored there."""
    # by a tensor, since the export to ONNX knows no remainder by a size that is left open
    folded = positions.remainder(torch.full_like(positions, 2 * length))
    return torch.minimum(folded, 2 * length - 1 - folded)
