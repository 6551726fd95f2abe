"""Which restoration checkpoints there are, and which one is meant when none is named. Quick: torch is asked
only where there may be a GPU."""

import math
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from model.checkpoint_folders import NETWORK, CheckpointError, read_config, sha256

DEFAULT_MODELS = {"cpu": "tvi-derain-s", "cuda": "tvi-derain-m"}
"""The default model by type of device, where it is there."""

GPU_FILES = tuple(Path("/dev", name) for name in ("nvidiactl", "nvmap", "kfd", "dxg"))
"""Linux has one of these wherever torch finds a GPU: NVIDIA's, that of its boards, AMD's, and that of WSL."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What can be told of a checkpoint without loading it.

    Attributes:
        parameters: trained parameters, those of the frozen text tower not counted; 0 where a damaged file
            does not tell.
        bytes: of the weights file.
        text: the text tower, an open_clip model or a checkpoint beside this one; `none` of the twin without.
        sha256: of the weights file, hexadecimal.
        intact: whether that is the hash which its configuration names.
    """

    name: str
    parameters: int
    bytes: int
    text: str
    sha256: str
    intact: bool


def default_model(names: Collection[str], device: str, wanted: str | None = None) -> str:
    """The model of a request that names none.

    Args:
        names: the checkpoints to choose from.
        device: its type, `cpu` or `cuda`.
        wanted: what the settings say.

    Raises:
        CheckpointError: `wanted` is not among them, or there are none.
    """
    if not names:
        raise CheckpointError("there is no restoration checkpoint")
    name = wanted or DEFAULT_MODELS.get(device, "")
    if name in names:
        return name
    if wanted:
        raise CheckpointError(f"the default model {wanted!r} is not among {', '.join(sorted(names))}")
    return min(names)


def device_type(device: str) -> str:
    """The type of the device that a setting such as `auto` or `cuda:1` stands for."""
    if device != "auto":
        return device.partition(":")[0]
    if sys.platform == "linux" and not any(file.exists() for file in GPU_FILES):
        return "cpu"  # seconds before torch could have said so
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def inspect(folder: Path) -> Checkpoint:
    """Look at a checkpoint without loading it.

    Raises:
        CheckpointError: it is not one, or its weights are missing.
    """
    config = read_config(folder, NETWORK)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    found = sha256(path)
    parameters = 0
    with suppress(SafetensorError), cast(Any, safe_open)(path, framework="np") as tensors:
        parameters = sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return Checkpoint(
        name=folder.name,
        parameters=parameters,
        bytes=path.stat().st_size,
        text=str(config.get("network", {}).get("text", {}).get("clip", "unknown"))
        if config.get("text", True)
        else "none",
        sha256=found,
        intact=found == config.get("sha256"),
    )
