"""Every number of the architecture, as data: frozen dataclasses and the presets `paper`, `m` and `s`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

BlockKind = Literal["transformer", "convolution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorationConfig:
    """The restoration network R: an encoder-decoder of three or four levels.

    Attributes:
        block: `transformer` is Restormer's (MDTA and GDFN, CVPR 2022, section 3); `convolution` is a dense
            3x3 residual block without any statistic over the image, so that a tile equals the whole.
        stem_stride: 1 works on full resolution (convolution stem); 2 folds 2x2 pixels into channels first.
        widths: channels of each encoder level, finest first; the last is the latent. Strides double per
        level. encoder_blocks: blocks per level, the latent last, the latent's interaction block not counted.
        decoder_widths: channels of each decoder level, finest first.
        decoder_blocks: blocks per decoder level, finest first.
        refinement_blocks: blocks after the finest decoder level.
        heads: attention heads per level (transformer blocks only).
        expansion: hidden over input channels inside a block.
        cycle_spinning: once trained, the mean of what becomes of an image and of the same a pixel further
            down and to the right, at twice the cost (Coifman and Donoho, "Translation-invariant de-noising",
            1995): with strides, what is restored depends on where the grid of positions lies.
    """

    block: BlockKind
    stem_stride: Literal[1, 2]
    widths: tuple[int, ...]
    encoder_blocks: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    refinement_blocks: int = 0
    heads: tuple[int, ...]
    expansion: float
    cycle_spinning: bool = False

    def __post_init__(self) -> None:
        levels = len(self.widths)
        if levels < 2:
            raise ValueError("a restoration network needs at least two levels")
        if not (len(self.encoder_blocks) == len(self.heads) == levels):
            raise ValueError("widths, encoder_blocks and heads must name the same number of levels")
        if not (len(self.decoder_widths) == len(self.decoder_blocks) == levels - 1):
            raise ValueError("decoder_widths and decoder_blocks must name every level but the latent")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per position of each level, finest first."""
        return tuple(self.stem_stride * 2**level for level in range(len(self.widths)))


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionConfig:
    """The textual-visual interaction module M: one CAFI block at each of `strides`."""

    strides: tuple[int, ...] = (2, 4, 8)
    heads: tuple[int, ...] = (2, 4, 8)
    fusion_blocks: int = 1

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.heads):
            raise ValueError("one number of heads per interaction stride")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The text encoder E.

    Attributes:
        clip: an open_clip model name (`ViT-B-32`), or the folder of a compact CLIP among the weights.
        pretrained: open_clip tag or local checkpoint of `clip`; None for a folder among the weights.
        width: channels D of the projected token features.
        bottleneck: width of a TaIl adapter's bottleneck over the tower's width.
    """

    clip: str = "degradation-clip"
    pretrained: str | None = None
    width: int = 128
    bottleneck: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """TVI-Derain: R, M and E together."""

    restoration: RestorationConfig
    interaction: InteractionConfig
    text: TextConfig

    @property
    def receptive_radius(self) -> int | None:
        """Pixels to each side that a restored pixel depends on at most; None where it is the whole image."""
        r = self.restoration
        if r.block != "convolution":
            return None
        blocks = r.stem_stride * r.refinement_blocks
        for stride, encoder, decoder in zip(r.strides, r.encoder_blocks, (*r.decoder_blocks, 0), strict=True):
            fusion = self.interaction.fusion_blocks if stride in self.interaction.strides else 0
            blocks += stride * (encoder + fusion + decoder)
        # besides: stem and head, the rest of the coarsest position, and the pixel of cycle spinning
        return blocks + 2 * r.stem_stride + r.strides[-1] - 1 + r.cycle_spinning

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, as written to a checkpoint's `config.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`. Raises TypeError or ValueError on unknown, missing or inconsistent
        fields."""
        unknown = set(data) - {"restoration", "interaction", "text"}
        if unknown:
            raise ValueError(f"unknown fields in the network configuration: {', '.join(sorted(unknown))}")
        return cls(
            restoration=RestorationConfig(**_tuples(data["restoration"])),
            interaction=InteractionConfig(**_tuples(data["interaction"])),
            text=TextConfig(**data["text"]),
        )


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(cast(list[Any], value)) if isinstance(value, list) else value
        for key, value in data.items()
    }


def _of_convolutions(
    *, encoder_blocks: tuple[int, ...], decoder_blocks: tuple[int, ...], cycle_spinning: bool = False
) -> NetworkConfig:
    """The networks that are served by default."""
    return NetworkConfig(
        restoration=RestorationConfig(
            block="convolution",
            stem_stride=2,
            widths=(32, 64, 128),
            encoder_blocks=encoder_blocks,
            decoder_widths=(32, 64),
            decoder_blocks=decoder_blocks,
            heads=(1, 1, 1),
            expansion=2.0,
            cycle_spinning=cycle_spinning,
        ),
        interaction=InteractionConfig(),
        text=TextConfig(),
    )


PRESETS: dict[str, NetworkConfig] = {
    "paper": NetworkConfig(
        restoration=RestorationConfig(
            block="transformer",
            stem_stride=1,
            widths=(32, 64, 128, 256),
            encoder_blocks=(4, 6, 6, 8),
            decoder_widths=(64, 64, 128),
            decoder_blocks=(4, 6, 6),
            refinement_blocks=4,
            heads=(1, 2, 4, 8),
            expansion=2.66,
        ),
        interaction=InteractionConfig(strides=(2, 4, 8), heads=(2, 4, 8), fusion_blocks=1),
        text=TextConfig(clip="ViT-B-32", pretrained="laion2b_s34b_b79k", width=512),
    ),
    "m": _of_convolutions(encoder_blocks=(3, 2, 2), decoder_blocks=(11, 6), cycle_spinning=True),
    "s": _of_convolutions(encoder_blocks=(3, 2, 2), decoder_blocks=(5, 2)),
}
