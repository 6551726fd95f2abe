"""The rain synthesiser: seeded, batched, on the device of its inputs.

Streaks are procedural, recombined from real layers (rainy minus clean of training pairs) or rendered (Garg
and Nayar, SIGGRAPH 2006); they are composed additively (the Rain100/Rain200 model of Yang et al., CVPR
2017), by screen, or by alpha matte, over an optional veil (atmospheric scattering: J t + A (1 - t)),
followed by sensor noise and JPEG. A part of it is as cameras see it: far away, out of focus, and sharpened,
toned and compressed together with its scene. Density and direction of every sample are measured on the layer
that was composed, whatever made it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

KERNEL_RADIUS = 40
"""Half the side of the grid on which a streak is drawn, in pixels: streaks of up to 76 px at any angle
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

    clean: float = 0.08
    light: float = 0.28
    heavy: float = 0.26
    layered: float = 0.38
    """Clean negatives, light and heavy procedural rain, and given layers (real or rendered), in proportion.
    """
    blurred_noise: float = 0.7
    """Share of the procedural layers that are noise blurred along a line; the others are single strokes."""
    leaning: float = 0.12
    """Share of the procedural layers, beside a fifth to a quarter anyway, whose direction is drawn from a
    deviation of 32 degrees instead of 11 or 12."""
    screen: float = 0.03
    alpha: float = 0.03
    """Shares composed by screen and by alpha matte; the rest is additive."""
    haze: float = 0.06
    noise: float = 0.04
    """Shares with a veil and with sensor noise where there is rain."""
    dry_haze: float = 0.3
    dry_noise: float = 0.25
    """The same of the clean negatives, which are few: what is alone there must be seen often enough."""
    photographic: float = 0.35
    """Share that is sharpened, toned and compressed, where its rain is fainter, out of focus and without what
    covers all of it."""
    photographic_haze: float = 0.25
    """Share of that rain with a veil."""
    jpeg: float = 0.05
    framed: float = 0.05
    """Share with a frame in which it does not rain: bands of a letterbox, or all but the disc that a dome
    camera sees."""


PLAIN = RainRecipe(
    clean=0, light=0, heavy=0, layered=0, leaning=0, screen=0, alpha=0, haze=0, noise=0,
    dry_haze=0, dry_noise=0, photographic=0, photographic_haze=0, jpeg=0, framed=0,
)  # fmt: skip
"""Nothing of all that; what is measured on something says of what, by `dataclasses.replace`."""


@dataclass(slots=True)
class Degraded:
    """A batch and how it was made; images (B, 3, H, W) in [0, 1], flags (B,)."""

    clean: Tensor
    hazy: Tensor
    """The clean image under the veil; equals `clean` where there is none."""
    rainy: Tensor
    """Everything composed, noise and compression included."""
    layer: Tensor
    """(B, 1, H, W), or (B, 3, H, W) and below 0 in places where sharpening has darkened what is beside
    streaks."""
    alpha: Tensor
    """(B, 1, H, W): what is composed is hazy * (1 - alpha * strength) + strength * layer, clipped."""
    noise: Tensor
    """(B, 3, H, W): the sensor noise in `rainy`, before compression."""
    has_haze: Tensor
    has_noise: Tensor
    density: Tensor
    """Mean of the layer, as it was before a camera saw it or a frame covered some of it."""
    angle: Tensor
    """Degrees from the vertical, positive where streaks lead to the right as they fall."""

    def target(self, rain_left: Tensor, haze_left: Tensor, noise_left: Tensor) -> Tensor:
        """The scene with part of its degradations: (B, 3, H, W).

        Where nothing that is there is taken away, that is `rainy` itself; elsewhere compression is left out.

        Args:
            rain_left: share of the rain, (B,), in [0, 1].
            haze_left: whether the veil stays, (B,).
            noise_left: whether the noise stays, (B,).
        """
        strength = rain_left[:, None, None, None]
        base = select(haze_left, self.hazy, self.clean)
        image = (base * (1 - self.alpha * strength) + strength * self.layer).clamp(0, 1)
        image = select(noise_left, (image + self.noise).clamp(0, 1), image)
        dry = self.layer.amax((1, 2, 3)) <= 0
        untouched = (dry | (rain_left >= 1)) & (haze_left | ~self.has_haze) & (noise_left | ~self.has_noise)
        return select(untouched, self.rainy, image)


def select(flag: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Image by image (B, C, H, W): `yes` where `flag` (B,) is true, else `no`."""
    return torch.where(flag[:, None, None, None], yes, no)


def uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform samples in [low, high) on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def streak_kernels(length: Tensor, width: Tensor, angle: Tensor, *, flat: bool = False) -> Tensor:
    """Soft line segments through the origin.

    Args:
        length: pixels, (N,), up to 76.
        width: standard deviation across the streak, pixels, (N,).
        angle: degrees from the vertical, positive to the right going down, (N,).
        flat: equally bright along the streak, instead of tapered.

    Returns:
        (N, 2R+1, 2R+1) with R = `KERNEL_RADIUS`, peak about 1.
    """
    axis = torch.arange(-KERNEL_RADIUS, KERNEL_RADIUS + 1, device=length.device, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radians = torch.deg2rad(angle)[:, None, None]
    along = x * torch.sin(radians) + y * torch.cos(radians)
    across = x * torch.cos(radians) - y * torch.sin(radians)
    half = (length / 2)[:, None, None]
    if flat:
        taper = (half + 0.5 - along.abs()).clamp(0, 1)
    else:
        taper = (1 - (along.abs() / half).clamp(max=1) ** 2).clamp(min=0).sqrt()
    return taper * torch.exp(-0.5 * (across / width[:, None, None]) ** 2)


def procedural_layer(
    mean: Tensor, size: tuple[int, int], layers: int, spread: Tensor, generator: Generator, leaning: float = 0
) -> Tensor:
    """Streak layers of a wanted mean brightness.

    Long thin streaks that lie close together and saturate where they overlap, as in the additive sets:
    there the 99th percentile is ten times the mean at a mean of 0.02, five times at 0.1 and 2.5 times at
    0.33, and neighbours along a streak 20 pixels apart still correlate by 0.4.

    Args:
        mean: wanted mean of the layer in [0, 1], (B,).
        size: height and width.
        layers: how many directions and drop sizes are overlaid in each image.
        spread: degrees by which the overlaid directions differ, (B,).
        generator: source of randomness; its device is where the layer is made.
        leaning: see `RainRecipe`.

    Returns:
        (B, 1, H, W), >= 0. The mean holds in expectation, roughly.
    """
    batch = mean.shape[0]
    height, width = size[0] + 2 * KERNEL_RADIUS, size[1] + 2 * KERNEL_RADIUS
    device = generator.device
    shape = (batch, layers)

    wide = torch.rand((batch, 1), generator=generator, device=device) < 0.25 + leaning
    main = torch.randn((batch, 1), generator=generator, device=device) * torch.where(wide, 32.0, 11.0)
    angle = main.clamp(-80, 80) + torch.randn(shape, generator=generator, device=device) * spread[:, None]
    base_length = uniform(22, 74, (batch, 1), generator)
    short = torch.rand((batch, 1), generator=generator, device=device) < 0.12
    base_length = torch.where(short, base_length * 0.45, base_length)
    length = (base_length * uniform(0.7, 1.3, shape, generator)).clamp(5, 76)
    thickness = uniform(0.38, 0.85, (batch, 1), generator) * uniform(0.7, 1.9, shape, generator)
    defocus = torch.rand(shape, generator=generator, device=device) < 0.12
    thickness = torch.where(defocus, thickness + uniform(0.4, 1.5, shape, generator), thickness)
    thickness = thickness.minimum(length / 12)
    share = uniform(0.2, 1.0, shape, generator)
    share = share / share.sum(1, keepdim=True)
    peak = ((0.24 + 2.3 * mean) * uniform(0.75, 1.4, (batch,), generator)).clamp(0.08, 1)
    covered = (mean / peak).clamp(max=0.85)
    faintest = uniform(0.05, 0.4, (batch, 1, 1, 1), generator)
    rarity = uniform(1.0, 3.0, (batch, 1, 1, 1), generator)

    kernel = streak_kernels(length.flatten(), thickness.flatten(), angle.flatten())
    kernel = kernel.view(batch, layers, *kernel.shape[1:])
    mass = kernel.sum((-1, -2))
    brightest = (faintest + (1 - faintest) / (1 + rarity))[:, :, 0, 0]
    probability = -torch.log1p(-covered)[:, None] * share / (brightest * mass)
    seeds = torch.rand((batch, layers, height, width), generator=generator, device=device)
    drops = (seeds < probability[..., None, None]).float()
    brightness = torch.rand((batch, layers, height, width), generator=generator, device=device)
    drops = drops * (faintest + (1 - faintest) * brightness**rarity)

    spectrum = torch.fft.rfft2(drops) * torch.fft.rfft2(kernel, s=(height, width))
    layer = torch.fft.irfft2(spectrum.sum(1), s=(height, width))
    start = 2 * KERNEL_RADIUS
    layer = layer[:, None, start : start + size[0], start : start + size[1]].clamp(min=0)
    hard = torch.rand((batch, 1, 1, 1), generator=generator, device=device) < 0.3
    return torch.where(hard, layer.clamp(max=1), 1 - torch.exp(-1.15 * layer)) * peak[:, None, None, None]


def blurred_noise_layer(
    mean: Tensor, size: tuple[int, int], layers: int, spread: Tensor, generator: Generator, leaning: float = 0
) -> Tensor:
    """Streak layers of a wanted mean brightness, in the style of Rain100's and Rain200's: noise, blurred
    along a line, with its levels set so that a share of the pixels shows.

    Rare bright grains give single streaks, even noise gives a dense field of fine lines of every brightness;
    steep levels give lines of one grey, flat ones a continuum.

    Args:
        mean: wanted mean of the layer in [0, 1], (B,).
        size: height and width.
        layers: how many directions are overlaid in each image.
        spread: degrees by which the overlaid directions differ, (B,).
        generator: source of randomness; its device is where the layer is made.
        leaning: see `RainRecipe`.

    Returns:
        (B, 1, H, W) in [0, 1]. The mean holds unless the streaks would have to be brighter than white.
    """
    batch = mean.shape[0]
    height, width = size[0] + 2 * KERNEL_RADIUS, size[1] + 2 * KERNEL_RADIUS
    device = generator.device
    shape = (batch, layers)

    def rare(probability: float, shape: tuple[int, ...] = (batch, 1)) -> Tensor:
        return torch.rand(shape, generator=generator, device=device) < probability

    tilt = torch.where(rare(0.2 + leaning), 32.0, 12.0)
    main = (torch.randn((batch, 1), generator=generator, device=device) * tilt).clamp(-80, 80)
    crossing = torch.where(rare(0.25), 20.0, 0.0)
    angle = main + torch.randn(shape, generator=generator, device=device) * (spread[:, None] + crossing)
    length = (uniform(14, 90, (batch, 1), generator) * uniform(0.7, 1.4, shape, generator)).clamp(8, 78)
    thickness = 0.3 * torch.exp(uniform(0, 0.8, shape, generator))
    thickness = torch.where(rare(0.2, shape), thickness * uniform(1.3, 3.0, shape, generator), thickness)
    kernel = streak_kernels(length.flatten(), thickness.flatten(), angle.flatten(), flat=True)
    kernel = kernel.view(*shape, *kernel.shape[1:])

    rarity = torch.exp(uniform(0, 5.0, (*shape, 1, 1), generator))
    grains = torch.rand((*shape, height, width), generator=generator, device=device) ** rarity
    spectrum = torch.fft.rfft2(grains) * torch.fft.rfft2(kernel, s=(height, width))
    field = torch.fft.irfft2(spectrum, s=(height, width))
    start = 2 * KERNEL_RADIUS
    field = field[..., start : start + size[0], start : start + size[1]]
    sample = field.flatten(2)[..., :: max(1, size[0] * size[1] // 2048)]

    # the brighter a layer is, the more of its pixels show
    shown = (uniform(0.07, 0.45, shape, generator) + 1.6 * mean[:, None]).clamp(max=0.95)
    ordered = sample.sort(-1).values
    at = ((1 - shown) * (ordered.shape[-1] - 1)).long()[..., None]
    black = ordered.gather(-1, at)[..., None]
    steep = rare(0.2, shape)
    top = torch.where(steep, uniform(0.2, 0.8, shape, generator), uniform(0.9, 0.9999, shape, generator))
    reach = 1 - shown * (1 - top)
    white = ordered.gather(-1, (reach * (ordered.shape[-1] - 1)).long()[..., None])[..., None]
    levelled = ((field - black) / (white - black).clamp(min=1e-6)).clamp(0, 1)
    gamma = torch.exp(uniform(-0.2, 0.9, (*shape, 1, 1), generator))
    share = uniform(0.15, 1.0, (*shape, 1, 1), generator)
    overlaid = levelled**gamma * share
    layer = torch.where(rare(0.5)[..., None], overlaid.sum(1), overlaid.amax(1))[:, None]
    layer = layer * (mean[:, None, None, None] / layer.mean((1, 2, 3), keepdim=True).clamp(min=1e-6))
    cap = (0.2 + 3.0 * mean + uniform(0, 0.6, (batch,), generator)).clamp(max=1)
    return layer.minimum(cap[:, None, None, None])


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


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Images (B, C, H, W), each blurred with a standard deviation of its own, (B,) pixels up to 3."""
    batch, channels, height, width = images.shape
    radius = 8
    along = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (along / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, None]
    planes = F.pad(images, (radius,) * 4, mode="reflect").flatten(0, 1)[None]
    planes = F.conv2d(planes, kernel, groups=batch * channels)
    return F.conv2d(planes, kernel.mT, groups=batch * channels).view(batch, channels, height, width)


def distant(layers: Tensor, generator: Generator) -> Tensor:
    """Layers (B, 1, H, W), two in three shrunk up to threefold and repeated: fine, short streaks."""
    height, width = layers.shape[-2:]
    shrunk = uniform(1, 3, (len(layers),), generator).tolist()
    chosen = (torch.rand(len(layers), generator=generator, device=generator.device) < 2 / 3).tolist()
    layers = layers.clone()
    for i, factor in enumerate(shrunk):
        if chosen[i]:
            size = math.ceil(height / factor), math.ceil(width / factor)
            small = F.interpolate(layers[i : i + 1], size, mode="bilinear", antialias=True)
            layers[i : i + 1] = small.repeat(1, 1, 3, 3)[..., :height, :width]
    return layers


def opening(layers: Tensor, size: int = 11) -> Tensor:
    """Morphological opening (Serra, 1982) of layers (B, 1, H, W) by a square of an odd `size` in pixels: what
    no streak explains and a veil would, rain too dense or too far out of focus to be told apart."""
    eroded = -F.max_pool2d(-layers, size, 1, size // 2)
    return F.max_pool2d(eroded, size, 1, size // 2)


def photographed(images: Tensor, generator: Generator) -> Tensor:
    """What a camera makes of images (B, 3 N, H, W) in [0, 1], N of the same view: some are soft, most
    are sharpened (unsharp mask), tones change, and most are compressed.
    """
    batch, channels = images.shape[:2]

    def drawn(low: float, high: float, share: float = 1.0) -> Tensor:
        value = uniform(low, high, (batch,), generator)
        there = torch.rand(batch, generator=generator, device=generator.device) < share
        return torch.where(there, value, low)[:, None, None, None]

    images = gaussian_blur(images, drawn(0.2, 0.9, 0.5)[:, 0, 0, 0])
    blurred = gaussian_blur(images, drawn(0.6, 1.6)[:, 0, 0, 0])
    images = (images + drawn(0, 1.5, 0.7) * (images - blurred)).clamp(0, 1)
    images = images ** torch.exp(drawn(-0.3, 0.3))
    compressed = torch.rand(batch, generator=generator, device=generator.device) < 0.7
    quality = uniform(55, 98, (batch,), generator)[compressed]
    views = images[compressed].view(-1, 3, *images.shape[2:])
    images[compressed] = apply_jpeg(views, quality.repeat_interleave(channels // 3)).view(
        -1, channels, *images.shape[2:]
    )
    return images


def frames(batch: int, size: tuple[int, int], generator: Generator) -> tuple[Tensor, Tensor]:
    """What frames cover, bool (B, 1, H, W), and their colours, (B, 3, 1, 1) in [0, 1], mostly black.

    Of ten four are bands of 1 pixel to a quarter of the image above or below, or both, 2 to 3 at the sides, 1
    to 2 all around, and two leave a disc.
    """
    height, width = size
    device = generator.device
    way = torch.rand((batch, 1), generator=generator, device=device)
    reach = torch.exp(uniform(0, math.log(max(1, min(size) / 4)), (batch, 4), generator)).round()
    there = torch.rand((batch, 4), generator=generator, device=device) < 0.75
    lying = torch.tensor((True, True, False, False), device=device)
    there &= torch.where(way < 0.4, lying, torch.where(way < 0.65, ~lying, way < 0.8))
    top, bottom, left, right = (reach * there)[:, :, None, None, None].unbind(1)
    y = torch.arange(height, device=device)[:, None]
    x = torch.arange(width, device=device)
    bands = (y < top) | (y >= height - bottom) | (x < left) | (x >= width - right)
    across, down = (uniform(0.35, 0.65, (batch, 1, 1, 1), generator) for _ in range(2))
    radius = uniform(0.45, 0.75, (batch, 1, 1, 1), generator) * max(size)
    outside = (y - down * height) ** 2 + (x - across * width) ** 2 > radius**2
    colour = torch.rand((batch, 3, 1, 1), generator=generator, device=device)
    shade = torch.rand((batch, 1, 1, 1), generator=generator, device=device)
    colour = torch.where(shade < 0.65, 0, torch.where(shade < 0.8, 1, colour))
    return torch.where(way[:, :, None, None] < 0.8, bands, outside), colour


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

    def share(probability: float | Tensor) -> Tensor:
        return torch.rand(batch, generator=generator, device=device) < probability

    whole = recipe.clean + recipe.light + recipe.heavy + recipe.layered
    kind = torch.rand(batch, generator=generator, device=device) * whole
    heavy = (kind >= recipe.clean + recipe.light) & (kind < recipe.clean + recipe.light + recipe.heavy)
    light = (kind >= recipe.clean) & (kind < recipe.clean + recipe.light)
    layered = kind >= recipe.clean + recipe.light + recipe.heavy
    dry = kind < recipe.clean

    gain = uniform(0.6, 1.3, (batch, 1, 1, 1), generator)
    given = select(share(0.15), given + given.roll(1, 0), given)
    layer = select(layered, given * gain, torch.zeros_like(given))
    spread = torch.where(share(0.7), uniform(0, 4, (batch,), generator), uniform(4, 20, (batch,), generator))
    heavy_mean = uniform(0.05, 0.33, (batch,), generator)
    light_mean = uniform(0.006, 0.075, (batch,), generator)
    for flag, mean, layers, angles in (
        (heavy, heavy_mean, 3, spread),
        (light | (layered & share(0.3)), light_mean, 2, torch.full((batch,), 3.0, device=device)),
    ):
        blurred = share(recipe.blurred_noise)
        for draw, drawn in ((blurred_noise_layer, flag & blurred), (procedural_layer, flag & ~blurred)):
            if bool(drawn.any()):
                layer[drawn] += draw(
                    mean[drawn], (height, width), layers, angles[drawn], generator, recipe.leaning
                )

    seen = share(recipe.photographic) if recipe.photographic else torch.zeros_like(dry)
    if bool(seen.any()):
        count = int(seen.sum())
        defocus = torch.exp(uniform(-1.2, 0.8, (count,), generator))
        fainter = uniform(0.3, 1, (count, 1, 1, 1), generator)
        soft = distant(gaussian_blur(layer[seen], defocus), generator)
        layer[seen] = (soft - opening(soft)) * fainter

    haze = torch.where(seen, recipe.photographic_haze, recipe.haze)
    has_haze = share(torch.where(dry, recipe.dry_haze, haze))
    hazy = clean.clone()
    if bool(has_haze.any()):
        hazy[has_haze] = apply_veil(clean[has_haze], generator)

    mode = torch.rand(batch, generator=generator, device=device)
    screen = mode < recipe.screen
    matte = (mode >= recipe.screen) & (mode < recipe.screen + torch.where(seen, 0.6, recipe.alpha))
    bounded = layer.clamp(max=1)
    alpha = select(screen, bounded, select(matte, bounded * 0.9, torch.zeros_like(layer)))
    colour = uniform(0.7, 1.0, (batch, 1, 1, 1), generator)
    layer = select(screen, bounded, select(matte, bounded * 0.9 * colour, layer))

    rainy = (hazy * (1 - alpha) + layer).clamp(0, 1)
    density, angle = layer.mean((1, 2, 3)), measure_angle(layer)
    if bool(seen.any()):
        views = photographed(torch.cat((clean, hazy, rainy), 1)[seen], generator)
        layer, clean = layer.expand(-1, 3, -1, -1).clone(), clean.clone()
        clean[seen], hazy[seen], rainy[seen] = views.split(3, 1)
        layer[seen], alpha[seen] = (rainy - hazy)[seen], 0
        layer[dry] = 0  # to the bit, whatever the rounding of both views
    has_noise = share(torch.where(dry, recipe.dry_noise, recipe.noise))
    noisy = rainy.clone()
    if bool(has_noise.any()):
        noisy[has_noise] = apply_noise(rainy[has_noise], generator)
    if recipe.framed:
        covered, shade = frames(batch, (height, width), generator)
        covered = covered & share(recipe.framed)[:, None, None, None]
        clean, hazy, rainy, noisy = (torch.where(covered, shade, x) for x in (clean, hazy, rainy, noisy))
        layer, alpha = (x.masked_fill(covered, 0) for x in (layer, alpha))
    noise = noisy - rainy
    compressed = share(recipe.jpeg)
    rainy = noisy.clone()
    if bool(compressed.any()):
        quality = uniform(55, 98, (int(compressed.sum()),), generator)
        rainy[compressed] = apply_jpeg(noisy[compressed], quality)
    return Degraded(
        clean=clean,
        hazy=hazy,
        rainy=(rainy * 255).round() / 255,
        layer=layer,
        alpha=alpha,
        noise=noise,
        has_haze=has_haze,
        has_noise=has_noise,
        density=density,
        angle=angle,
    )
