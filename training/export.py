"""From a run's last checkpoint to a folder of weights: averaged parameters, configuration, model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from model.config import NetworkConfig
from model.weights import build_network, export_network, parameter_count
from training.train import check_clip, load_averaged


def export_run(run: Path, folder: Path, *, weights: Path, half: bool = False) -> int:
    """Writes the averaged weights of a run as a checkpoint folder; an existing model card is left alone.

    Args:
        run: the folder with `last.pt` and `config.json`.
        folder: the checkpoint folder to write, for example `weights/tvi-derain-s`.
        weights: where the compact CLIP is that the run was trained with.
        half: write float16.

    Returns:
        The number of parameters written.

    Raises:
        CheckpointError: that is another one.
    """
    saved: dict[str, Any] = torch.load(run / "last.pt", map_location="cpu", weights_only=True)
    architecture = NetworkConfig.from_dict(saved["architecture"])
    check_clip(saved, architecture.text, weights)
    network = build_network(architecture, weights, text=saved["text"])
    load_averaged(network, saved)
    settings = json.loads((run / "config.json").read_text())
    description = {
        "training": {k: v for k, v in settings.items() if k not in ("weights", "start_from")},
        "steps": saved["step"],
        "minutes": round(saved["seconds"] / 60, 1),
    }
    export_network(folder, network, weights=weights, description=description, half=half)
    return parameter_count(network)
