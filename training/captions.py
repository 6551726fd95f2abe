"""Semantic prompts of paired sets: from a CSV, or from a captioner, which sees the rainy images alone."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from model.captioner import Captioner
from training.pairs import Pair, PairedSet
from training.scenes import DataError

COLUMNS = ("file", "caption")


def read_captions(path: Path) -> dict[str, str]:
    """Captions from a CSV with the columns `file` and `caption`, by the file's name without its suffix, and
    where a folder is named before it (`rain_data_train_Heavy/norain-1x2.png`) by both as well. Blank ones
    stay blank.

    Raises:
        DataError: a file that cannot be read or lacks a column.
    """
    captions: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not set(COLUMNS) <= set(rows.fieldnames or ()):
                raise DataError(f"{path} has no columns 'file' and 'caption'")
            for row in rows:
                image, caption = Path(row["file"] or ""), (row["caption"] or "").strip()
                captions[image.stem] = caption
                if image.parent.name:
                    captions[f"{image.parent.name}/{image.stem}"] = caption
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return captions


def caption_of(captions: Mapping[str, str], found: PairedSet, pair: Pair) -> str | None:
    """The caption of a pair by the name of its rainy image, with that of its set before it or alone; None
    where there is none, or a blank one.
    """
    return captions.get(f"{found.name}/{pair.name}") or captions.get(pair.name) or None


@dataclass(frozen=True, slots=True)
class SemanticPrompts:
    """Where the semantic prompts of measured pairs come from: given captions, else a captioner, else
    nowhere.
    """

    given: Mapping[str, str]
    captioner: Captioner | None = None

    def of(self, found: PairedSet, pair: Pair, rainy: Tensor) -> str | None:
        """What the rainy image, uint8 (3, H, W), of a pair shows. Raises CheckpointError."""
        caption = caption_of(self.given, found, pair)
        if caption is None and self.captioner is not None:
            return self.captioner.caption(rainy)
        return caption


def caption_pairs(
    sets: Sequence[PairedSet],
    captioner: Captioner,
    path: Path,
    *,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Captions of the rainy images of all pairs, kept in a CSV: what it holds is not written again, and what
    was interrupted goes on.

    Returns:
        What `read_captions` reads from the file once it is complete.

    Raises:
        CheckpointError: the captioner's weights cannot be had.
        DataError: an image or the file cannot be read.
    """
    if not path.exists():
        header = path.with_suffix(".tmp")
        header.write_text(",".join(COLUMNS) + "\r\n", encoding="utf-8")
        header.replace(path)
    known = read_captions(path)
    with path.open("a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        for found in sets:
            for pair in found.pairs:
                if f"{found.name}/{pair.name}" not in known:
                    name = f"{found.name}/{pair.rainy.path.name}"
                    rows.writerow((name, captioner.caption(pair.rainy.read())))
                    file.flush()
                progress()
    return read_captions(path)


def await_captions(sets: Sequence[PairedSet], path: Path, *, every: float = 1.0) -> dict[str, str]:
    """What `caption_pairs` writes in another process, once it is complete; looked for every so many
    seconds.
    """
    wanted = {f"{found.name}/{pair.name}" for found in sets for pair in found.pairs}
    while True:
        if path.exists() and wanted <= (captions := read_captions(path)).keys():
            return captions
        time.sleep(every)
