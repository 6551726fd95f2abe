"""HEIC by pillow-heif, where the extra `heif` is installed: its wheels bring x265, which is GPL."""

from functools import cache
from importlib import import_module

from PIL import Image

from app.formats import HEIC, JPEG, ImageFormat

MISSING = "HEIC is read only where the extra heif is installed (pip install 'tvi-derain[heif]')"
"""Why HEIC is refused."""


@cache
def is_readable() -> bool:
    """Whether HEIC can be read here; makes its reader and writer known to Pillow."""
    try:
        pillow_heif = import_module("pillow_heif")
    except ImportError:
        return False
    # the pool of codecs has a thread for each core already; what is not looked at need not be read
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True


def is_writable() -> bool:
    """Whether HEIC can be written here: pillow-heif may come without an encoder."""
    return is_readable() and HEIC.pillow_names[0] in Image.SAVE


def answer_format(image_format: ImageFormat) -> ImageFormat:
    """What an image of this format goes back in where no format is asked for: the same, but JPEG for HEIC
    where that cannot be written."""
    return JPEG if image_format is HEIC and not is_writable() else image_format
