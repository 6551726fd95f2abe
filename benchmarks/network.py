"""How fast the network is on a CPU, beside others and beside what the machine can do.

python -m benchmarks.network --output benchmarks/results/network.json --plot docs/images/network-speed.svg

Three networks restore the same photograph in one run, by turns: `s` as it is served (`Restorer`, uint8 to
uint8), and two of the literature's shapes with random weights, float32, channels_last, without any conversion
of pixels. What is published are ratios within one run; a millisecond says as much of the machine as of the
network.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.drawing import ACCENT, QUIET, save, style
from model.checkpoint_folders import default_weights_dir
from model.config import PRESETS, InteractionConfig
from model.memory import keep_freed_memory
from model.network import TVIDerain
from model.prompts import Prompt
from model.restorer import Restorer

HEIGHT, WIDTH = 321, 481
"""Size of the photographs of BSD, of which Rain100L and Rain100H are made."""

LONG = 5.0
"""Seconds."""

PROMPT = Prompt(degradation="a photo with heavy rain streaks falling straight down")

RESTORMER = replace(
    PRESETS["paper"],
    restoration=replace(
        PRESETS["paper"].restoration, widths=(48, 96, 192, 384), decoder_widths=(96, 96, 192)
    ),
    interaction=InteractionConfig(strides=(), heads=()),
)
"""Restormer itself: its widths, blocks and heads (CVPR 2022, section 4), and no interaction module."""


class ResidualBlock(nn.Module):
    """PReNet's: relu(x + conv(relu(conv(x)))), 3x3, (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.second(F.relu_(self.first(x))).add_(x))


class PReNet(nn.Module):
    """The shape of PReNet (Ren et al., CVPR 2019, section 3), untrained: `(B, 3, H, W) -> (B, 3, H, W)`.

    Six recurrences over a ConvLSTM and five residual blocks of 32 channels at full resolution.
    """

    def __init__(self, *, width: int = 32, blocks: int = 5, recurrences: int = 6) -> None:
        super().__init__()
        self.width = width
        self.recurrences = recurrences
        self.enter = nn.Conv2d(6, width, 3, padding=1)
        self.gates = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, rainy: Tensor) -> Tensor:
        batch, _, height, width = rainy.shape
        hidden = rainy.new_zeros(batch, self.width, height, width)
        hidden = cell = hidden.contiguous(memory_format=torch.channels_last)
        restored = rainy
        for _ in range(self.recurrences):
            x = F.relu_(self.enter(torch.cat((rainy, restored), dim=1)))
            # all four gates in one convolution; PReNet has four
            inward, forget, candidate, outward = self.gates(torch.cat((x, hidden), dim=1)).chunk(4, dim=1)
            cell = forget.sigmoid() * cell + inward.sigmoid() * candidate.tanh()
            hidden = outward.sigmoid() * cell.tanh()
            restored = self.leave(self.blocks(hidden)) + rainy
        return restored


def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of convolutions and matrix products (a multiplication and an addition are
    two).
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def timed(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every run, by turns.

    What takes less than `LONG` is run twice, and the second counts, as when one image follows another: caches
    and heap are its own again. What takes longer hardly notices.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            gc.collect()
            taken = clocked(run)
            seconds[name].append(taken if taken > LONG else clocked(run))
    return seconds


def clocked(run: Callable[[], object]) -> float:
    """Seconds that a run takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def large_convolution() -> Callable[[], Tensor]:
    """One 3x3 convolution, 256 to 256 channels at 128x128, float32, channels_last."""
    x = torch.rand(1, 256, 128, 128).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, padding=1)


def machine() -> str:
    """The processor in general words."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        fields = [line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line]
        model = next((value.strip() for key, value in fields if key.strip() == "model name"), model)
    return f"{torch.get_num_threads()} cores of {model}, {torch.backends.cpu.get_cpu_capability()}"


def measure(repeats: int) -> dict[str, Any]:
    """Times the networks by turns and puts them in relation."""
    restorer = Restorer.from_checkpoint(
        default_weights_dir() / "tvi-derain-s", device="cpu", precision="float32"
    )
    torch.manual_seed(0)
    restormer = TVIDerain(RESTORMER).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    prenet = PReNet().eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    image = torch.randint(0, 256, (HEIGHT, WIDTH, 3), dtype=torch.uint8).permute(2, 0, 1)
    rainy = (image[None].float() / 255).contiguous(memory_format=torch.channels_last)
    tokens, mask = torch.randn(1, 12, RESTORMER.text.width), torch.ones(1, 12, dtype=torch.bool)
    runs: dict[str, Callable[[], object]] = {
        "tvi-derain-s": lambda: restorer.restore([image], [PROMPT]),
        "PReNet's shape": lambda: prenet(rainy),
        "Restormer's shape": lambda: restormer(rainy, tokens, mask),
        "one large convolution": large_convolution(),
    }
    with torch.inference_mode():
        work = {name: flops(run) for name, run in runs.items()}
        seconds = timed(runs, repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    speed = {name: work[name] / medians[name] for name in runs}
    served = "tvi-derain-s"
    times = {
        name: statistics.median(
            other / own for own, other in zip(seconds[served], seconds[name], strict=True)
        )
        for name in ("PReNet's shape", "Restormer's shape")
    }
    return {
        "machine": machine(),
        "torch": torch.__version__,
        "size": [HEIGHT, WIDTH],
        "precision": "float32",
        "repeats": repeats,
        "gigaflop": {name: round(value / 1e9, 2) for name, value in work.items()},
        "times_as_long_as_s": {name: round(value, 2) for name, value in times.items()},
        "flops_of_one_large_convolution": {
            name: round(value / speed["one large convolution"], 3) for name, value in speed.items()
        },
    }


def plot(results: dict[str, Any], path: Path) -> None:
    """Bars of the time that each network takes, `s` being one."""
    times = {"tvi-derain-s": 1.0, **results["times_as_long_as_s"]}
    with style():
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7.2, 2), layout="constrained")
        bars = axes.barh(list(times), list(times.values()), color=[ACCENT, QUIET, QUIET])
        axes.bar_label(bars, labels=[f"{value:.3g}" for value in times.values()], padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_xlabel(f"time per image of 481x321, tvi-derain-s = 1 ({results['machine']}, float32)")
        save(figure, path)


def main(
    output: Annotated[Path | None, typer.Option(help="Write the ratios as JSON.")] = None,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="Draw them as an SVG.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds, in which each network is timed once.")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = min(2, os.cpu_count() or 1),
) -> None:
    """Time `s`, PReNet's and Restormer's shapes by turns."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    results = measure(repeats)
    text = json.dumps(results, indent=2) + "\n"
    typer.echo(text, nl=False)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
    if plot_to is not None:
        plot(results, plot_to)


if __name__ == "__main__":
    typer.run(main)
