"""Distillation of a network's text encoder, by sentences alone (Romero et al., "FitNets", ICLR 2015).

What is restored depends on the text only through what CAFI reads in it, and that can be compared without
restoring anything: for any sentence the student is to read, at pixels of rainy images, what the teacher reads
in the sentence that it knows for the same wish (`Saying.exemplar`). So a network gets to know many more ways
to say a thing than pairs of images could teach it in the time, or another text tower.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Generator, Tensor
from tqdm import tqdm

from model.checkpoint_folders import NETWORK, read_config
from model.interaction import CAFI
from model.network import TVIDerain
from model.prompts import Prompt
from model.text import TextEncoder, TextFeatures
from model.weights import build_network, export_network, learned_state, load_network
from training.muon import Muon
from training.rain import RainRecipe, synthesise
from training.scenes import TrainingData, random_crops
from training.sentences import EXEMPLARS, Saying, SentenceRun, batches
from training.train import copy_into, descend, join_peers

RECIPE = RainRecipe(clean=0.1, light=0.3, heavy=0.3, layered=0.3, haze=0.2, noise=0.05)
IMAGES, SIDE = 32, 96
PIXELS = 48
"""Of how many pixels of each level the readings are compared in a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig(SentenceRun):
    """A run of distillation."""

    steps: int = 700
    batch: int = 96
    learning_rate: float = 2e-3
    warmup_steps: int = 30
    ema: float = 0.99


@dataclass(frozen=True, slots=True)
class Reading:
    """What the CAFI blocks read in prompts, {level: (B, C, P, 1)}, and the features of the first and of the
    last token of the degradation prompts, (2, B, D)."""

    levels: dict[str, Tensor]
    ends: Tensor


def read(network: TVIDerain, prompts: list[Prompt], pixels: dict[str, Tensor]) -> Reading:
    """Reads prompts at pixels {level: (P, C)} of the visual features."""
    features = cast(TextEncoder, network.text).encode(prompts)
    levels = {
        level: cast(CAFI, network.interaction[level]).read(
            x.t()[None, :, :, None].expand(len(prompts), -1, -1, -1), features.tokens, features.mask
        )
        for level, x in pixels.items()
    }
    return Reading(levels, ends_of(features))


def ends_of(features: TextFeatures) -> Tensor:
    """Features of the first and the last token after the null token: (2, B, D)."""
    tokens, last = features.tokens, features.mask.sum(1) - 1
    return torch.stack((tokens[:, 1], tokens[torch.arange(len(tokens)), last]))


@torch.no_grad()
def visual_features(network: TVIDerain, data: TrainingData, seed: int) -> dict[str, Tensor]:
    """The encoder's features of rainy training images where CAFI reads: {level: (pixels, C)}."""
    rng, generator = np.random.default_rng(seed), Generator().manual_seed(seed)
    indices = rng.integers(len(data.photographs), size=IMAGES).tolist()
    crops = random_crops(data.photographs, SIDE, indices, rng).float() / 255
    layers = data.layer_crops(SIDE, IMAGES, rng).float() / 255
    x = network.stem(synthesise(crops, layers, RECIPE, generator).rainy)
    found: dict[str, Tensor] = {}
    for level, blocks in enumerate(network.encoder):
        x = blocks(x)
        if str(level) in network.interaction:
            found[str(level)] = x.permute(0, 2, 3, 1).flatten(0, 2)
        if level < len(network.down):
            x = network.down[level](x)
    return found


def distill(
    config: DistillConfig, teacher_folder: Path, weights: Path, data_root: Path, folder: Path, *, half: bool
) -> Path:
    """Teaches the text encoder of a copy of a network and writes the copy as a checkpoint folder.

    Args:
        config: the run.
        teacher_folder: the network's checkpoint folder, with its compact CLIP beside it.
        weights: where the compact CLIP is that the copy is to have; it may be the same one.
        data_root: the folder that `TrainingData` reads.
        folder: where to write.
        half: write float16.

    Returns:
        `folder`.

    Raises:
        CheckpointError: the network or a compact CLIP is missing or damaged, or they do not fit.
        DataError: no photographs.
    """
    rank, world = join_peers(torch.device("cpu"))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    described = read_config(teacher_folder, NETWORK)
    teacher = load_network(teacher_folder, described).requires_grad_(False)
    student = build_network(teacher.config, weights).eval()
    student.load_state_dict(learned_state(teacher), strict=False)
    text = cast(TextEncoder, student.text)
    visual = visual_features(teacher, TrainingData(data_root), config.seed)
    known = [Prompt(degradation=sentence) for sentence in EXEMPLARS.values()]
    with torch.no_grad():
        reading = read(teacher, known, some_pixels(visual, config.seed))
        scale = {level: values.var(0).mean().item() for level, values in reading.levels.items()}
        spread = reading.ends[1].var(0).sum().item()
    drawn = batches(text.tokenizer, config.batch, seed=config.seed, rank=rank)
    words = random.Random(config.seed)
    if not same_tower(text, cast(TextEncoder, teacher.text)):
        alike = batches(text.tokenizer, config.batch, seed=config.seed)  # for all processes
        project_anew(text, teacher, [one for _ in range(30) for one in next(alike)], words)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name.startswith("text."))
    learned: list[Tensor] = [p for p in student.parameters() if p.requires_grad]
    precision = torch.bfloat16 if config.bfloat16 else torch.float32
    optimizer = Muon(learned, lr=config.learning_rate, weight_decay=1e-4, precision=precision)
    average = [p.detach().clone() for p in learned]
    mean_error = 0.0
    bar = tqdm(range(config.steps), unit="step", mininterval=10, disable=rank > 0)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        sayings = next(drawn)
        told = [Prompt(degradation=one.text, semantic=one.caption) for one in sayings]
        known = [Prompt(degradation=one.exemplar(words), semantic=one.caption) for one in sayings]
        # some are what the teacher knows, and the first is nothing
        told[:: len(told) // 6] = known[:: len(told) // 6]
        told[0] = known[0] = Prompt()
        pixels = some_pixels(visual, step * world + rank)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            each = list(dict.fromkeys(known))
            places = torch.tensor([each.index(prompt) for prompt in known])
            with torch.no_grad():
                wanted = read(teacher, each, pixels)
            found = read(student, told, pixels)
        errors = torch.stack(
            [
                (values.float() - wanted.levels[level].float()[places]).square().mean((1, 2, 3))
                / scale[level]
                for level, values in found.levels.items()
            ]
        ).mean(0)
        alone = torch.tensor([prompt.semantic is None for prompt in told])
        ends = (found.ends - wanted.ends[:, places]).float().square().sum((0, 2))[alone].mean() / spread
        loss = (
            errors.mean() + 0.3 * (errors + 1e-4).sqrt().mean() + 2 * max(0.1, 1 - step / config.steps) * ends
        )
        descend(loss, optimizer, learned, average, world=world, ema=config.ema, step=step)
        mean_error += 0.02 * (errors.mean().item() - mean_error)
        if step % 50 == 49:
            bar.set_postfix(error=f"{mean_error:.3f}", ends=f"{ends.item():.3f}")
    copy_into(learned, average)
    if rank == 0:
        export_network(
            folder, student, weights=weights, description={"training": described.get("training")}, half=half
        )
    return folder


def some_pixels(visual: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """`PIXELS` of each level at random: {level: (PIXELS, C)}."""
    generator = Generator().manual_seed(seed)
    return {
        level: values[torch.randint(len(values), (PIXELS,), generator=generator)]
        for level, values in visual.items()
    }


def same_tower(one: TextEncoder, other: TextEncoder) -> bool:
    """Whether two encoders have the same frozen tower."""
    learned = one.learned_state()
    frozen = {k: v for k, v in one.state_dict().items() if k not in learned}
    others = other.state_dict()
    return all(torch.equal(value, others[name]) for name, value in frozen.items())


@torch.no_grad()
def project_anew(
    text: TextEncoder, teacher: TVIDerain, sayings: list[Saying], words: random.Random, ridge: float = 1e-2
) -> None:
    """Fits the projection of an encoder whose tower is another than the teacher's, in place, to the features
    of the first and last tokens (ridge regression); the adapters change nothing then.

    CAFI reads the tokens that it knows and hardly looks at any others, so little could be learned from the
    former projection.
    """
    for block in text.blocks:
        for adapter in (block.after_attention, block.beside_mlp):
            cast(Any, adapter).up.weight.zero_()
            cast(Any, adapter).up.bias.zero_()
    given: list[Tensor] = []

    def keep(_module: object, _input: object, output: Tensor) -> None:
        given.append(output)

    handle = text.ln_final.register_forward_hook(keep)
    inputs: list[Tensor] = []
    wanted: list[Tensor] = []
    for at in range(0, len(sayings), 128):
        some = sayings[at : at + 128]
        given.clear()
        ids = text.tokenizer([one.text for one in some])
        text(ids)
        inputs += [given[0][:, 0], given[0][torch.arange(len(some)), ids.argmax(-1)]]
        known = [Prompt(degradation=one.exemplar(words)) for one in some]
        wanted += ends_of(cast(TextEncoder, teacher.text).encode(known)).unbind()
    handle.remove()
    x, y = torch.cat(inputs).double(), torch.cat(wanted).double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    penalty = ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(x.T @ x + penalty, x.T @ y)
    text.project.weight.copy_(weight.T)
    text.project.bias.copy_(y_mean - x_mean @ weight)
