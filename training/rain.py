"""The rain synthesiser: seeded, batched, on the device of its inputs.

Streaks are procedural, recombined from real layers (rainy minus clean of training pairs) or rendered (Garg
and Nayar,
SIGGRAPH 2006); they are composed additively (the Rain100/Rain200 model of Yang et al., CVPR 2017), by
screen, or by
alpha matte, over an optional veil (atmospheric scattering: J t + A (1 - t)), followed by sensor noise and
JPEG. Density and direction of every sample are measured on the layer that was composed, whatever made it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

KERNEL_RADIUS = 40
"""Half the side of the grid on which a streak is drawn, in pixels: streaks of up to 70 px at any angle
fit.
"""

LIGHT_BELOW = 0.045
HEAVY_ABOVE = 0.12
"""Mean brightness of the rain layer in [0, 1] that separates light, moderate and heavy rain."""

VERTICAL_WITHIN = 10.0
"""Streaks within this many degrees of the vertical count as falling straight down."""


@dataclass(frozen=True, slots=True)
class RainRecipe:
    """What rain is drawn from: probabilities of each source and ranges of the procedural streaks."""

    clean: float = 0.05
    light: float = 0.33
    heavy: float = 0.34
    layered: float = 0.28
    """Share of clean negatives, of light and heavy procedural rain, and of given layers (real or
    rendered).
    """
    screen: float = 0.06
    alpha: float = 0.06
    """Shares composed by screen and by alpha matte; the rest is additive."""
    haze: float = 0.08
    noise: float = 0.06
    jpeg: float = 0.08


@dataclass(slots=True)
class Degraded:
    """A batch and how it was made; images (B, 3, H, W) in [0, 1], layers (B, 1, H, W) >= 0, flags (B,)."""

    clean: Tensor
    hazy: Tensor
    """The clean image under the veil; equals `clean` where there is none."""
    rainy: Tensor
    """Everything composed, noise and compression included."""
    layer: Tensor
    alpha: Tensor
    """(B, 1, H, W): what is composed is hazy * (1 - alpha * strength) + strength * layer, clipped."""
    has_haze: Tensor
    has_noise: Tensor
    density: Tensor
    """Mean of the layer."""
    angle: Tensor
    """Degrees from the vertical, positive where streaks lead to the right as they fall."""

    def with_rain(self, strength: Tensor, haze: bool = True) -> Tensor:
        """The scene with `strength` (B,) in [0, 1] of its rain, noiseless: (B, 3, H, W)."""
        s = strength[:, None, None, None]
        base = self.hazy if haze else self.clean
        return (base * (1 - self.alpha * s) + s * self.layer).clamp(0, 1)


def uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform samples in [low, high) on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def streak_kernels(length: Tensor, width: Tensor, angle: Tensor) -> Tensor:
    """Soft line segments through the origin.

    Args:
        length: pixels, (N,), up to 70.
        width: standard deviation across the streak, pixels, (N,).
        angle: degrees from the vertical, positive to the right going down, (N,).

    Returns:
        (N, 2R+1, 2R+1) with R = `KERNEL_RADIUS`, peak about 1.
    """
    axis = torch.arange(-KERNEL_RADIUS, KERNEL_RADIUS + 1, device=length.device, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radians = torch.deg2rad(angle)[:, None, None]
    along = x * torch.sin(radians) + y * torch.cos(radians)
    across = x * torch.cos(radians) - y * torch.sin(radians)
    half = (length / 2)[:, None, None]
    taper = (1 - (along.abs() / half).clamp(max=1) ** 2).clamp(min=0).sqrt()
    return taper * torch.exp(-0.5 * (across / width[:, None, None]) ** 2)


def procedural_layer(
    mean: Tensor, size: tuple[int, int], layers: int, spread: Tensor, generator: Generator
) -> Tensor:
    """Streak layers of a wanted mean brightness.

    Args:
        mean: wanted mean of the layer in [0, 1], (B,).
        size: height and width.
        layers: how many directions and drop sizes are overlaid in each image.
        spread: degrees by which the overlaid directions differ, (B,).
        generator: source of randomness; its device is where the layer is made.

    Returns:
        (B, 1, H, W), >= 0. The mean holds in expectation.
    """
    batch = mean.shape[0]
    height, width = size[0] + 2 * KERNEL_RADIUS, size[1] + 2 * KERNEL_RADIUS
    device = generator.device
    shape = (batch, layers)

    main = torch.randn((batch, 1), generator=generator, device=device) * 18
    wild = torch.rand((batch, 1), generator=generator, device=device) < 0.06
    main = torch.where(wild, uniform(-90, 90, (batch, 1), generator), main.clamp(-65, 65))
    angle = main + torch.randn(shape, generator=generator, device=device) * spread[:, None]
    base_length = 9 + 61 * torch.rand((batch, 1), generator=generator, device=device) ** 1.3
    short = torch.rand((batch, 1), generator=generator, device=device) < 0.1
    base_length = torch.where(short, base_length * 0.55, base_length)
    length = (base_length * uniform(0.6, 1.4, shape, generator)).clamp(5, 70)
    thickness = uniform(0.45, 1.1, (batch, 1), generator) * uniform(0.75, 1.35, shape, generator)
    defocus = torch.rand(shape, generator=generator, device=device) < 0.12
    thickness = torch.where(defocus, thickness + uniform(0.4, 1.5, shape, generator), thickness)
    share = uniform(0.3, 1.0, shape, generator)
    share = share / share.sum(1, keepdim=True)
    peak = (mean[:, None] * 1.3 + uniform(0.1, 0.42, (batch, 1), generator)) * uniform(
        0.6, 1.3, shape, generator
    )
    peak = peak.clamp(0.08, 0.9)

    kernel = streak_kernels(length.flatten(), thickness.flatten(), angle.flatten())
    kernel = kernel.view(batch, layers, *kernel.shape[1:])
    mass = kernel.sum((-1, -2))
    probability = mean[:, None] * share / (peak * 0.62 * mass)
    seeds = torch.rand((batch, layers, height, width), generator=generator, device=device)
    drops = (seeds < probability[..., None, None]).float()
    brightness = torch.rand((batch, layers, height, width), generator=generator, device=device) * 0.76 + 0.24
    drops = drops * brightness * peak[..., None, None]

    spectrum = torch.fft.rfft2(drops) * torch.fft.rfft2(kernel, s=(height, width))
    layer = torch.fft.irfft2(spectrum.sum(1), s=(height, width))
    start = 2 * KERNEL_RADIUS
    return layer[:, None, start : start + size[0], start : start + size[1]].clamp(min=0)


def measure_angle(layer: Tensor) -> Tensor:
    """Dominant direction of the streaks of a layer (B, 1, H, W) by its structure tensor, with derivatives of
    five taps (Farid and Simoncelli, 2004) that are nearly the same in every direction.

    Returns:
        (B,) degrees from the vertical in (-90, 90], positive where streaks lead to the right as they fall.
    """
    smooth = torch.tensor((0.037659, 0.249153, 0.426375, 0.249153, 0.037659), device=layer.device)
    derive = torch.tensor((-0.109604, -0.276691, 0.0, 0.276691, 0.109604), device=layer.device)
    kernels = torch.stack((smooth[:, None] * derive, derive[:, None] * smooth))[:, None]
    gradient = F.conv2d(layer, kernels)
    dx, dy = gradient[:, 0], gradient[:, 1]
    xx, yy, xy = ((a * b).sum((1, 2)) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    across = 0.5 * torch.atan2(2 * xy, xx - yy)
    angle = -torch.rad2deg(across)
    return torch.where(angle > 90, angle - 180, torch.where(angle <= -90, angle + 180, angle))


def density_name(density: float) -> str:
    """`light`, `moderate` or `heavy` for the mean of a rain layer."""
    return "light" if density < LIGHT_BELOW else "heavy" if density > HEAVY_ABOVE else "moderate"


def direction_name(angle: float) -> str:
    """`left`, `vertical` or `right` for degrees from the vertical."""
    return "vertical" if abs(angle) <= VERTICAL_WITHIN else "left" if angle < 0 else "right"


def apply_veil(clean: Tensor, generator: Generator) -> Tensor:
    """Atmospheric scattering J t + A (1 - t) with a transmission that falls towards the top: (B, 3, H, W)."""
    batch, _, height, width = clean.shape
    air = uniform(0.65, 0.98, (batch, 1, 1, 1), generator)
    thin = uniform(0.45, 0.92, (batch, 1, 1, 1), generator)
    slope = uniform(-0.1, 0.3, (batch, 1, 1, 1), generator)
    ramp = torch.linspace(1, 0, height, device=clean.device)[None, None, :, None]
    bumps = torch.randn((batch, 1, 4, 4), generator=generator, device=generator.device) * 0.05
    bumps = F.interpolate(bumps, size=(height, width), mode="bicubic", align_corners=True)
    transmission = (thin - slope * ramp + bumps).clamp(0.25, 1)
    return clean * transmission + air * (1 - transmission)


def apply_noise(image: Tensor, generator: Generator) -> Tensor:
    """Signal-dependent sensor noise (Poisson-Gaussian, approximated as heteroscedastic Gaussian), clipped."""
    batch = image.shape[0]
    read = uniform(0.002, 0.03, (batch, 1, 1, 1), generator)
    shot = uniform(0.0, 0.03, (batch, 1, 1, 1), generator)
    sigma = (read**2 + shot**2 * image).sqrt()
    noise = torch.randn(image.shape, generator=generator, device=generator.device)
    return (image + noise * sigma).clamp(0, 1)


_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99),
)  # fmt: skip
"""Example quantisation tables of ITU-T T.81, annex K.1."""


def apply_jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """What baseline JPEG (4:4:4) does to a batch: (B, 3, H, W) in [0, 1], quality (B,) in 1 to 100."""
    batch, _, height, width = image.shape
    device = image.device
    padded = F.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate") * 255
    red, green, blue = padded.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = torch.stack((luma - 128, (blue - luma) * 0.564, (red - luma) * 0.713), dim=1).round()

    k = torch.arange(8, device=device, dtype=torch.float32)
    basis = torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16) * 0.5
    basis[0] *= math.sqrt(0.5)
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    coefficients = basis @ blocks @ basis.T
    tables = torch.tensor((_LUMINANCE, _CHROMINANCE, _CHROMINANCE), device=device, dtype=torch.float32)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    steps = (tables[None] * scale[:, None, None, None]).round().clamp(1, 255)[:, :, None, None]
    decoded = basis.T @ ((coefficients / steps).round() * steps) @ basis
    planes = decoded.transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]

    luma, cb, cr = planes[:, 0] + 128, planes[:, 1], planes[:, 2]
    red, blue = luma + 1.402 * cr, luma + 1.772 * cb
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return (torch.stack((red, green, blue), dim=1) / 255).clamp(0, 1).view(batch, 3, height, width)


def synthesise(clean: Tensor, given: Tensor, recipe: RainRecipe, generator: Generator) -> Degraded:
    """Degrades a batch of clean photographs.

    Args:
        clean: (B, 3, H, W) in [0, 1], on the generator's device.
        given: rain layers (B, 1, H, W) >= 0, used for the recipe's `layered` share.
        recipe: what to draw.
        generator: all randomness comes from it, so that a seed gives a batch.
    """
    batch, _, height, width = clean.shape
    device = clean.device

    def share(probability: float) -> Tensor:
        return torch.rand(batch, generator=generator, device=device) < probability

    def select(flag: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(flag[:, None, None, None], yes, no)

    kind = torch.rand(batch, generator=generator, device=device)
    heavy = (kind >= recipe.clean + recipe.light) & (kind < recipe.clean + recipe.light + recipe.heavy)
    layered = kind >= recipe.clean + recipe.light + recipe.heavy
    rained = kind >= recipe.clean

    spread = torch.where(share(0.5), uniform(2, 8, (batch,), generator), uniform(8, 30, (batch,), generator))
    heavy_mean = uniform(0.05, 0.33, (batch,), generator)
    light_mean = uniform(0.006, 0.075, (batch,), generator)
    layer = torch.zeros(batch, 1, height, width, device=device)
    for flag, mean, layers, angles in (
        (heavy, heavy_mean, 4, spread),
        (~heavy, light_mean, 1, torch.full((batch,), 3.0, device=device)),
    ):
        if bool(flag.any()):
            layer[flag] = procedural_layer(mean[flag], (height, width), layers, angles[flag], generator)
    alone = share(0.7)
    gain = uniform(0.6, 1.3, (batch, 1, 1, 1), generator)
    layer = select(layered, given * gain + select(alone, torch.zeros_like(layer), layer), layer)
    layer = layer * rained[:, None, None, None]

    has_haze = share(recipe.haze)
    hazy = select(has_haze, apply_veil(clean, generator), clean)

    mode = torch.rand(batch, generator=generator, device=device)
    screen = mode < recipe.screen
    matte = (mode >= recipe.screen) & (mode < recipe.screen + recipe.alpha)
    bounded = layer.clamp(max=1)
    alpha = select(screen, bounded, select(matte, bounded * 0.9, torch.zeros_like(layer)))
    colour = uniform(0.7, 1.0, (batch, 1, 1, 1), generator)
    layer = select(screen, bounded, select(matte, bounded * 0.9 * colour, layer))

    degraded = Degraded(
        clean=clean,
        hazy=hazy,
        rainy=clean,
        layer=layer,
        alpha=alpha,
        has_haze=has_haze,
        has_noise=share(recipe.noise),
        density=layer.mean((1, 2, 3)),
        angle=measure_angle(layer),
    )
    rainy = degraded.with_rain(torch.ones(batch, device=device))
    rainy = select(degraded.has_noise, apply_noise(rainy, generator), rainy)
    quality = uniform(55, 98, (batch,), generator)
    rainy = select(share(recipe.jpeg), apply_jpeg(rainy, quality), rainy)
    degraded.rainy = (rainy * 255).round() / 255
    return degraded
