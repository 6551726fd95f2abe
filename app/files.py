"""Photographs on disk, restored in batches: which files, what prompts, written where. No HTTP."""

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from app import heic
from app.formats import FORMATS, HEIC, ImageError, ImageFormat, UnencodableImageError
from app.image_headers import ImageLimits
from app.images import Photograph, check_fits, decode, encode
from model.prompts import Prompt
from model.restorer import Restorer

SUFFIXES = {suffix: name for name, image_format in FORMATS.items() for suffix in image_format.suffixes}
"""Names of formats by file name ending, lower case: the files of a folder that are taken."""

CPU_BATCH_PIXELS = 512 * 512
ACCELERATOR_BATCH_PIXELS = 8 * 1024 * 1024
"""Padded pixels in one batch; a CPU gains nothing from larger ones."""

WAITING_BATCHES = 4
"""Photographs that do not fill a batch wait for others of their size, so many batches of them at most."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file to restore. `relative` is its place below the output folder, as below the folder named."""

    path: Path
    relative: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file.

    Attributes:
        path: the input.
        destination: the restored file; None when it failed.
        prompt: the degradation prompt used; None when it failed before.
        error: why it failed; None when it did not.
    """

    path: Path
    destination: Path | None = None
    prompt: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for.

    Attributes:
        output: the folder of restored files; the file itself where `single`.
        single: there is one input, and `output` names a file.
        prompt: the degradation prompt; None: perceived for each photograph.
        caption: the semantic prompt; None: none.
        image_format: of restored files; None: that of each input.
        overwrite: replace files that exist.
        keep_metadata: put EXIF, XMP and comments into restored files.
        limits: the largest photograph taken.
    """

    output: Path
    single: bool = False
    prompt: str | None = None
    caption: str | None = None
    image_format: ImageFormat | None = None
    overwrite: bool = False
    keep_metadata: bool = True
    limits: ImageLimits


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A photograph that is ready for the network."""

    path: Path
    destination: Path
    photograph: Photograph
    image_format: ImageFormat
    prompt: Prompt


class FileError(Exception):
    """A file that cannot be read or may not be written; the message is meant for whoever named it."""


def find_inputs(paths: Iterable[Path]) -> list[Input]:
    """Files as they are named, and the images of folders and their subfolders, sorted, hidden ones left out.

    Raises:
        FileError: a path does not exist, or a folder holds no image.
    """
    inputs: list[Input] = []
    for path in paths:
        if path.is_dir():
            found = [
                Input(file, file.relative_to(path))
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in SUFFIXES and file.is_file() and not _hidden(file.relative_to(path))
            ]
            if not found:
                raise FileError(f"{path} holds no image")
            inputs += found
        elif path.exists():
            inputs.append(Input(path, Path(path.name)))
        else:
            raise FileError(f"{path} does not exist")
    return inputs


def read(path: Path, limits: ImageLimits) -> Photograph:
    """A photograph from a file.

    Raises:
        FileError: it cannot be read.
        ImageError: it is not an image that is taken.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(error.strerror or str(error)) from error
    return decode(data, limits)


def destination(order: Order, source: Input, image_format: ImageFormat) -> Path:
    """Where a restored file goes: named like its source, with an ending that suits the format."""
    if order.single:
        return order.output
    place = order.output / source.relative
    if SUFFIXES.get(place.suffix.lower()) == image_format.name:
        return place
    return place.with_name(f"{place.stem}.{image_format.extension}")


def restore_files(restorer: Restorer, inputs: Sequence[Input], order: Order) -> Iterator[Outcome]:
    """Restore files in batches of one padded size; each gives one outcome, as soon as it is known.

    Files are decoded ahead and written behind in a pool of threads, while the calling thread keeps the device
    busy. A file that fails does not stop the others.
    """
    batch_pixels = CPU_BATCH_PIXELS if restorer.device.type == "cpu" else ACCELERATOR_BATCH_PIXELS
    claimed: dict[Path, Path] = {}
    waiting: dict[tuple[int, int], list[_Loaded]] = {}
    writing: deque[Future[Outcome]] = deque()
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="codec") as pool:

        def flush(key: tuple[int, int]) -> Iterator[Outcome]:
            for loaded, restored in _restore(restorer, waiting.pop(key)):
                if isinstance(restored, Outcome):
                    yield restored
                else:
                    writing.append(pool.submit(_write, restored, loaded))
            while len(writing) > WAITING_BATCHES:
                yield writing.popleft().result()

        for loaded in _ahead(pool, lambda source: _load(restorer, source, order), inputs):
            if isinstance(loaded, Outcome):
                yield loaded
                continue
            target = loaded.destination.resolve()
            if target in claimed:
                error = f"{loaded.destination} is already the result of {claimed[target]}"
                yield Outcome(loaded.path, prompt=loaded.prompt.degradation, error=error)
                continue
            claimed[target] = loaded.path
            key = restorer.padded_size(loaded.photograph.height, loaded.photograph.width)
            waiting.setdefault(key, []).append(loaded)
            if (len(waiting[key]) + 1) * key[0] * key[1] > batch_pixels:
                yield from flush(key)
            elif sum(len(batch) * height * width for (height, width), batch in waiting.items()) > (
                WAITING_BATCHES * batch_pixels
            ):
                yield from flush(max(waiting, key=lambda key: len(waiting[key]) * key[0] * key[1]))
        for key in list(waiting):
            yield from flush(key)
        while writing:
            yield writing.popleft().result()


def _ahead(
    pool: ThreadPoolExecutor, load: Callable[[Input], "_Loaded | Outcome"], inputs: Sequence[Input]
) -> Iterator["_Loaded | Outcome"]:
    """`map(load, inputs)` in the pool, only a few files ahead of whoever iterates."""
    ahead = 2 * (os.cpu_count() or 1)
    running: deque[Future[_Loaded | Outcome]] = deque()
    for source in inputs:
        running.append(pool.submit(load, source))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _load(restorer: Restorer, source: Input, order: Order) -> "_Loaded | Outcome":
    try:
        photograph = read(source.path, order.limits)
        if not order.keep_metadata:
            photograph = photograph.without_metadata()
        image_format = order.image_format or heic.answer_format(photograph.image_format)
        if image_format is HEIC and not heic.is_writable():
            raise UnencodableImageError("HEIC cannot be written here")
        check_fits(photograph, image_format)
        target = destination(order, source, image_format)
        if target.exists() and not order.overwrite:
            raise FileError(f"{target} exists; --overwrite replaces it")
        prompt = order.prompt or restorer.perceive(photograph.pixels).prompt
    except (FileError, ImageError) as error:
        return Outcome(source.path, error=str(error))
    return _Loaded(source.path, target, photograph, image_format, Prompt(prompt, order.caption))


def _restore(
    restorer: Restorer, batch: Sequence[_Loaded]
) -> Iterator[tuple[_Loaded, "torch.Tensor | Outcome"]]:
    """Restore a batch; when that fails, its halves, so that only the file that is to blame fails."""
    try:
        images = restorer.restore(
            [loaded.photograph.pixels for loaded in batch], [loaded.prompt for loaded in batch]
        )
    except Exception as error:
        if len(batch) > 1:
            middle = len(batch) // 2
            yield from _restore(restorer, batch[:middle])
            yield from _restore(restorer, batch[middle:])
        else:
            [loaded] = batch
            failed = Outcome(
                loaded.path, prompt=loaded.prompt.degradation, error=f"the network failed: {error}"
            )
            yield loaded, failed
        return
    yield from zip(batch, images, strict=True)


def _write(restored: torch.Tensor, loaded: _Loaded) -> Outcome:
    """Encode and write; the file appears whole or not at all."""
    prompt = loaded.prompt.degradation
    try:
        data = encode(loaded.photograph.with_pixels(restored), loaded.image_format)
        write_whole(loaded.destination, data)
    except (ImageError, OSError) as error:
        return Outcome(loaded.path, prompt=prompt, error=f"cannot write {loaded.destination}: {error}")
    return Outcome(loaded.path, destination=loaded.destination, prompt=prompt)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all; folders are made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def format_of(path: Path) -> ImageFormat | None:
    """The format that a file name's ending stands for; None when it stands for none."""
    name = SUFFIXES.get(path.suffix.lower())
    return None if name is None else FORMATS[name]
