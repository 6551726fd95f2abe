"""What a training step costs: seconds on this machine, and the operations that an estimate for another needs.

python -m benchmarks.training_step --preset paper --crop 128 --batch 2 --output step.json

`derain train`'s own loop runs on pairs drawn at random: once for a single step, to warm up, and then on from
its checkpoint for the steps that count. Without `--clip` the preset's open_clip tower has random weights,
which costs the same.
"""

from __future__ import annotations

import json
import platform
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import open_clip
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from model.checkpoint_folders import default_weights_dir
from model.config import PRESETS, NetworkConfig
from model.network import TVIDerain
from training.scenes import held_out
from training.train import Stage, TrainConfig, train


def measure(
    preset: Annotated[str, typer.Option(help="s, m or paper.")] = "paper",
    crop: Annotated[int, typer.Option(min=16, help="Side of the crops in pixels.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Crops per step.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 4,
    clip: Annotated[str | None, typer.Option(help="open_clip tag or local checkpoint.")] = None,
    bfloat16: Annotated[bool, typer.Option(help="Compute in bfloat16.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="OUT.json")] = None,
) -> None:
    """Time training steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if clip is None and PRESETS[preset].text.pretrained is not None:
            clip = str(folder / "clip.safetensors")
            save_file(open_clip.create_model(PRESETS[preset].text.clip).state_dict(), clip)
        draw_pairs(folder / "set", count=8, side=max(256, crop))

        def seconds(count: int) -> float:
            config = TrainConfig(
                preset=preset,
                weights=str(default_weights_dir()),
                clip=clip,
                steps=count,
                stages=(Stage(until=1.0, crop=crop, batch=batch),),
                bfloat16=bfloat16,
                checkpoint_minutes=1e9,
            )
            last = train(config, folder / "set", folder / "run")
            return float(torch.load(last, map_location="cpu", weights_only=True)["seconds"])

        first = seconds(1)
        each = (seconds(1 + steps) - first) / steps
    operations = step_operations(PRESETS[preset], crop, batch)
    report = {
        "preset": preset,
        "crop": crop,
        "batch": batch,
        "bfloat16": bfloat16,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "seconds_per_step": round(each, 4),
        "steps_per_second": round(1 / each, 4),
        "gflop_per_step": round(operations / 1e9, 1),
        "gflop_per_second": round(operations / each / 1e9, 1),
    }
    print(json.dumps(report, indent=2))
    if output is not None:
        output.write_text(json.dumps(report, indent=2) + "\n")


def draw_pairs(folder: Path, *, count: int, side: int) -> None:
    """A paired set of noise, `input/` and `target/`, of which nothing is held out: the loop does not
    validate."""
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(4 * count) if not held_out(f"{folder.name}/{i}")][:count]
    for kind in ("input", "target"):
        (folder / kind).mkdir(parents=True)
        for stem in names:
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{stem}.png")


def step_operations(config: NetworkConfig, crop: int, batch: int) -> int:
    """Additions and multiplications of R and M, three times those of inference; E adds a few per cent."""
    with torch.device("meta"), torch.inference_mode():
        network = TVIDerain(config)
        rainy = torch.empty(batch, 3, crop, crop)
        tokens = torch.empty(batch, 20, config.text.width)
        mask = torch.ones(batch, 20, dtype=torch.bool)
        with FlopCounterMode(display=False) as counter:
            network(rainy, tokens, mask)
    return 3 * counter.get_total_flops()


if __name__ == "__main__":
    typer.run(measure)
