"""Checkpoints: verify (SHA-256), load and write them. Weights are read from safetensors only, never from
pickles."""

# open_clip and safetensors.torch come without complete types
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoint_folders import CLIP, FORMAT, NETWORK, CheckpointError, read_config, sha256
from model.config import NetworkConfig, TextConfig
from model.network import TVIDerain
from model.spelling import WORDS, Speller, SpellingTokenizer
from model.text import NoText, TextEncoder, Tokenizer

PERCEIVER = "degradation-clip"
"""The compact CLIP that perceives for networks whose own CLIP was not trained on degradations."""

VOCABULARY = "vocabulary.txt.gz"
"""The file of byte-pair merges in a compact CLIP's folder."""


@dataclass(frozen=True, slots=True)
class CompactCLIP:
    """An open_clip dual encoder with its tokenizer and the normalisation (mean, std per channel) of its
    images.
    """

    model: nn.Module
    tokenizer: Tokenizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    settings: dict[str, Any]
    """The rest of its config.json: crop size and calibration for perception."""


def read_state(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder, once their file's SHA-256 equals the one in its configuration.

    Raises:
        CheckpointError: when the file is missing, does not match, or is not safetensors.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    found = sha256(path)
    if found != config.get("sha256"):
        raise CheckpointError(f"{path} is not the file its config.json names: SHA-256 is {found}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def write_checkpoint(folder: Path, kind: str, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Writes `model.safetensors` and the `config.json` that names its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, path)
    described = {"format": FORMAT, "kind": kind, "sha256": sha256(path), **config}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def load_clip(folder: Path) -> CompactCLIP:
    """A compact CLIP from its folder, in evaluation mode. Raises CheckpointError."""
    config = read_config(folder, CLIP)
    clip = compact_clip(folder, config)
    _load_exactly(clip.model, read_state(folder, config), folder)
    return clip


def compact_clip(folder: Path, config: dict[str, Any]) -> CompactCLIP:
    """The compact CLIP of a configuration with untrained weights; its vocabulary is `vocabulary.txt.gz`
    there, and spelling is corrected where there is `words.json.gz`. Raises CheckpointError.
    """
    architecture = config["open_clip"]
    model = open_clip.CLIP(**architecture)
    merges, length = str(folder / VOCABULARY), architecture["text_cfg"]["context_length"]
    file = folder / WORDS
    try:
        speller = Speller(file) if file.is_file() else None
        file = folder / VOCABULARY
        tokenizer = (
            SimpleTokenizer(merges, context_length=length)
            if speller is None
            else SpellingTokenizer(speller, merges, length)
        )
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise CheckpointError(f"{file} is missing or damaged: {error}") from error
    if tokenizer.vocab_size != architecture["text_cfg"]["vocab_size"]:
        raise CheckpointError(f"{folder / VOCABULARY} is not the vocabulary of {folder}")
    return CompactCLIP(
        model=model.eval(),
        tokenizer=cast(Tokenizer, tokenizer),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        settings=config,
    )


def build_text_encoder(config: TextConfig, root: Path) -> TextEncoder:
    """E for a text configuration: a compact CLIP's folder under `root`, or an open_clip model by name and
    tag.

    `pretrained` is an open_clip tag, a local checkpoint file, or None for a folder under `root`.
    """
    if config.pretrained is None and (root / config.clip / "config.json").is_file():
        clip = load_clip(root / config.clip)
        tower, tokenizer = clip.model, clip.tokenizer
    else:
        if config.clip not in open_clip.list_models():
            raise CheckpointError(f"{config.clip!r} is neither a folder under {root} nor an open_clip model")
        tower = open_clip.create_model(config.clip, pretrained=config.pretrained)
        tokenizer = cast(Tokenizer, open_clip.get_tokenizer(config.clip))
    return TextEncoder(tower, tokenizer, width=config.width, bottleneck=config.bottleneck)


def build_network(config: NetworkConfig, root: Path, *, text: bool = True) -> TVIDerain:
    """R, M and E of a configuration, untrained but for the frozen text tower; without `text` the twin that
    hears nothing."""
    return TVIDerain(config, build_text_encoder(config.text, root) if text else NoText(config.text.width))


def clip_sha256(config: TextConfig, root: Path) -> str | None:
    """The SHA-256 of the compact CLIP under `root` that a text configuration names; None where it names one
    of open_clip's. Raises CheckpointError."""
    return None if config.pretrained is not None else read_config(root / config.clip, CLIP)["sha256"]


def learned_state(network: TVIDerain) -> dict[str, Tensor]:
    """What a checkpoint holds: everything but the frozen text tower, which its own checkpoint holds."""
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("text.")}
    if network.text is not None:
        state |= {f"text.{k}": v for k, v in network.text.learned_state().items()}
    return state


def load_network(folder: Path, config: dict[str, Any]) -> TVIDerain:
    """The network of a checkpoint folder, in evaluation mode. Raises CheckpointError."""
    try:
        architecture = NetworkConfig.from_dict(config["network"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a network: {error}") from error
    expected = config.get("clip_sha256")
    if expected is not None:
        given = read_config(folder.parent / architecture.text.clip, CLIP).get("sha256")
        if given != expected:
            raise CheckpointError(
                f"{folder} was trained with another {architecture.text.clip} than the one beside it"
            )
    network = build_network(architecture, folder.parent, text=config.get("text", True))
    state = read_state(folder, config)
    wanted = set(learned_state(network))
    if set(state) != wanted:
        odd = ", ".join(sorted(wanted ^ set(state))[:3])
        raise CheckpointError(f"{folder} does not fit its configuration, for example in {odd}")
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not fit its configuration: {error}") from error
    return network.eval()


def _load_exactly(model: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not fit its configuration: {error}") from error


def parameter_count(network: TVIDerain) -> int:
    """Parameters of R, M and the learned part of E; the frozen text tower is not counted."""
    return sum(p.numel() for p in learned_state(network).values())


def export_network(
    folder: Path,
    network: TVIDerain,
    *,
    weights: Path,
    description: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Writes a trained network as a checkpoint folder; `half` of the bytes, by float16, change no pixel by
    more than 1/255.
    """
    text = network.config.text
    config: dict[str, Any] = {"network": network.config.to_dict(), **(description or {})}
    if isinstance(network.text, NoText):
        config |= {"text": False, "perception": PERCEIVER}
    elif text.pretrained is not None:
        config["perception"] = PERCEIVER
    else:
        config["clip_sha256"] = clip_sha256(text, weights)
    with torch.no_grad():
        state = learned_state(network)
        if half:
            state = {name: tensor.half() for name, tensor in state.items()}
        write_checkpoint(folder, NETWORK, state, config)
