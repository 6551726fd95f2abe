"""Measures a restorer on paired sets: PSNR and SSIM on Y before and after, and what was perceived."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image
from torch import Tensor

from model.metrics import psnr, ssim
from model.prompts import Prompt
from model.restorer import Restorer
from training.captions import SemanticPrompts
from training.pairs import Pair, PairedSet

NO_CAPTIONS = SemanticPrompts({})


@dataclass(frozen=True, slots=True)
class Quality:
    """How close an image is to its clean original.

    Attributes:
        psnr: decibels, on Y; infinity for equal images.
        ssim: at most 1, on Y.
    """

    psnr: float
    ssim: float


@dataclass(frozen=True, slots=True)
class PairResult:
    """One pair: the prompt and the caption that were used, and the quality of the rainy image before and
    after.
    """

    name: str
    width: int
    height: int
    prompt: str
    caption: str | None
    input: Quality
    restored: Quality


@dataclass(frozen=True, slots=True)
class SetResult:
    """The results on a paired set; means are over images, each counting once whatever its size."""

    name: str
    pairs: tuple[PairResult, ...]

    @property
    def input(self) -> Quality:
        """Mean quality of the rainy images."""
        return _mean([pair.input for pair in self.pairs])

    @property
    def restored(self) -> Quality:
        """Mean quality of the restored images."""
        return _mean([pair.restored for pair in self.pairs])

    @property
    def prompts(self) -> dict[str, float]:
        """Share of the images restored with each prompt, most frequent first."""
        counted = Counter(pair.prompt for pair in self.pairs)
        return {prompt: count / len(self.pairs) for prompt, count in counted.most_common()}

    def to_dict(self) -> dict[str, Any]:
        """What the JSON report holds of a set."""
        return {
            "name": self.name,
            "images": len(self.pairs),
            "input": _described(self.input),
            "restored": _described(self.restored),
            "prompts": self.prompts,
            "pairs": [
                {
                    "name": pair.name,
                    "width": pair.width,
                    "height": pair.height,
                    "prompt": pair.prompt,
                    "caption": pair.caption,
                    "input": _described(pair.input),
                    "restored": _described(pair.restored),
                }
                for pair in self.pairs
            ],
        }


def evaluate_pair(
    restorer: Restorer,
    pair: Pair,
    *,
    prompt: str | None = None,
    caption: Callable[[Tensor], str | None] | None = None,
    save: Path | None = None,
) -> PairResult:
    """Restores the rainy image of a pair, alone, and compares it with the clean one.

    Args:
        restorer: the model.
        pair: what to measure.
        prompt: the degradation prompt; None: the one that the restorer perceives in the rainy image.
        caption: gives the semantic prompt of the rainy image, uint8 (3, H, W), if it has one.
        save: folder that the restored image is written to, as PNG.

    Raises:
        PairsError: a file that cannot be read, or two sizes.
        ValueError: an image smaller than SSIM's window.
    """
    rainy, clean = pair.read()
    used = restorer.perceive(rainy).prompt if prompt is None else prompt
    said = None if caption is None else caption(rainy)
    (restored,) = restorer.restore([rainy], [Prompt(degradation=used, semantic=said)])
    if save is not None:
        Image.fromarray(restored.permute(1, 2, 0).numpy()).save(save / f"{pair.name}.png")
    return PairResult(
        name=pair.name,
        width=rainy.shape[2],
        height=rainy.shape[1],
        prompt=used,
        caption=said,
        input=_quality(rainy, clean),
        restored=_quality(restored, clean),
    )


def evaluate_set(
    restorer: Restorer,
    paired_set: PairedSet,
    *,
    prompt: str | None = None,
    semantic: SemanticPrompts = NO_CAPTIONS,
    limit: int | None = None,
    save: Path | None = None,
    progress: Callable[[], object] = lambda: None,
) -> SetResult:
    """Measures a restorer on a paired set.

    Args:
        restorer: the model.
        paired_set: the pairs, in whose order they are measured.
        prompt: the degradation prompt of all; None: the one perceived in each.
        semantic: where captions come from.
        limit: measure only so many pairs, the first.
        save: folder under which the restored images are written, as `SET/NAME.png`.
        progress: called after each pair.

    Raises:
        CheckpointError: the captioner cannot be had.
        PairsError: a file that cannot be read, or two sizes in a pair.
        ValueError: an image smaller than SSIM's window.
    """
    folder = None if save is None else save / paired_set.name
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    results: list[PairResult] = []
    for pair in paired_set.pairs[:limit]:
        caption = partial(semantic.of, paired_set, pair)
        results.append(evaluate_pair(restorer, pair, prompt=prompt, caption=caption, save=folder))
        progress()
    return SetResult(paired_set.name, tuple(results))


def report(restorer: Restorer, results: Sequence[SetResult], *, prompt: str | None = None) -> dict[str, Any]:
    """Everything that was measured, and with what, ready for `json.dumps`; infinite PSNR becomes null."""
    return {
        "model": restorer.name,
        "parameters": restorer.parameters,
        "device": str(restorer.device),
        "precision": str(restorer.precision).removeprefix("torch."),
        "metric": "PSNR (dB) and SSIM on Y (ITU-R BT.601, 16 to 235, rounded), mean over images",
        "prompt": prompt,
        "sets": [result.to_dict() for result in results],
    }


def _quality(image: Tensor, clean: Tensor) -> Quality:
    return Quality(psnr(image, clean), ssim(image, clean))


def _mean(qualities: Sequence[Quality]) -> Quality:
    return Quality(fmean(one.psnr for one in qualities), fmean(one.ssim for one in qualities))


def _described(quality: Quality) -> dict[str, float | None]:
    return {"psnr": quality.psnr if math.isfinite(quality.psnr) else None, "ssim": quality.ssim}
