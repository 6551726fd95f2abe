"""Pictures and files that the tests of codecs share."""

from collections.abc import Callable, Iterator

import pytest
from PIL import Image, ImageCms

from app import images
from app.image_headers import ImageLimits
from tests.app import pictures

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
    return pictures.scene


@pytest.fixture(scope="session")
def save() -> Callable[..., bytes]:
    return pictures.save


@pytest.fixture(scope="session")
def reopen() -> Callable[[bytes], Image.Image]:
    return pictures.reopen
