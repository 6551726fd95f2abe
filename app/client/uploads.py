"""Images on their way to the service, from whatever they are in; files are sent piece by piece."""

import os
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Self, TypeAlias, TypeGuard, Union, cast

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource: TypeAlias = Union[str, os.PathLike[str], bytes, bytearray, memoryview, IO[bytes], "Image"]
"""A path; the bytes of a file; a binary file, sent from its beginning; a Pillow image, sent as PNG."""

SPOOLED_BYTES = 16 * 1024 * 1024
"""Of a pipe, which cannot be read twice, so many are kept in memory, and the others on disk."""

PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


class Upload:
    """An open image: a seekable file with a name, closed with the context unless it is somebody else's.

    Raises:
        OSError: it cannot be read.
        TypeError: it is none.
    """

    def __init__(self, image: ImageSource) -> None:
        self.name = "image"
        self._owned = True
        if isinstance(image, str | os.PathLike):
            path = Path(image)
            self.name = path.name
            self.file: IO[bytes] = path.open("rb")
        elif isinstance(image, bytes | bytearray | memoryview):
            self.file = BytesIO(image)
        elif _is_pillow(image):
            self.file = _png(image)
        elif hasattr(image, "read"):
            file = cast(IO[bytes], image)
            self._owned = not file.seekable()
            self.file = _spool(file) if self._owned else file
        else:
            raise TypeError(f"an image is a path, bytes, a binary file or a Pillow image, not {type(image)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self.file.close()


class Watched:
    """A file for httpx, which asks before every piece whether there is time for it."""

    def __init__(self, file: IO[bytes], check: Callable[[], object]) -> None:
        self._file = file
        self._check = check
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """The next piece."""
        self._check()
        return self._file.read(size)


def _is_pillow(image: object) -> "TypeGuard[Image]":
    """Without importing Pillow: where there is an image, it has been imported."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _png(image: "Image") -> BytesIO:
    file = BytesIO()
    picture = image if image.mode in PNG_MODES else image.convert("RGB")
    profile = image.info.get("icc_profile") if picture is image else None
    picture.save(file, "PNG", compress_level=1, exif=image.getexif(), icc_profile=profile)
    return file


def _spool(pipe: IO[bytes]) -> IO[bytes]:
    file = SpooledTemporaryFile[bytes](SPOOLED_BYTES)
    shutil.copyfileobj(pipe, file)
    return file
