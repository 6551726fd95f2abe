"""The rain must be what it is said to be: seeded, of the wanted density and direction, composed as
published.
"""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, grey_opening

from training.instructions import attributes_of
from training.rain import (
    PLAIN,
    RainRecipe,
    apply_jpeg,
    apply_veil,
    blurred_noise_layer,
    direction_name,
    gaussian_blur,
    measure_angle,
    opening,
    procedural_layer,
    streak_kernels,
    synthesise,
)

ADDITIVE = replace(PLAIN, light=0.5, heavy=0.5)


def photographs(count: int, size: int = 64) -> torch.Tensor:
    """Smooth random pictures (B, 3, H, W) in [0.1, 0.6]."""
    coarse = torch.rand((count, 3, 6, 6), generator=torch.Generator().manual_seed(9)) * 0.5 + 0.1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)


def degrade(recipe: RainRecipe, seed: int = 1, count: int = 16):
    clean = photographs(count)
    given = procedural_layer(
        torch.full((count,), 0.1), (64, 64), 1, torch.zeros(count), torch.Generator().manual_seed(5)
    )
    return synthesise(clean, given, recipe, torch.Generator().manual_seed(seed))


def test_a_seed_gives_the_same_batch_and_another_seed_another() -> None:
    first, again, other = degrade(RainRecipe()), degrade(RainRecipe()), degrade(RainRecipe(), seed=2)
    assert torch.equal(first.rainy, again.rainy)
    assert not torch.equal(first.rainy, other.rainy)


def test_additive_rain_is_clean_plus_layer_within_rounding() -> None:
    sample = degrade(ADDITIVE)
    expected = (sample.clean + sample.layer).clamp(0, 1)
    assert (sample.rainy - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert (sample.density > 0).all()


def test_procedural_rain_has_the_wanted_mean_brightness() -> None:
    mean = torch.full((48,), 0.12)
    layer = procedural_layer(mean, (96, 96), 3, torch.full((48,), 10.0), torch.Generator().manual_seed(3))
    assert layer.mean().item() == pytest.approx(0.12, rel=0.15)
    assert layer.min() >= 0


def test_blurred_noise_has_the_mean_and_the_peaks_of_the_additive_sets() -> None:
    """Rain200's own layers: 99th percentile over mean 8 to 10 at a mean of 0.02 and 2.3 to 2.9 at 0.25; the
    derivative across the streaks is several times that along them."""
    for mean, low, high in ((0.02, 4.0, 12.0), (0.25, 1.8, 4.0)):
        wanted, spread = torch.full((32,), mean), torch.full((32,), 2.0)
        layer = blurred_noise_layer(wanted, (128, 128), 2, spread, torch.Generator().manual_seed(4))
        assert layer.mean((1, 2, 3)).median().item() == pytest.approx(mean, rel=0.05)
        peak = layer.flatten(1).quantile(0.99, dim=1) / layer.mean((1, 2, 3))
        assert low < peak.median() < high
        assert layer.min() >= 0
        assert layer.max() <= 1
        upright = layer[measure_angle(layer).abs() < 6]
        assert upright.diff(dim=-1).abs().mean() > 2.5 * upright.diff(dim=-2).abs().mean()


@pytest.mark.parametrize("angle", [-50.0, -20.0, 0.0, 25.0, 60.0])
def test_measured_direction_is_the_direction_drawn(angle: float) -> None:
    layer = streak_kernels(torch.tensor([40.0]), torch.tensor([1.0]), torch.tensor([angle]))[:, None]
    assert measure_angle(layer).item() == pytest.approx(angle, abs=2)


def test_streaks_that_lead_to_the_left_as_they_fall_are_called_left() -> None:
    down_left = torch.eye(40).flip(1)[None, None]
    assert direction_name(measure_angle(down_left).item()) == "left"
    assert direction_name(measure_angle(down_left.flip(-1)).item()) == "right"


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_what_a_real_encoder_does(quality: int) -> None:
    image = photographs(1, 64) + torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(2)) * 0.2
    pixels = (image.clamp(0, 1)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    theirs = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    source = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    ours = apply_jpeg(source[None], torch.tensor([float(quality)]))[0]
    assert (ours - theirs).square().mean() < 0.05 * (source - theirs).square().mean() + (1.5 / 255) ** 2


def test_a_veil_brightens_dark_scenes_and_keeps_the_range() -> None:
    dark = photographs(8) * 0.3
    veiled = apply_veil(dark, torch.Generator().manual_seed(0))
    assert (veiled.mean((1, 2, 3)) > dark.mean((1, 2, 3)) + 0.02).all()
    assert veiled.min() >= 0
    assert veiled.max() <= 1


def test_dense_rain_overlaps_and_saturates_like_that_of_the_additive_sets() -> None:
    """Rain200H's own layers: 99th percentile over mean 2.9 at a mean of 0.22 and 10 at 0.02; derivative
    across the streaks about five times that along them."""
    for mean, layers, low, high in ((0.22, 3, 2.2, 4.0), (0.02, 1, 7.0, 14.0)):
        layer = procedural_layer(
            torch.full((32,), mean),
            (128, 128),
            layers,
            torch.full((32,), 2.0),
            torch.Generator().manual_seed(4),
        )
        peak = layer.flatten(1).quantile(0.99, dim=1) / layer.mean((1, 2, 3))
        assert low < peak.median() < high
    upright = layer[measure_angle(layer).abs() < 10]
    assert upright.diff(dim=-1).abs().mean() > 3 * upright.diff(dim=-2).abs().mean()


def test_targets_keep_what_is_not_to_be_removed() -> None:
    sample = degrade(
        replace(PLAIN, clean=0.2, light=0.4, heavy=0.4, haze=1, noise=1, dry_haze=1, dry_noise=1)
    )
    none, every = torch.zeros(16), torch.ones(16)
    no, yes = none.bool(), every.bool()
    assert torch.equal(sample.target(none, no, no), sample.clean)
    assert torch.equal(sample.target(every, yes, yes), sample.rainy)
    assert torch.allclose(sample.target(every, yes, no), (sample.hazy + sample.layer).clamp(0, 1))
    assert torch.allclose(sample.target(every, no, no), (sample.clean + sample.layer).clamp(0, 1))
    grain = sample.target(none, no, yes) - sample.clean
    assert (grain - sample.noise)[
        (sample.clean > 0.15).all(1, keepdim=True).expand_as(grain)
    ].abs().max() < 1e-6
    half = sample.target(none + 0.5, yes, no)
    assert torch.allclose(half, (sample.hazy + 0.5 * sample.layer).clamp(0, 1))


def test_haze_and_noise_where_there_is_no_rain_have_shares_of_their_own() -> None:
    sample = degrade(replace(PLAIN, clean=0.5, light=0.5, dry_haze=1, dry_noise=1))
    dry = sample.density == 0
    assert 0 < dry.sum() < len(dry)
    assert torch.equal(sample.has_haze, dry)
    assert torch.equal(sample.has_noise, dry)


def test_clean_negatives_are_untouched_and_called_clean() -> None:
    sample = degrade(replace(PLAIN, clean=1, haze=1, noise=1))
    assert (sample.rainy - sample.clean).abs().max() <= 0.5 / 255 + 1e-6
    assert {a.kind for a in attributes_of(sample)} == {"clean"}


def test_in_a_frame_it_does_not_rain_and_the_picture_within_is_as_without() -> None:
    plain, framed = degrade(ADDITIVE, count=48), degrade(replace(ADDITIVE, framed=1), count=48)
    covered = (framed.rainy != plain.rainy).any(1, keepdim=True)
    share = covered.float().mean((1, 2, 3))
    assert 0.03 < share.mean() < 0.35
    assert share.max() < 0.9, "nothing of the picture would be left"
    assert (share > 0).sum() > 36
    nothing, every = torch.zeros(48), torch.ones(48, dtype=torch.bool)
    for wanted in (framed.rainy, framed.clean, framed.target(nothing + 0.5, every, every)):
        colours = torch.where(covered, wanted, torch.nan).flatten(2)
        spread = torch.nan_to_num(colours, nan=-1).amax(2) - torch.nan_to_num(colours, nan=2).amin(2)
        assert spread[share > 0].abs().max() <= 1 / 255, "it rains on the frame"
    kept = ~covered.expand_as(plain.rainy)
    for name in ("clean", "hazy", "noise"):
        assert torch.equal(getattr(framed, name)[kept], getattr(plain, name)[kept])
    assert torch.equal(framed.density, plain.density)
    assert torch.equal(framed.angle, plain.angle)


def test_leaning_rain_leans_farther() -> None:
    leans = [
        degrade(replace(ADDITIVE, blurred_noise=blurred, leaning=leaning), count=64).angle.abs()
        for leaning in (0, 0.75)
        for blurred in (0, 1)
    ]
    assert float(torch.cat(leans[2:]).median()) > 1.3 * float(torch.cat(leans[:2]).median())


def test_gaussian_blur_against_scipy() -> None:
    images = torch.rand((2, 3, 24, 30), generator=torch.Generator().manual_seed(0))
    blurred = gaussian_blur(images, torch.tensor([0.5, 2.5]))
    for image, ours, sigma in zip(images, blurred, (0.5, 2.5), strict=True):
        for plane, mine in zip(image, ours, strict=True):
            theirs = gaussian_filter(plane.numpy(), sigma, mode="mirror", radius=8)
            torch.testing.assert_close(mine, torch.from_numpy(theirs), atol=1e-5, rtol=1e-5)


def test_a_camera_sees_scene_and_rain_alike() -> None:
    plain, seen = degrade(ADDITIVE, count=64), degrade(replace(ADDITIVE, photographic=1), count=64)
    every, no = torch.ones(64), torch.zeros(64, dtype=torch.bool)
    # with all of the rain it is the photograph itself, but for rounding, and with none of it the dry one
    assert torch.allclose(seen.target(every - 1e-6, no, no), seen.rainy, atol=0.5 / 255 + 1e-4)
    assert torch.equal(seen.target(every * 0, no, no), seen.clean)
    assert not torch.allclose(seen.clean, plain.clean, atol=0.05)
    assert (seen.density < plain.density).all()  # fainter
    assert (seen.layer < -2 / 255).any()  # dark beside bright, where it was sharpened
    assert (seen.layer > 2 / 255).any()


def test_a_camera_sees_dry_scenes_too_and_finds_no_rain_there() -> None:
    plain, seen = (degrade(replace(PLAIN, clean=1, photographic=share), count=64) for share in (0, 1))
    assert not torch.allclose(seen.rainy, plain.rainy, atol=0.05)
    assert not seen.layer.any()
    assert (seen.rainy - seen.clean).abs().max() <= 0.5 / 255 + 1e-6


def test_rain_out_of_focus_covers_no_part_everywhere() -> None:
    """What a veil would explain as well stays, so that restored photographs are as bright as they were."""
    layer = degrade(replace(PLAIN, heavy=1, photographic=1), count=64).layer.mean(1, keepdim=True)
    assert opening(layer).mean() < 0.1 * layer.mean()


def test_opening_against_scipy() -> None:
    layers = torch.rand((3, 1, 40, 30), generator=torch.Generator().manual_seed(0))
    for layer, ours in zip(layers[:, 0], opening(layers)[:, 0], strict=True):
        theirs = torch.from_numpy(grey_opening(layer.numpy(), size=(11, 11)))
        torch.testing.assert_close(ours[5:-5, 5:-5], theirs[5:-5, 5:-5])
    assert opening(layers, 1).equal(layers)


def test_streaks_out_of_focus_are_wider() -> None:
    def sharpness(recipe: RainRecipe) -> float:
        layer = degrade(recipe, count=64).layer.mean(1, keepdim=True)
        return float(layer.diff(dim=-1).abs().mean() / (layer[..., 4:] - layer[..., :-4]).abs().mean())

    assert sharpness(replace(ADDITIVE, photographic=1)) < 0.85 * sharpness(ADDITIVE)
