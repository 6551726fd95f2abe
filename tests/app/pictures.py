"""Pictures that the tests of codecs share, and Pillow's side of writing and reading them."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from app.formats import ImageFormat


def scene(mode: str = "RGB", width: int = 37, height: int = 22) -> Image.Image:
    """A picture without any symmetry: a gradient to the right, one downwards, and a bright corner."""
    y, x = np.mgrid[0:height, 0:width]
    red = 255 * x / width
    green = 255 * y / height
    blue = np.where((x < 6) & (y < 6), 255, 40)
    alpha = 255 * (x + y) / (width + height)
    rgba = Image.fromarray(np.stack([red, green, blue, alpha], axis=2).astype(np.uint8))
    return rgba.convert("L").convert("LA") if mode == "LA" else rgba.convert(mode)


def save(image: Image.Image, image_format: ImageFormat | str, **options: Any) -> bytes:
    """Written by Pillow."""
    buffer = BytesIO()
    name = image_format if isinstance(image_format, str) else image_format.pillow_names[0]
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def reopen(data: bytes) -> Image.Image:
    """Read by Pillow."""
    image = Image.open(BytesIO(data))
    image.load()
    return image
