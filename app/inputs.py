"""Which files a command takes: those named, those of folders, and those that patterns match."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from app.formats import FORMATS

SUFFIXES = {suffix: name for name, image_format in FORMATS.items() for suffix in image_format.suffixes}
"""Names of formats by file name ending, lower case: the files of folders and patterns that are taken."""

PIPE = Path("-")
"""Standard input, or standard output."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file. `relative` is its place below the folder named, or below the part of a pattern that is none."""

    path: Path
    relative: Path


class InputError(Exception):
    """There are no such files; the message is meant for whoever named them."""


def find_inputs(named: Iterable[str], *, but_not_below: Path | None = None) -> list[Input]:
    """Files as they are named, whatever they are called, and the images of folders and of patterns (`*`, `?`,
    `[...]`, `**` for any folders), sorted, hidden ones left out. Each is taken once. `-` is `PIPE`.

    Args:
        but_not_below: a folder of results; what a folder or a pattern finds in it is left out.

    Raises:
        InputError: something named does not exist, holds no image or matches none.
    """
    found: dict[Input, None] = {}
    for name in named:
        path = Path(name)
        if name == str(PIPE):
            inputs = [Input(PIPE, Path("stdin"))]
        elif path.is_dir():
            inputs = _below(path, "**/*", but_not_below)
            if not inputs:
                raise InputError(f"{path} holds no image")
        elif path.exists():
            inputs = [Input(path, Path(path.name))]
        elif _is_pattern(name):
            root, pattern = _split(name)
            inputs = _below(root, pattern, but_not_below)
            if not inputs:
                raise InputError(f"{name} matches no image")
        else:
            raise InputError(f"{path} does not exist")
        found |= dict.fromkeys(inputs)
    return list(found)


def read(path: Path) -> bytes:
    """The bytes of a file, or of standard input. Raises OSError."""
    return sys.stdin.buffer.read() if path == PIPE else path.read_bytes()


def reason(error: Exception) -> str:
    """One line on why a file failed."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0] or type(error).__name__


def _below(root: Path, pattern: str, but_not_below: Path | None) -> list[Input]:
    """The images under `root` that a pattern matches, and those in folders that it matches."""
    try:
        matched = list(root.glob(pattern))
    except ValueError as error:
        raise InputError(f"{root / pattern}: {error}") from None
    files: set[Path] = set()
    for path in matched:
        files |= set(path.rglob("*")) if path.is_dir() and pattern != "**/*" else {path}
    top, results = root.resolve(), but_not_below and but_not_below.resolve()
    wants_hidden = any(part.startswith(".") for part in Path(pattern).parts)
    inputs: list[Input] = []
    for file in sorted(files):
        relative = file.relative_to(root)
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        if not wants_hidden and any(part.startswith(".") for part in relative.parts):
            continue
        if results is not None and top in results.parents and results in (top / relative).parents:
            continue
        inputs.append(Input(file, relative))
    return inputs


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _split(name: str) -> tuple[Path, str]:
    """The folder that a pattern begins with, and the rest."""
    parts = Path(name).expanduser().parts
    fixed = list(takewhile(lambda part: not _is_pattern(part), parts))
    rest = parts[len(fixed) :]
    if ".." in rest:
        raise InputError(f"{name}: no pattern goes before ..")
    return Path(*fixed), "/".join(rest)
