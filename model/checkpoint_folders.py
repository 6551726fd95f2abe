"""Folders of checkpoints: which there are, and what their configurations say. Quick to import: torch waits
until weights are loaded (`model.weights`)."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, cast

FORMAT = 1
NETWORK, CLIP = "tvi-derain", "clip"
"""Values of `kind` in a checkpoint's config.json."""


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, of another format, or not of its configuration's shape."""


def default_weights_dir() -> Path:
    """`DERAIN_WEIGHTS_DIR`, or the folder `weights` beside the package."""
    given = os.environ.get("DERAIN_WEIGHTS_DIR")
    return Path(given) if given else Path(__file__).resolve().parent.parent / "weights"


def available(root: Path) -> list[str]:
    """Names of the restoration checkpoints under `root`, sorted; whatever else lies there is passed over."""
    if not root.is_dir():
        return []
    names: list[str] = []
    for folder in sorted(root.iterdir()):
        try:
            read_config(folder, NETWORK)
        except CheckpointError:
            continue
        names.append(folder.name)
    return names


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """The `config.json` of a checkpoint folder. Raises CheckpointError unless it is of this kind and
    format."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint in {folder}: config.json is missing")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:  # not UTF-8, or not JSON
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not hold an object")
    config = cast(dict[str, Any], config)
    if config.get("format") != FORMAT or config.get("kind") != kind:
        raise CheckpointError(f"{path} is not a {kind} checkpoint of format {FORMAT}")
    return config
