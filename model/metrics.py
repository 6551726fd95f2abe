"""PSNR and SSIM as the deraining field reports them: on the rounded Y channel of MATLAB's `rgb2ycbcr`.

Everything is computed in float64, on 8-bit images, without cropping borders.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PEAK = 255.0
"""Largest value of an 8-bit image: the L of PSNR and of SSIM's constants."""

LUMA_WEIGHTS = (65.481, 128.553, 24.966)
LUMA_OFFSET = 16.0
"""ITU-R BT.601: Y of R, G and B in [0, 1], from 16 (black) to 235 (white)."""

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
"""SSIM's Gaussian window in pixels and its constants (Wang et al., IEEE TIP 2004, section III.C)."""


def luma(image: Tensor) -> Tensor:
    """Y of ITU-R BT.601, rounded to whole levels as MATLAB's `rgb2ycbcr` does for 8-bit images.

    Args:
        image: RGB, uint8, (3, H, W).

    Returns:
        float64, (H, W), whole numbers from 16 to 235.

    Raises:
        ValueError: for another type or shape.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
    weights = torch.tensor(LUMA_WEIGHTS, dtype=torch.float64, device=image.device) / PEAK
    return (torch.einsum("c,chw->hw", weights, image.double()) + LUMA_OFFSET).round()


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio on Y: 10 log10(255^2 / MSE).

    Args:
        image: uint8 (3, H, W).
        reference: uint8 (3, H, W).

    Returns:
        Decibels; infinity where both have the same Y everywhere.

    Raises:
        ValueError: for another type or shape, or two sizes.
    """
    x, y = _lumas(image, reference)
    error = (x - y).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(image: Tensor, reference: Tensor) -> float:
    """Mean structural similarity on Y (Wang et al., IEEE TIP 2004, equation 13).

    As MATLAB's `ssim_index` has it: 11x11 Gaussian window of sigma 1.5, only where it lies wholly inside
    the image, and no downsampling before.

    Args:
        image: uint8 (3, H, W), H and W at least 11.
        reference: uint8 (3, H, W).

    Returns:
        From -1 to 1, which it is where both have the same Y everywhere.

    Raises:
        ValueError: for another type or shape, two sizes, or an image smaller than the window.
    """
    x, y = _lumas(image, reference)
    if min(x.shape) < WINDOW:
        raise ValueError(f"SSIM needs at least {WINDOW}x{WINDOW} pixels, got {x.shape[1]}x{x.shape[0]}")
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _local_means(torch.stack((x, y, x * x, y * y, x * y)))
    variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean().item()


def _lumas(image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    x, y = luma(image), luma(reference)
    if x.shape != y.shape:
        raise ValueError(f"two sizes: {x.shape[1]}x{x.shape[0]} and {y.shape[1]}x{y.shape[0]}")
    return x, y


def _local_means(maps: Tensor) -> Tensor:
    """Gaussian-weighted means of (N, H, W) where the window fits: (N, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=maps.device) - (WINDOW - 1) / 2
    kernel = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    rows = F.conv2d(maps[:, None], kernel.view(1, 1, 1, -1))
    return F.conv2d(rows, kernel.view(1, 1, -1, 1))[:, 0]
