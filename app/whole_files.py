"""Files that appear whole or not at all, whenever their writer ends."""

import os
import re
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = re.compile(r"\.derain-[0-9a-f]{8}\.part")
"""Names of files that are being written."""

DEAD_SECONDS = 60.0
"""Whoever writes a file does something to it at least so often."""


@contextmanager
def whole_file(path: Path) -> Generator[BinaryIO]:
    """A file to write to, which takes the place of `path` at the end of the context, unless that is left by
    an exception. Folders are made. Devices and pipes are written to as they are.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".derain-{secrets.token_hex(4)}.part")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file at once, see `whole_file`. Raises OSError."""
    with whole_file(path) as file:
        file.write(data)


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder."""
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        if UNFINISHED.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > DEAD_SECONDS:
            Path(entry.path).unlink(missing_ok=True)
