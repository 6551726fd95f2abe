"""Photographs side by side with what they are called, and how near each comes to a reference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from app.formats import ImageFormat
from app.images import Photograph, eight_bits, encode
from app.metadata import Metadata
from model import metrics

GAP = 8
"""Pixels between pictures, and around all of them."""

FONT_SHARE, SMALLEST_FONT = 40, 14
"""The height of letters is this part of that of the pictures, and at least so many pixels."""

INK, PAPER = "black", "white"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How near a photograph comes to its reference, on the Y channel: `psnr` in decibels, infinite where
    nothing differs, and `ssim` from -1 to 1."""

    psnr: float
    ssim: float


@dataclass(frozen=True, slots=True)
class Panel:
    """A photograph and what is written under it."""

    photograph: Photograph
    label: str
    fidelity: Fidelity | None = None


def fidelity(photograph: Photograph, reference: Photograph) -> Fidelity:
    """PSNR and SSIM as benchmarks of deraining report them. Samples of 16 bits are rounded to 8 before.

    Raises:
        ValueError: two sizes, or a side of less than 11 pixels.
    """
    image, clean = _pixels(photograph), _pixels(reference)
    return Fidelity(metrics.psnr(image, clean), metrics.ssim(image, clean))


def compose(panels: Sequence[Panel], image_format: ImageFormat) -> bytes:
    """A file with the photographs side by side, unscaled, each with its label under it.

    Where all have one colour profile, the file has it too.

    Raises:
        UnencodableImageError: the format cannot hold a picture that large.
    """
    pictures = [Image.fromarray(_pixels(panel.photograph).permute(1, 2, 0).numpy()) for panel in panels]
    labels = [_label(panel) for panel in panels]
    height = max(picture.height for picture in pictures)
    font = ImageFont.load_default(max(SMALLEST_FONT, height // FONT_SHARE))
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [draw.multiline_textbbox((0, 0), label, font=font) for label in labels]
    widths = [max(picture.width, round(box[2])) for picture, box in zip(pictures, boxes, strict=True)]
    label_height = round(max(box[3] for box in boxes))
    size = sum(widths) + GAP * (len(panels) + 1), height + label_height + 3 * GAP
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    left = GAP
    for picture, label, width in zip(pictures, labels, widths, strict=True):
        sheet.paste(picture, (left, GAP))
        draw.multiline_text((left, height + 2 * GAP), label, fill=INK, font=font)
        left += width + GAP
    profiles = {panel.photograph.icc_profile for panel in panels}
    return encode(
        Photograph(
            pixels=torch.as_tensor(np.array(sheet)).permute(2, 0, 1),
            alpha=None,
            greyscale=False,
            lossless=True,
            icc_profile=profiles.pop() if len(profiles) == 1 else None,
            metadata=Metadata(),
            image_format=image_format,
        ),
        image_format,
    )


def _label(panel: Panel) -> str:
    if panel.fidelity is None:
        return panel.label
    return f"{panel.label}\n{panel.fidelity.psnr:.2f} dB  SSIM {panel.fidelity.ssim:.3f}"


def _pixels(photograph: Photograph) -> Tensor:
    """uint8 (3, H, W)."""
    return torch.as_tensor(eight_bits(photograph.pixels.numpy()))
