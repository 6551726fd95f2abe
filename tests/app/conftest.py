"""Pictures and files that the tests of codecs share."""

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from app import images
from app.formats import ImageFormat
from app.image_headers import ImageLimits

LIMIT = 1_000_000


@pytest.fixture(autouse=True)
def pillow_limit() -> Iterator[None]:
    """Pillow's limit is the process's."""
    before = Image.MAX_IMAGE_PIXELS
    images.set_up_codecs(LIMIT)
    yield
    Image.MAX_IMAGE_PIXELS = before


@pytest.fixture(scope="session")
def limits() -> ImageLimits:
    return ImageLimits(LIMIT)


@pytest.fixture(scope="session")
def icc() -> bytes:
    """A colour profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="session")
def scene() -> Callable[..., Image.Image]:
    """Draws a picture without any symmetry: a gradient to the right, one downwards, and a bright corner."""

    def draw(mode: str = "RGB", width: int = 37, height: int = 22) -> Image.Image:
        y, x = np.mgrid[0:height, 0:width]
        red = 255 * x / width
        green = 255 * y / height
        blue = np.where((x < 6) & (y < 6), 255, 40)
        alpha = 255 * (x + y) / (width + height)
        rgba = Image.fromarray(np.stack([red, green, blue, alpha], axis=2).astype(np.uint8))
        return rgba.convert("L").convert("LA") if mode == "LA" else rgba.convert(mode)

    return draw


@pytest.fixture(scope="session")
def save() -> Callable[..., bytes]:
    """Writes a picture by Pillow."""

    def save(image: Image.Image, image_format: ImageFormat | str, **options: Any) -> bytes:
        buffer = BytesIO()
        name = image_format if isinstance(image_format, str) else image_format.pillow_names[0]
        image.save(buffer, format=name, **options)
        return buffer.getvalue()

    return save


@pytest.fixture(scope="session")
def reopen() -> Callable[[bytes], Image.Image]:
    """Reads a picture by Pillow."""

    def reopen(data: bytes) -> Image.Image:
        image = Image.open(BytesIO(data))
        image.load()
        return image

    return reopen
