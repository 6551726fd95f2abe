"""What a picture shows: the image-to-text mapper F, an open_clip CoCa model that writes a sentence."""

# open_clip comes without complete types
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from model.checkpoint_folders import CheckpointError
from model.depth import to_uint8

DEFAULT = "coca_ViT-B-32"
"""The model of a source that names a tag or a file only."""

SCHEMES = ("local-dir:", "hf-hub:")
"""Beginnings of open_clip's names that say where configuration and weights are, so that neither tag nor file
is needed."""

LONGEST, SHORTEST = 30, 5
"""Tokens of a sentence, the first and the last included: the defaults of open_clip's `CoCa.generate`."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Any


class Captioner:
    """`(3, H, W) -> str`: CoCa (Yu et al., TMLR 2022), always the likeliest next word.

    Weights are read at the first caption, or by `load`, by open_clip's own rules: safetensors, or a pickle of
    tensors alone. May be called by several threads; they take turns.

    `CoCa.generate` itself needs the package transformers. Words are drawn here as it draws them with
    `generation_type="top_k", top_k=1`, which leaves nothing to chance.
    """

    def __init__(self, name: str = DEFAULT, pretrained: str | None = None, device: str = "auto") -> None:
        """
        Args:
            name: an open_clip CoCa model, or `local-dir:FOLDER` or `hf-hub:OWNER/NAME`, which bring their
                weights.
            pretrained: open_clip's tag or a local checkpoint file, where `name` does not bring them.
            device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

        Raises:
            CheckpointError: no such model, tag or file.
        """
        self.name, self.pretrained = name, pretrained
        self.device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        self._loaded: _Loaded | None = None
        self._lock = threading.RLock()
        if name.startswith(SCHEMES):
            if pretrained is not None:
                raise CheckpointError(f"{name!r} brings its own weights: {pretrained!r} has no place")
            return
        if name not in open_clip.list_models():
            raise CheckpointError(f"{name!r} is not an open_clip model")
        tags = cast(list[str], open_clip.list_pretrained_tags_by_model(name))
        if pretrained is None or not (pretrained in tags or Path(pretrained).is_file()):
            raise CheckpointError(
                f"{pretrained!r} is neither a file nor one of {name}'s tags ({', '.join(tags) or 'none'})"
            )

    @classmethod
    def from_source(cls, source: str, device: str = "auto") -> Captioner:
        """The captioner that one word names: a tag or a file of `coca_ViT-B-32`, `MODEL:` and a tag or a file
        of that, `local-dir:FOLDER` or `hf-hub:OWNER/NAME`. Raises CheckpointError.
        """
        if source.startswith(SCHEMES):
            return cls(source, device=device)
        name, colon, pretrained = source.partition(":")
        if colon and name in open_clip.list_models():
            return cls(name, pretrained, device)
        return cls(DEFAULT, source, device)

    def load(self) -> None:
        """Reads the weights, unless that was done before. Raises CheckpointError."""
        self._load()

    def caption(self, image: Tensor) -> str:
        """What an image shows: (3, H, W) on the CPU -> a sentence, empty where the model says nothing.

        Raises:
            CheckpointError: the weights cannot be had.
        """
        words = self.words(image)
        said: str = self._load().tokenizer.decode(words)
        return " ".join(said.split())

    def words(self, image: Tensor) -> list[int]:
        """The token ids of the caption, without those of beginning and end."""
        with self._lock, torch.inference_mode():
            loaded = self._load()
            picture = Image.fromarray(to_uint8(image).permute(1, 2, 0).numpy())
            pixels = loaded.preprocess(picture)[None].to(self.device)
            return self._likeliest(loaded, pixels)

    def _likeliest(self, loaded: _Loaded, pixels: Tensor) -> list[int]:
        """The ids for normalised pixels (1, 3, C, C)."""
        model, tokenizer = loaded.model, loaded.tokenizer
        latent, features = model._encode_image(pixels)
        ids: list[int] = [tokenizer.sot_token_id]
        while len(ids) < LONGEST - 1:
            text = torch.tensor([ids], device=self.device)
            said = model(pixels, text, image_latent=latent, image_embs=features, output_labels=False)
            scores: Tensor = said["logits"][0, -1]
            if len(ids) < SHORTEST:
                scores[tokenizer.eot_token_id] = -torch.inf
            word = int(scores.argmax())
            if word in (tokenizer.eot_token_id, model.pad_id):
                break
            ids.append(word)
        return ids[1:]

    def _load(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> _Loaded:
        try:
            model: Any = open_clip.create_model(
                self.name, self.pretrained, device=self.device, require_pretrained=True
            )
            tokenizer = open_clip.get_tokenizer(self.name)
        except Exception as error:
            raise CheckpointError(f"the captioner {self.name} cannot be loaded: {error}") from error
        if not isinstance(model, open_clip.CoCa):
            raise CheckpointError(f"{self.name} writes no captions: it is not a CoCa model")
        preprocess = image_transform_v2(PreprocessCfg(**cast(Any, model.visual).preprocess_cfg), False)
        return _Loaded(model.eval(), cast(Any, preprocess), tokenizer)
