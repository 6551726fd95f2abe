"""Samples of 8 and 16 bits: the same range, in steps of two sizes."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = {torch.uint8: 255, torch.uint16: 65535}
"""The largest sample of each kind of image."""

ROWS = 256
"""Rows that are converted at a time: what that needs beside the result is several times as large."""


def to_uint8(image: Tensor) -> Tensor:
    """An image (..., H, W) in 8 bits, rounded; the image itself if it is uint8."""
    if image.dtype == torch.uint8:
        return image
    rounded = torch.empty_like(image, dtype=torch.uint8)
    for top in range(0, image.shape[-2], ROWS):
        rows = image[..., top : top + ROWS, :].to(torch.int32)
        rounded[..., top : top + ROWS, :] = rows.add_(128).div_(257, rounding_mode="floor").to(torch.uint8)
    return rounded


def widen(target: Tensor, image: Tensor) -> None:
    """Writes a uint8 image into a uint16 one of the same shape, full scale."""
    for top in range(0, image.shape[-2], ROWS):
        rows = image[..., top : top + ROWS, :].to(torch.int32)
        target[..., top : top + ROWS, :] = rows.mul_(257).to(torch.uint16)
