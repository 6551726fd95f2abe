"""The training loop of the restoration network: one loop, resumed exactly, a function of its configuration.

Every step's data is a function of the seed and the step, so a run that was killed goes on from its last
checkpoint as if nothing had happened (bit by bit on the CPU, with a schedule by steps). Started by torchrun,
several processes train one network: each draws its own batches, and their gradients are averaged.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.captioner import Captioner
from model.checkpoint_folders import NETWORK, CheckpointError, read_config
from model.config import PRESETS, NetworkConfig, TextConfig
from model.network import TVIDerain
from model.prompts import Prompt
from model.weights import build_network, clip_sha256, read_state
from training.captions import await_captions, caption_pairs, read_captions
from training.descriptions import canonical
from training.grow import grow
from training.instructions import Instructed, Mixture, attributes_of, instruct
from training.layerwise import learning_rate_multipliers
from training.muon import Muon
from training.pairs import PairedSet
from training.published import read_training_data, training_caption, training_sets
from training.rain import PLAIN, Degraded, RainRecipe, measure_angle, synthesise
from training.revive import revive
from training.scenes import TrainingData, random_crops
from training.variety import Variety


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Crops of `crop` pixels, `batch` of them, until this share of the run."""

    until: float
    crop: int
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything a run depends on. `steps` or `minutes` says how long; minutes count training time over all
    resumes."""

    preset: str = "s"
    weights: str = "weights"
    """Where the compact CLIP is."""
    clip: str | None = None
    """An open_clip tag or local checkpoint for the preset's CLIP, instead of its own."""
    text: bool = True
    """False trains R and M with the null token alone: a warm start, or the twin without text."""
    start_from: str | None = None
    """A run's `last.pt`, whose averaged weights this one starts with, or a checkpoint folder. A narrower
    or shallower network is grown into."""
    revive: bool = False
    """Units of `start_from` that have died begin anew."""
    layerwise_rates: bool = False
    """Each layer of R and M learns at a rate in proportion to its size; of convolution blocks only."""
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    stages: tuple[Stage, ...] = (
        Stage(until=0.45, crop=64, batch=16),
        Stage(until=0.85, crop=96, batch=12),
        Stage(until=1.0, crop=128, batch=8),
    )
    captions: str | None = None
    """A CSV with the captions of published pairs."""
    captioner: str | None = None
    """What `Captioner.from_source` takes: writes the captions that are missing, into `captions.csv` beside
    the checkpoints."""
    pairs: float = 0.05
    """Share of each batch that is taken from given pairs instead of the synthesiser."""
    variety: Variety = field(default_factory=Variety)
    """How many of the photographs are made into rarer scenes."""
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    gradient_norm: float = 1.0
    ema: float = 0.999
    fourier: float = 0.02
    """Weight of the L1 distance of spectra beside the Charbonnier loss."""
    decibel: float = 0.05
    """Weight of the logarithm of each image's mean squared error, which is its PSNR but for a factor."""
    bfloat16: bool = False
    threads: int | None = None
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 10.0
    recipe: RainRecipe = field(default_factory=RainRecipe)
    mixture: Mixture = field(default_factory=Mixture)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is done, 0 to 1."""
        done = step / self.steps if self.steps is not None else seconds / 60 / (self.minutes or 1)
        return min(1.0, done)

    def stage(self, progress: float) -> Stage:
        """The crops at this point of the run."""
        return next((s for s in self.stages if progress < s.until), self.stages[-1])

    def rate(self, step: int, progress: float) -> float:
        """Learning rate: linear warm-up, then a cosine to the final one."""
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        rate = self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine
        return rate * min(1.0, (step + 1) / self.warmup_steps)


THOROUGH_WEIGHT = 3.0
"""How much worse rain that is left over is than too much removed, where a prompt asks for all of it."""


def charbonnier(
    restored: Tensor, target: Tensor, weight: Tensor | None = None, epsilon: float = 1e-3
) -> Tensor:
    """Mean of weight * sqrt(difference^2 + epsilon^2), images (B, 3, H, W)."""
    distance = ((restored - target).square() + epsilon**2).sqrt()
    return (distance if weight is None else distance * weight).mean()


def log_error(restored: Tensor, target: Tensor, weight: Tensor | None = None, floor: float = 1e-4) -> Tensor:
    """Mean over images of the natural logarithm of the mean of weight * difference^2, plus a floor (40 dB).

    An absolute distance is least at the median, which leaves faint streaks where they are; a squared one is
    least at the mean, and its logarithm counts a decibel of a lightly rained image as much as one of a
    heavily rained.
    """
    square = (restored - target).square()
    error = (square if weight is None else square * weight).mean((1, 2, 3))
    return (error + floor).log().mean()


def residue_weight(restored: Tensor, rainy: Tensor, target: Tensor, thorough: Tensor) -> Tensor:
    """`THOROUGH_WEIGHT` where the image is to be rid of all rain and some is left, 1 elsewhere: (B, 3, H,
    W)."""
    left = (restored.detach() > target) & (rainy > target + 2 / 255) & thorough[:, None, None, None]
    return torch.where(left, THOROUGH_WEIGHT, 1.0)


def fourier_distance(restored: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the orthonormal 2-D spectra."""
    return torch.fft.rfft2((restored - target).float(), norm="ortho").abs().mean()


@dataclass(frozen=True, slots=True)
class Crops:
    """Photographs (B, 3, C, C), rain layers (B, 1, C, C) and pairs (P, 6, C, C), uint8, and the pairs'
    captions."""

    photographs: Tensor
    layers: Tensor
    pairs: Tensor
    captions: list[str | None]


class Batches:
    """What each step trains on, as a function of the seed and the step; crops are cut one step ahead."""

    def __init__(self, data: TrainingData, config: TrainConfig, device: torch.device, rank: int) -> None:
        self.data, self.config, self.device, self.rank = data, config, device, rank
        self.generator = torch.Generator(device=device)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="crops")

    def crops(self, step: int, stage: Stage) -> Crops:
        """What the step is made of, without rain."""
        rng = np.random.default_rng((self.config.seed, step, self.rank))
        data = self.data
        paired = int(rng.binomial(stage.batch, self.config.pairs)) if data.pairs else 0
        paired = min(paired, stage.batch - 1) if data.photographs else stage.batch
        count = stage.batch - paired

        def drawn(
            images: Sequence[Tensor], channels: int, number: int, variety: Variety | None = None
        ) -> tuple[Tensor, list[int]]:
            if not number:
                return torch.zeros(0, channels, stage.crop, stage.crop, dtype=torch.uint8), []
            indices = rng.integers(len(images), size=number).tolist()
            return random_crops(images, stage.crop, indices, rng, variety=variety), indices

        photographs, _ = drawn(data.photographs, 3, count, self.config.variety)
        layers = data.layer_crops(stage.crop, count, rng)
        pairs, indices = drawn(data.pairs, 6, paired)
        captions = [data.captions[i] if data.captions else None for i in indices]
        return Crops(photographs, layers, pairs, captions)

    def make(self, step: int, crops: Crops) -> tuple[Tensor, Instructed]:
        """Rainy images (B, 3, C, C) on the device and what is to be made of them."""
        photographs, layers, pairs = (
            images.to(self.device, non_blocking=True).float() / 255
            for images in (crops.photographs, crops.layers, crops.pairs)
        )
        self.generator.manual_seed((self.config.seed * 1_009 + self.rank) * 10_000_019 + step)
        words = random.Random(f"{self.config.seed}/{step}/{self.rank}")
        mixture = self.config.mixture if self.config.text else Mixture(full=0, partial=0, unchanged=0)
        samples: list[tuple[Degraded, Mixture]] = []
        if len(photographs):
            drawn = synthesise(photographs, layers, self.config.recipe, self.generator)
            samples.append((drawn, mixture))
        if len(pairs):
            given = degraded_pair(pairs[:, :3], pairs[:, 3:])
            samples.append((given, replace(mixture, partial=0)))
        wanted = [instruct(sample, how, words) for sample, how in samples]
        prompts = [prompt for one in wanted for prompt in one.prompts]
        for i, caption in enumerate(crops.captions, start=len(photographs)):
            if caption and self.config.text:
                prompts[i] = replace(prompts[i], semantic=caption)
        return torch.cat([sample.rainy for sample, _ in samples]), Instructed(
            prompts,
            torch.cat([one.target for one in wanted]),
            torch.cat([one.thorough for one in wanted]),
        )

    def iterate(self, step: int, stage_at: Callable[[int], Stage]) -> Iterator[tuple[Tensor, Instructed]]:
        """Batches from `step` on; `stage_at(step)` gives the crop size."""
        ahead = self.pool.submit(self.crops, step, stage_at(step))
        while True:
            crops = ahead.result()
            ahead = self.pool.submit(self.crops, step + 1, stage_at(step + 1))
            yield self.make(step, crops)
            step += 1


def first_samples(batches: Batches, count: int = 16) -> Iterator[tuple[Tensor, list[Prompt]]]:
    """Rainy images and prompts of the first batches of a run."""
    stage = batches.config.stage(0)
    for step in range(count):
        rainy, wanted = batches.make(step, batches.crops(step, stage))
        yield rainy.contiguous(memory_format=torch.channels_last), wanted.prompts


def degraded_pair(rainy: Tensor, clean: Tensor) -> Degraded:
    """A given pair as the synthesiser would describe it; its layer is the positive difference."""
    layer = (rainy - clean).clamp(min=0).mean(1, keepdim=True)
    none = torch.zeros(len(rainy), dtype=torch.bool, device=rainy.device)
    return Degraded(
        clean=clean,
        hazy=clean,
        rainy=rainy,
        layer=layer,
        alpha=torch.zeros_like(layer),
        noise=torch.zeros_like(rainy),
        has_haze=none,
        has_noise=none,
        density=layer.mean((1, 2, 3)),
        angle=measure_angle(layer),
    )


VALIDATION: dict[str, RainRecipe] = {
    "light": replace(PLAIN, light=1, screen=0.03, alpha=0.03),
    "heavy": replace(PLAIN, heavy=1, screen=0.03, alpha=0.03),
    "layers": replace(PLAIN, layered=1, screen=0.03, alpha=0.03),
    "photographic": replace(PLAIN, light=0.4, heavy=0.4, layered=0.2, photographic=1),
}


@torch.inference_mode()
def validate(network: TVIDerain, data: TrainingData, device: torch.device, *, text: bool) -> dict[str, float]:
    """Mean PSNR (dB, RGB) on 32 crops of held-out scenes, described in full: under light, heavy and given
    synthetic rain, and rain as cameras see it, or of the pairs where there are no photographs to rain on.
    """
    total: dict[str, list[float]] = {}

    def score(name: str, sample: Degraded) -> None:
        described = [Prompt(degradation=canonical(a) if text else None) for a in attributes_of(sample)]
        restored = run(network, sample.rainy, described).clamp(0, 1)
        error = (restored - sample.clean).square().mean((1, 2, 3)).clamp(min=1e-10)
        total.setdefault(name, []).extend((-10 * error.log10()).tolist())

    for name, recipe in VALIDATION.items():
        rng = np.random.default_rng(0)
        generator = torch.Generator(device=device).manual_seed(0)
        for _ in range(4 if data.photographs else 0):
            crops = random_crops(data.photographs, 192, rng.integers(len(data.photographs), size=8), rng)
            layers = data.layer_crops(192, 8, rng)
            crops, layers = (images.to(device).float() / 255 for images in (crops, layers))
            score(name, synthesise(crops, layers, recipe, generator))
    rng = np.random.default_rng(0)
    for _ in range(4 if data.pairs and not data.photographs else 0):
        crops = random_crops(data.pairs, 192, rng.integers(len(data.pairs), size=8), rng)
        pairs = crops.to(device).float() / 255
        score("pairs", degraded_pair(pairs[:, :3], pairs[:, 3:]))
    return {name: sum(scores) / len(scores) for name, scores in total.items()}


def run(network: TVIDerain, rainy: Tensor, prompts: list[Prompt]) -> Tensor:
    """The network, told its prompts."""
    assert network.text is not None
    features = network.text.encode(prompts)
    return network(rainy, features.tokens, features.mask)


def train(
    config: TrainConfig, data_root: Path, out: Path, *, network_config: NetworkConfig | None = None
) -> Path:
    """Trains until the configured end, resuming from `out/last.pt` where that exists.

    Args:
        config: the run.
        data_root: the folder that `TrainingData` reads, or paired sets as they are published.
        out: where checkpoints (`last.pt`), TensorBoard events and `config.json` go.
        network_config: an architecture other than the preset.

    Returns:
        The path of the last checkpoint.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rank, world = join_peers(device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    out.mkdir(parents=True, exist_ok=True)
    last = out / "last.pt"
    captions = [] if config.captions is None else [read_captions(Path(config.captions))]
    if config.captioner is not None and config.text:
        captions.append(written_captions(config.captioner, captions, data_root, out, device, rank))
    data = read_training_data(data_root, captions=captions)
    held_out = read_training_data(data_root, validation=True)

    torch.manual_seed(config.seed)
    architecture = network_config or PRESETS[config.preset]
    if config.clip is not None:
        tower = replace(architecture.text, pretrained=config.clip)
        architecture = replace(architecture, text=tower)
    network = build_network(architecture, Path(config.weights), text=config.text)
    cast(Any, network.to(device)).to(memory_format=torch.channels_last)
    learned: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
    optimizer = Muon(
        learned,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        precision=torch.bfloat16 if config.bfloat16 else torch.float32,
    )
    step, seconds = 0, 0.0
    if config.start_from is not None and not last.exists():
        start(network, Path(config.start_from))
        if config.revive:
            # the same on all processes: those of the first one's batches
            revived = revive(network, first_samples(Batches(data, config, device, rank=0)))
            tqdm.write(f"{revived} units begin anew")
    if config.layerwise_rates and not last.exists():
        multipliers = learning_rate_multipliers(
            network, first_samples(Batches(data, config, device, rank=0), 8)
        )
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and name in multipliers:
                optimizer.set_multiplier(parameter, multipliers[name])
    average = [p.detach().clone() for p in learned]
    if last.exists():
        saved = torch.load(last, map_location=device, weights_only=True)
        check_clip(saved, architecture.text, Path(config.weights))
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        average = [a.to(device) for a in saved["average"]]
        step, seconds = saved["step"], saved["seconds"]
    if rank == 0:
        (out / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")

    clip = clip_sha256(architecture.text, Path(config.weights)) if config.text else None
    names = [n for n, p in network.named_parameters() if p.requires_grad]

    def save() -> None:
        state = {
            "step": step,
            "seconds": seconds,
            "architecture": architecture.to_dict(),
            "text": config.text,
            "clip_sha256": clip,
            "names": names,
            "network": network.state_dict(),
            "average": average,
            "optimizer": optimizer.state_dict(),
        }
        temporary = last.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(last)

    def averaged_scores() -> dict[str, float]:
        current = [p.detach().clone() for p in learned]
        copy_into(learned, average)
        network.eval()
        scores = validate(network, held_out, device, text=config.text)
        network.train()
        copy_into(learned, current)
        return scores

    def crops_at(step: int) -> Stage:
        return config.stage(config.progress(step, seconds))

    batches = Batches(data, config, device, rank)
    writer = SummaryWriter(str(out)) if rank == 0 else None
    bar = tqdm(
        initial=step, total=config.steps, unit="step", smoothing=0.05, mininterval=10, disable=rank > 0
    )
    saved_at = validated_at = seconds
    mark = time.perf_counter()
    for rainy, wanted in batches.iterate(step, crops_at):
        progress = config.progress(step, seconds)
        if progress >= 1:
            break
        rate = config.rate(step, progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
            restored = run(
                network, rainy.contiguous(memory_format=torch.channels_last), wanted.prompts
            ).float()
        target = wanted.target
        weight = residue_weight(restored, rainy, target, wanted.thorough)
        loss = charbonnier(restored, target, weight)
        if config.decibel:
            loss = loss + config.decibel * log_error(restored, target, weight)
        if config.fourier:
            loss = loss + config.fourier * fourier_distance(restored, target)
        norm = descend(
            loss,
            optimizer,
            learned,
            average,
            world=world,
            ema=config.ema,
            step=step,
            gradient_norm=config.gradient_norm,
        )
        step += 1
        now = time.perf_counter()
        seconds += now - mark
        mark = now
        if world > 1:
            seconds = agree_on(seconds)
        if writer is None:
            continue

        bar.update()
        if step % 50 == 0:
            writer.add_scalar("loss", loss.item(), step)
            writer.add_scalar("gradient_norm", norm.item(), step)
            writer.add_scalar("learning_rate", rate, step)
            bar.set_postfix(loss=f"{loss.item():.4f}", lr=f"{rate:.1e}")
        if seconds - saved_at > 60 * config.checkpoint_minutes:
            save()
            saved_at = seconds
        if seconds - validated_at > 60 * config.validate_minutes:
            for name, value in (scores := averaged_scores()).items():
                writer.add_scalar(f"psnr/{name}", value, step)
            bar.write(
                f"step {step}, {seconds / 60:.1f} min: "
                + ", ".join(f"{k} {v:.2f} dB" for k, v in scores.items())
            )
            validated_at = seconds
    bar.close()
    if writer is None:
        return last
    save()
    scores = averaged_scores()
    tqdm.write("held-out scenes: " + ", ".join(f"{k} {v:.2f} dB" for k, v in scores.items()))
    (out / "validation.json").write_text(
        json.dumps({"step": step, "seconds": seconds, **scores}, indent=2) + "\n"
    )
    writer.close()
    return last


def written_captions(
    captioner: str, given: Sequence[Mapping[str, str]], root: Path, out: Path, device: torch.device, rank: int
) -> dict[str, str]:
    """A captioner's captions of the rainy training images that `given` says nothing about.

    The first process writes them into `out`, the others wait for it.
    """
    sets = [
        PairedSet(found.name, tuple(p for p in found.pairs if not training_caption(given, found, p)))
        for found in training_sets(root)
    ]
    path = out / "captions.csv"
    if rank > 0:
        return await_captions(sets, path)
    total = sum(len(found.pairs) for found in sets)
    with tqdm(total=total, unit="caption", mininterval=10) as bar:
        writer = Captioner.from_source(captioner, str(device))
        return caption_pairs(sets, writer, path, progress=bar.update)


def join_peers(device: torch.device) -> tuple[int, int]:
    """Rank and number of the processes that torchrun started; (0, 1) alone."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return dist.get_rank(), dist.get_world_size()


def average_gradients(parameters: list[Tensor], world: int) -> None:
    """Replaces each gradient by its mean over all processes, in one exchange; a missing one is zero."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    for parameter, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = mean.view(parameter.shape)


def agree_on(value: float) -> float:
    """The first process's value, on all of them."""
    shared = torch.tensor([value], dtype=torch.float64)
    if dist.get_backend() == "nccl":
        shared = shared.cuda()
    dist.broadcast(shared, 0)
    return float(shared.item())


def descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    parameters: list[Tensor],
    average: list[Tensor],
    *,
    world: int,
    ema: float,
    step: int,
    gradient_norm: float = 1.0,
) -> Tensor:
    """One step down the gradient of `loss`, averaged over `world` processes and clipped to `gradient_norm`.

    The exponential moving average of the parameters moves on in place, with the decay `ema` and faster in the
    first steps; `step` counts from 0.

    Returns:
        The norm that the gradient had.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if world > 1:
        average_gradients(parameters, world)
    norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_norm)
    optimizer.step()
    decay = min(ema, (2 + step) / (11 + step))
    with torch.no_grad():
        for mean, parameter in zip(average, parameters, strict=True):
            mean.lerp_(parameter, 1 - decay)
    return norm


@torch.no_grad()
def copy_into(parameters: list[Tensor], values: list[Tensor]) -> None:
    """Overwrites parameters in place."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def start(network: TVIDerain, source: Path) -> None:
    """Puts in the averaged weights of a run's `last.pt`, or those of a checkpoint folder; those of a smaller
    network are grown into.
    """
    if source.is_dir():
        described = read_config(source, NETWORK)
        architecture, state = described["network"], read_state(source, described)
    else:
        saved: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
        architecture, state = saved["architecture"], averaged_state(saved)
    config = NetworkConfig.from_dict(architecture)
    if config.restoration == network.config.restoration:
        network.load_state_dict(state, strict=False)
    else:
        grow(network, state, config)


def averaged_state(saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged parameters of a `last.pt` by name; the frozen text tower is not among them."""
    return dict(zip(saved["names"], saved["average"], strict=True))


def check_clip(saved: Mapping[str, Any], text: TextConfig, weights: Path) -> None:
    """Raises CheckpointError where a `last.pt` was trained with another compact CLIP than `weights` holds."""
    trained_with = saved.get("clip_sha256")
    if trained_with is not None and trained_with != clip_sha256(text, weights):
        raise CheckpointError(f"the run was trained with another {text.clip} than the one in {weights}")


def load_averaged(network: TVIDerain, saved: Mapping[str, Any]) -> None:
    """Puts a checkpoint's averaged weights into a network; parameters that only one of both has stay as they
    are.
    """
    network.load_state_dict(averaged_state(saved), strict=False)
