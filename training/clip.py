"""Contrastive training of the compact CLIP: degraded crops against sentences that describe what degrades
them.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from tqdm import tqdm

from model.checkpoint_folders import CLIP
from model.perception import ATTRIBUTES, DEGRADATIONS, Perception, rain_or_clean
from model.spelling import WORDS
from model.weights import VOCABULARY, CompactCLIP, compact_clip, load_clip, write_checkpoint
from training.calibration import measure_perception
from training.descriptions import (
    HELD_OUT,
    TRAINING,
    Attributes,
    Wording,
    canonical,
    disturb,
    mentioned,
    sentence,
)
from training.instructions import attributes_of
from training.rain import Degraded, RainRecipe, apply_noise, synthesise, uniform
from training.scenes import DataError, TrainingData, random_crops
from training.vocabulary import write_vocabulary, write_words

ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 32, "image_size": 64},
    "text_cfg": {"context_length": 24, "vocab_size": 0, "width": 256, "heads": 4, "layers": 4},
}
"""open_clip.CLIP's arguments; the vocabulary's size is filled in."""

SIDE = 192
"""Pixels of the degraded images that perception as a whole is measured on, by nine crops."""

RECIPE = RainRecipe(
    clean=0.45, light=0.25, heavy=0.12, layered=0.18, leaning=0, haze=0.25, noise=0.1, dry_haze=0.25,
    dry_noise=0.1, photographic=0.4, jpeg=0.35, framed=0,
)  # fmt: skip

SCALES = (1.0, 1.0, 1.5, 2.0)
"""By how much a degraded crop is shrunk to its size: photographs come smaller than the camera took them, and
their rain is finer then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """A contrastive run."""

    minutes: float = 12
    batch: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.02
    detail: float = 0.75
    seed: int = 0
    lock_text: bool = False
    """Go on from a trained CLIP with its text tower fixed (LiT the other way round): only the image
    tower and the scale learn, so networks that were trained with this text tower keep fitting. An image tower
    of another architecture than `ARCHITECTURE` is left behind and a new one learns from nothing."""
    threads: int | None = None


def degraded_crops(
    data: TrainingData, count: int, size: int, rng: np.random.Generator, generator: Generator
) -> tuple[Tensor, list[Attributes]]:
    """Crops (N, 3, C, C) in [0, 1] with rain, haze, noise, blur, drops on the lens or nothing, and what they
    show.
    """
    side = round(size * float(rng.choice(SCALES)))
    crops = random_crops(data.photographs, side, rng.integers(len(data.photographs), size=count), rng)
    layers = data.layer_crops(side, count, rng)
    device = generator.device
    scenes = apply_tone(crops.to(device).float() / 255, generator)
    sample = synthesise(scenes, layers.to(device).float() / 255, RECIPE, generator)
    soften(sample, generator)
    images, found = sample.rainy, attributes_of(sample)
    if side != size:
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        images = (images.clamp(0, 1) * 255).round() / 255
    for i, attributes in enumerate(found):
        if attributes.kind != "clean":
            continue
        kind = rng.choice(("clean", "noise", "blur", "raindrops"), p=(0.64, 0.12, 0.12, 0.12))
        image = images[i : i + 1]
        if kind == "noise":
            image = apply_noise(apply_noise(image, generator), generator)
            image = image + torch.randn(image.shape, generator=generator, device=device) * float(
                rng.uniform(0.02, 0.08)
            )
        elif kind == "blur":
            image = apply_blur(image, rng)
        elif kind == "raindrops":
            image = apply_drops(image, rng, generator)
        images[i] = image.clamp(0, 1)[0]
        found[i] = Attributes(str(kind))
    return images, found


def apply_tone(image: Tensor, generator: Generator) -> Tensor:
    """Two in five scenes darker, flatter or greyer, as scenes in real rain are: (B, 3, H, W) in [0, 1]."""
    batch = image.shape[0]

    def draw(low: float, high: float) -> Tensor:
        return uniform(low, high, (batch, 1, 1, 1), generator)

    grey = image.mean(1, keepdim=True)
    toned = grey + (image - grey) * draw(0, 1)
    toned = toned ** draw(0.7, 2) * draw(0.4, 1) + draw(0, 0.15)
    return torch.where(draw(0, 1) < 0.4, toned.clamp(0, 1), image)


def soften(sample: Degraded, generator: Generator) -> None:
    """Makes the rain of a third of a batch fainter and out of focus, in place, as distant rain is.

    The density of all becomes that of what is seen: rain of which a camera left next to nothing is none here,
    though R is told of it. With the density before the camera the tower found less rain (RESULTS.md).
    """
    batch = sample.layer.shape[0]
    sigma = uniform(0.4, 1.4, (batch, 1, 1, 1), generator)
    gain = uniform(0.5, 1.2, (batch, 1, 1, 1), generator)
    chosen = uniform(0, 1, (batch, 1, 1, 1), generator) < 0.33
    axis = torch.arange(-4, 5, device=sample.layer.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (axis / sigma[..., 0]) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    layer = F.pad(sample.layer.transpose(0, 1), (4, 4, 4, 4), mode="replicate")
    layer = F.conv2d(layer, kernel[:, :, None, :], groups=batch)
    layer = F.conv2d(layer, kernel[:, :, :, None], groups=batch).transpose(0, 1) * gain
    sample.layer = torch.where(chosen, layer, sample.layer)
    sample.density = sample.layer.mean((1, 2, 3))
    softened = (sample.hazy * (1 - sample.alpha) + sample.layer + sample.noise).clamp(0, 1)
    sample.rainy = torch.where(chosen, (softened * 255).round() / 255, sample.rainy)


def apply_blur(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Defocus: a Gaussian of 1.2 to 4 pixels over (1, 3, H, W)."""
    sigma = float(rng.uniform(1.2, 4))
    radius = math.ceil(3 * sigma)
    axis = torch.arange(-radius, radius + 1, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (axis / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    image = F.conv2d(F.pad(image, (radius, radius, 0, 0), mode="reflect"), kernel, groups=3)
    return F.conv2d(F.pad(image, (0, 0, radius, radius), mode="reflect"), kernel.transpose(2, 3), groups=3)


def apply_drops(image: Tensor, rng: np.random.Generator, generator: Generator) -> Tensor:
    """Drops on the lens: round spots that show the scene upside down, blurred and shaded, over (1, 3, H,
    W).
    """
    height, width = image.shape[-2:]
    count = int(rng.integers(4, 14))
    y = torch.linspace(0, height - 1, height, device=image.device)[None, :, None]
    x = torch.linspace(0, width - 1, width, device=image.device)[None, None, :]
    cy = uniform(0, height, (count, 1, 1), generator)
    cx = uniform(0, width, (count, 1, 1), generator)
    radius = uniform(4, 13, (count, 1, 1), generator)
    squeeze = uniform(0.75, 1.3, (count, 1, 1), generator)
    distance = (((y - cy) / squeeze) ** 2 + ((x - cx) * squeeze) ** 2).sqrt() / radius
    inside = ((1 - distance) * 3).clamp(0, 1).amax(0)[None, None]
    rim = torch.exp(-0.5 * ((distance - 0.85) / 0.12) ** 2).amax(0)[None, None]
    refracted = apply_blur(image.flip(-2).roll(width // 3, -1), rng) * 1.1 + 0.05
    return (image * (1 - inside) + refracted * inside) * (1 - 0.3 * rim)


def matches(said: Attributes, shown: Attributes) -> bool:
    """Whether a sentence that says `said` is true of a crop that shows `shown`."""
    return (
        said.kind == shown.kind
        and said.density in (None, shown.density)
        and said.direction in (None, shown.direction)
    )


def contrastive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Multi-positive InfoNCE both ways: logits (N, N) images by sentences, positive (N, N) true where they
    agree.
    """
    target = positive.float()
    by_image = -(F.log_softmax(logits, 1) * target / target.sum(1, keepdim=True)).sum(1).mean()
    by_text = -(F.log_softmax(logits, 0) * target / target.sum(0, keepdim=True)).sum(0).mean()
    return (by_image + by_text) / 2


def spoken(
    attributes: Attributes, rng: random.Random, detail: float, wording: Wording
) -> tuple[str, Attributes]:
    """A sentence about a crop and what it says; a quarter of them canonical."""
    if rng.random() < 0.25:
        return canonical(attributes), attributes
    said = mentioned(attributes, rng, detail=detail)
    return sentence(said, rng, wording, detail=1.0), said


def train_clip(config: ClipConfig, data_root: Path, folder: Path) -> Path:
    """Trains a compact CLIP on the photographs under `data_root` and writes it as a checkpoint folder."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    data, held_out = TrainingData(data_root), TrainingData(data_root, validation=True)
    if config.lock_text:
        clip = load_clip(folder)
        description = {k: clip.settings[k] for k in ("open_clip", "mean", "std")}
        if description["open_clip"]["vision_cfg"] != ARCHITECTURE["vision_cfg"]:
            description["open_clip"] |= {"vision_cfg": ARCHITECTURE["vision_cfg"]}
            cast(Any, clip.model).visual = cast(Any, compact_clip(folder, description).model).visual
        cast(Any, clip.model).lock_text_tower()
    else:
        vocabulary = write_vocabulary(folder / VOCABULARY)
        write_words(folder / WORDS)
        text = {**ARCHITECTURE["text_cfg"], "vocab_size": vocabulary}
        description = {
            "open_clip": {**ARCHITECTURE, "text_cfg": text},
            "mean": [0.45, 0.45, 0.45],
            "std": [0.27, 0.27, 0.27],
        }
        clip = compact_clip(folder, description)
    model = cast(Any, clip.model).train().to(device)
    model.visual.to(memory_format=torch.channels_last)
    size = ARCHITECTURE["vision_cfg"]["image_size"]
    learned = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learned if p.ndim > 1]
    plain = [p for p in learned if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    generator = Generator(device=device).manual_seed(config.seed)
    rng, words = np.random.default_rng(config.seed), random.Random(config.seed)
    mean, std = (
        torch.tensor(clip.mean)[:, None, None].to(device),
        torch.tensor(clip.std)[:, None, None].to(device),
    )
    with torch.no_grad():
        ids = clip.tokenizer([canonical(Attributes(*degradation)) for degradation in DEGRADATIONS])
        fixed = model.encode_text(ids.to(device), normalize=True)

    def loss_of(image_features: Tensor, shown: list[Attributes]) -> Tensor:
        scale = model.logit_scale.exp()
        if config.lock_text:
            return F.cross_entropy(scale * image_features @ fixed.T, truth_of(shown, device))
        texts, said = zip(*(spoken(a, words, config.detail, TRAINING) for a in shown), strict=True)
        ids = clip.tokenizer([disturb(t, words) for t in texts]).to(device)
        positive = torch.tensor([[matches(s, a) for s in said] for a in shown], device=device)
        return contrastive_loss(scale * image_features @ model.encode_text(ids, normalize=True).T, positive)

    bar = tqdm(unit="step", mininterval=10)
    began = time.monotonic()
    while (progress := (time.monotonic() - began) / 60 / config.minutes) < 1:
        images, shown = degraded_crops(data, config.batch, size, rng, generator)
        rate = config.learning_rate * (0.5 + 0.5 * math.cos(math.pi * progress)) * min(1, (bar.n + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate
        image_features = model.encode_image(
            ((images - mean) / std).contiguous(memory_format=torch.channels_last), normalize=True
        )
        loss = loss_of(image_features, shown)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        bar.update()
        if bar.n % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", scale=f"{model.logit_scale.exp().item():.1f}")
    bar.close()
    model.eval()
    description["temperatures"] = fit_temperatures(clip, held_out, device)
    clip.settings.update(description)
    description["rain_from"] = fit_rain_from(clip, held_out, device)
    description["clean_below"] = fit_clean_below(clip, held_out, device)
    clip.settings.update(description)
    report = measure(clip, held_out, device)
    write_checkpoint(folder, CLIP, model.state_dict(), {**description, "held_out": report})
    tqdm.write(json.dumps(report, indent=2))
    return folder


def image_logits(
    clip: CompactCLIP, data: TrainingData, device: torch.device, *, batches: int, seed: int
) -> tuple[Tensor, list[Attributes]]:
    """Untempered scores (N, len(DEGRADATIONS)) of single crops of held-out scenes, and what the crops
    show.
    """
    perception = Perception(clip, device)
    generator = Generator(device=device).manual_seed(seed)
    rng = np.random.default_rng(seed)
    logits: list[Tensor] = []
    shown: list[Attributes] = []
    with torch.inference_mode():
        for _ in range(batches):
            images, found = degraded_crops(data, 48, perception.crop, rng, generator)
            logits.append(perception.scores(images))
            shown += found
    return torch.cat(logits), shown


def truth_of(shown: Sequence[Attributes], device: torch.device) -> Tensor:
    """The place among `DEGRADATIONS` of what each crop shows: (N,)."""
    places = [DEGRADATIONS.index((a.kind, a.density, a.direction)) for a in shown]
    return torch.tensor(places, device=device)


def fit_temperatures(clip: CompactCLIP, data: TrainingData, device: torch.device) -> dict[str, float]:
    """For type, density and direction the divisor of a picture's mean scores with the least negative
    log-likelihood on held-out scenes (Guo et al., ICML 2017)."""
    perception = Perception(clip, device)
    images, shown = zip(*degraded_images(data, 384, 3 * perception.crop, device, seed=1), strict=True)
    with torch.inference_mode():
        logits = [perception.logits(image) for image in images]

    def negative_log_likelihood(attribute: str, temperature: float) -> float:
        perception.temperatures[attribute] = temperature
        place = tuple(ATTRIBUTES).index(attribute)
        truths = [(a.kind, a.density, a.direction)[place] for a in shown]
        likelihoods = [
            perception.marginal(scores, attribute)[truth]
            for scores, truth in zip(logits, truths, strict=True)
            if truth is not None
        ]
        return -fmean(math.log(max(likelihood, 1e-12)) for likelihood in likelihoods)

    candidates = torch.logspace(-1, 1, 81).tolist()
    return {a: min(candidates, key=partial(negative_log_likelihood, a)) for a in ATTRIBUTES}


RAIN_FROM_AT_LEAST, CLEAN_SHARE = 0.35, 0.95


def fit_rain_from(clip: CompactCLIP, data: TrainingData, device: torch.device) -> float:
    """The least likelihood of rain that `CLEAN_SHARE` of held-out photographs without rain stay below, whole
    as the service sees them: rain that is overlooked costs more than a photograph looked through in vain.
    """
    perception = Perception(clip, device)
    rain = torch.tensor([rain_or_clean(perception(p.to(device)).types) for p in data.photographs])
    if not len(rain):
        return 0.5
    highest = rain.quantile(CLEAN_SHARE, interpolation="higher").item()
    return max(RAIN_FROM_AT_LEAST, math.floor(1000 * highest + 1) / 1000)


LEFT_ALONE = 0.01


def fit_clean_below(clip: CompactCLIP, data: TrainingData, device: torch.device) -> float:
    """The likelihood of rain, in [0, 1], that `LEFT_ALONE` of the rainy images of held-out scenes stay
    below: they are taken for surely clean."""
    perception = Perception(clip, device)
    shown = degraded_images(data, 960, 3 * perception.crop, device, seed=5)
    rain = [rain_or_clean(perception(image).types) for image, attributes in shown if attributes.density]
    return math.floor(1000 * float(np.quantile(rain, LEFT_ALONE))) / 1000


def degraded_images(
    data: TrainingData, count: int, size: int, device: torch.device, *, seed: int
) -> Iterator[tuple[Tensor, Attributes]]:
    """`count` degraded images, uint8 (3, size, size), and what they show."""
    generator = Generator(device=device).manual_seed(seed)
    rng = np.random.default_rng(seed)
    for start in range(0, count, 16):
        images, shown = degraded_crops(data, min(16, count - start), size, rng, generator)
        yield from zip((images * 255).round().to(torch.uint8), shown, strict=True)


def held_out_images(
    data: TrainingData, count: int, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Attributes]]:
    """`count` degraded images, uint8 (3, size, size), of the photographs that are large enough, and what they
    show. Raises DataError where no photograph is."""
    large = copy.copy(data)
    large.photographs = [p for p in data.photographs if min(p.shape[-2:]) >= size]
    if not large.photographs:
        raise DataError(f"no held-out photograph is as large as {size} pixels")
    yield from degraded_images(large, count, size, device, seed=4)


def measure(clip: CompactCLIP, data: TrainingData, device: torch.device) -> dict[str, float]:
    """Top-1 of type, density and direction on single crops of held-out scenes with held-out wording, in [0,
    1], and on whole images, where photographs are large enough, top-1, calibration and what becomes of clean
    ones.
    """
    logits, shown = image_logits(clip, data, device, batches=10, seed=2)
    model = cast(Any, clip.model)
    perception = Perception(clip, device)
    words = random.Random(3)
    embeddings: list[Tensor] = []
    with torch.inference_mode():
        for kind, density, direction in DEGRADATIONS:
            texts = [
                sentence(Attributes(kind, density, direction), words, HELD_OUT, detail=1.0) for _ in range(4)
            ]
            feature = model.encode_text(clip.tokenizer(texts).to(device), normalize=True).mean(0)
            embeddings.append(F.normalize(feature, dim=-1))
        generator = Generator(device=device).manual_seed(2)
        rng = np.random.default_rng(2)
        held_out: list[Tensor] = []
        for _ in range(10):
            images, _ = degraded_crops(data, 48, perception.crop, rng, generator)
            features = F.normalize(model.encode_image((images - perception.mean) / perception.std), dim=-1)
            held_out.append(features @ torch.stack(embeddings).T)
    scale = model.logit_scale.exp().item()
    report: dict[str, float] = {}
    for name, scores in (("canonical", logits), ("held_out_wording", torch.cat(held_out) * scale)):
        probabilities = scores.softmax(-1)
        for i, (attribute, values) in enumerate(ATTRIBUTES.items()):
            columns = [[j for j, d in enumerate(DEGRADATIONS) if d[i] == v] for v in values]
            marginal = torch.stack([probabilities[:, c].sum(1) for c in columns], dim=1)
            truth = [(a.kind, a.density, a.direction)[i] for a in shown]
            hits = [
                values[int(p.argmax())] == t for p, t in zip(marginal, truth, strict=True) if t is not None
            ]
            report[f"{name}_{attribute}"] = round(sum(hits) / len(hits), 4)
    if not any(min(photograph.shape[-2:]) >= SIDE for photograph in data.photographs):
        return report
    found = measure_perception(perception, held_out_images(data, 480, SIDE, device), data.photographs)
    for attribute, score in found.attributes.items():
        report |= {f"image_{attribute}": round(score.top1, 4), f"image_{attribute}_ece": round(score.ece, 4)}
    return report | {"rain_found": round(found.rain_found, 4), "clean_kept": round(found.clean_kept, 4)}
