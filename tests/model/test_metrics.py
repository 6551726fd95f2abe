"""Figures that differ from the field's definition cannot be compared with anything that others published."""

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from model.metrics import luma, psnr, ssim


def picture(seed: int, height: int = 41, width: int = 57) -> Tensor:
    """Smooth colour with fine noise: every channel differs, and every SSIM term matters."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 20
    waves = np.stack([np.sin(y * a + x * b) for a, b in rng.uniform(0.5, 2, (3, 2))])
    noisy = 120 + 90 * waves + rng.normal(0, 12, waves.shape)
    return torch.from_numpy(noisy.clip(0, 255).round().astype(np.uint8))


def worse(image: Tensor, seed: int, amount: float) -> Tensor:
    noise = np.random.default_rng(seed).normal(0, amount, tuple(image.shape))
    return (image + torch.from_numpy(noise)).round().clamp(0, 255).to(torch.uint8)


def reference_luma(image: Tensor) -> np.ndarray:
    return np.round(rgb2ycbcr(image.permute(1, 2, 0).numpy())[..., 0])


def constant(red: int, green: int, blue: int, size: int = 16) -> Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8)[:, None, None].expand(3, size, size)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [  # MATLAB's rgb2ycbcr(uint8(cat(3, R, G, B)))
        ((0, 0, 0), 16),
        ((255, 255, 255), 235),
        ((255, 0, 0), 81),
        ((0, 255, 0), 145),
        ((0, 0, 255), 41),
        ((128, 128, 128), 126),
    ],
)
def test_luma_of_known_colours_is_matlabs(colour: tuple[int, int, int], expected: int):
    assert luma(constant(*colour)).unique().tolist() == [expected]


def test_luma_equals_an_independent_conversion():
    image = picture(0)
    np.testing.assert_array_equal(luma(image).numpy(), reference_luma(image))


def test_psnr_by_hand():
    # Grey 100 and 110 have Y 102 and 110 (16 + 219 * v / 255, rounded), so the error is 8 levels everywhere.
    expected = 20 * math.log10(255 / 8)
    assert psnr(constant(100, 100, 100), constant(110, 110, 110)) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_flat_pictures_by_hand():
    # Without any structure only the luminance term is left: (2 * 102 * 110 + C1) / (102^2 + 110^2 + C1).
    c1 = 2.55**2
    expected = (2 * 102 * 110 + c1) / (102**2 + 110**2 + c1)
    assert ssim(constant(100, 100, 100), constant(110, 110, 110)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("amount", [2.0, 25.0, 80.0])
def test_psnr_equals_an_independent_implementation(amount: float):
    clean = picture(1)
    rainy = worse(clean, 2, amount)
    expected = peak_signal_noise_ratio(reference_luma(clean), reference_luma(rainy), data_range=255)
    assert psnr(rainy, clean) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("amount", [2.0, 25.0, 80.0])
@pytest.mark.parametrize("size", [(41, 57), (11, 11), (11, 40)])
def test_ssim_equals_an_independent_implementation(amount: float, size: tuple[int, int]):
    clean = picture(3, *size)
    rainy = worse(clean, 4, amount)
    expected = structural_similarity(
        reference_luma(clean),
        reference_luma(rainy),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(rainy, clean) == pytest.approx(expected, abs=1e-9)


def test_equal_pictures_are_perfect():
    image = picture(5)
    assert psnr(image, image) == math.inf
    assert ssim(image, image) == pytest.approx(1, abs=1e-12)


def test_order_does_not_matter():
    clean, rainy = picture(6), worse(picture(6), 7, 30)
    assert psnr(rainy, clean) == psnr(clean, rainy)
    assert ssim(rainy, clean) == pytest.approx(ssim(clean, rainy), abs=1e-12)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_what_cannot_be_compared_is_refused(measure):
    image = picture(8)
    with pytest.raises(ValueError, match="two sizes: 57x41 and 56x41"):
        measure(image, image[..., 1:])
    with pytest.raises(ValueError, match=r"uint8 \(3, H, W\)"):
        measure(image.float() / 255, image)
    with pytest.raises(ValueError, match=r"uint8 \(3, H, W\)"):
        measure(image[:1], image[:1])


def test_ssim_needs_room_for_its_window():
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(constant(0, 0, 0, size=10), constant(0, 0, 0, size=10))
