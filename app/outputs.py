"""Where results go, decided before any work begins. No network and no torch: a wrong call is told at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app import heic
from app.formats import FORMATS, ImageError, ImageFormat, sniff
from app.image_headers import ImageLimits, read_header
from app.inputs import PIPE, SUFFIXES, Input, reason

HEAD_BYTES = 256
"""First bytes of a file that tell its format."""


@dataclass(frozen=True, slots=True)
class Task:
    """A file to restore, where to, and in which format; None: as it comes."""

    path: Path
    destination: Path
    image_format: ImageFormat | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An input of which nothing can be made, and why."""

    path: Path
    error: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; what is done already, as its result exists; and what never can be."""

    ready: list[Task]
    existing: list[Task]
    unreadable: list[Unreadable]


class OutputError(Exception):
    """Results cannot go where they should; the message is meant for whoever said where."""


def format_of(path: Path) -> ImageFormat | None:
    """The format that a file name's ending stands for; None when it stands for none."""
    name = SUFFIXES.get(path.suffix.lower())
    return None if name is None else FORMATS[name]


def plan(
    inputs: Sequence[Input], output: Path, image_format: ImageFormat | None = None, *, overwrite: bool = False
) -> Plan:
    """Decide where each result goes: below the folder `output`, in the place and with the name that its
    source has below its own, and an ending that suits the format.

    For a single input `output` may be a file, whose ending tells the format where none is asked for, or
    `PIPE`.

    Raises:
        OutputError: two results would be one file, or a result would replace an input.
    """
    tasks: list[Task] = []
    unreadable: list[Unreadable] = []
    if output == PIPE or not (output.is_dir() or (format_of(output) is None and not output.exists())):
        if len(inputs) > 1:
            raise OutputError(f"{output} is not a folder, and there are {len(inputs)} images")
        [source] = inputs
        tasks.append(Task(source.path, output, image_format or format_of(output)))
    else:
        for source in inputs:
            try:
                written = image_format or _came_in(source.path)
            except (OSError, ImageError) as error:
                unreadable.append(Unreadable(source.path, reason(error)))
            else:
                tasks.append(Task(source.path, _named(output / source.relative, written), written))
    _check_apart(tasks, overwrite=overwrite)
    existing = [] if overwrite else [task for task in tasks if task.destination.is_file()]
    done = {task.destination for task in existing}
    return Plan([task for task in tasks if task.destination not in done], existing, unreadable)


def _came_in(path: Path) -> ImageFormat:
    """What a file goes back in. Raises OSError, and UnsupportedFormatError."""
    if path == PIPE:
        raise OutputError("what comes through a pipe has no name: --output must be a file, or -")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    found = sniff(head)
    if found is None:  # this says why
        found = read_header(head, ImageLimits(0)).image_format
    return heic.answer_format(found)


def _named(path: Path, image_format: ImageFormat) -> Path:
    named = format_of(path)
    if named is image_format:
        return path
    return path.with_name(f"{path.name if named is None else path.stem}.{image_format.extension}")


def _check_apart(tasks: Sequence[Task], *, overwrite: bool) -> None:
    sources = {task.path.resolve(): task.path for task in tasks if task.path != PIPE}
    claimed: dict[Path, Path] = {}
    for task in tasks:
        if task.destination == PIPE:
            continue
        target = task.destination.resolve()
        if target in claimed:
            raise OutputError(f"{claimed[target]} and {task.path} would both become {task.destination}")
        claimed[target] = task.path
        replaced = sources.get(target)
        if replaced is None:
            continue
        if replaced != task.path:
            raise OutputError(f"{task.path} would replace {replaced}, which is to be restored as well")
        if not overwrite:
            raise OutputError(f"{task.path} would be replaced by its own result: --overwrite allows that")
