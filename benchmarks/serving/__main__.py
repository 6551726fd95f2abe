"""Our service beside the same network in LitServe, Ray Serve and BentoML, in one run on one machine.

python -m benchmarks.serving --install --output benchmarks/results/serving.json --plot docs/images/serving.svg

One after the other has the machine to itself, in several rounds, always with the same requests: forms
with one JPEG of mixed sizes, answered as JPEG; the same weights and prompt, encoded once. A fixed number of
clients that each wait for their answer (1, 8, 32), and arrivals at random at 70 % of what ours answers. Told
as ratios to ours within the run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from benchmarks.process import MIB, ROOT
from benchmarks.serving.comparison import FULL, QUICK, Compared, Start, compare
from benchmarks.serving.contenders import OURS, PEERS, Contender, environment, versions
from benchmarks.serving.plot import draw


def machine() -> str:
    """In general words."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return f"{os.cpu_count()} cores, {found[1] if found else platform.machine()}"


def _leave(number: int, frame: FrameType | None) -> None:
    """End what was started before ending."""
    del number, frame
    sys.exit("told to stop")


def table(compared: Compared) -> str:
    """As Markdown, ready for docs/performance.md."""
    lines = ["| | load | answers per second | p50 | p95 | p99 |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {name} | {load} | " + " | ".join(f"{value:.2f}" for value in values.values()) + " |"
        for name, loads in compared.ratios().items()
        for load, values in loads.items()
    ]
    return "\n".join(lines)


def main(
    quick: Annotated[bool, typer.Option(help="Four minutes instead of eleven.")] = False,
    install: Annotated[bool, typer.Option(help="Install the peers that are missing.")] = False,
    environments: Annotated[Path, typer.Option(help="Folder of the peers' environments.")] = (
        ROOT / ".cache/serving"
    ),
    max_batch_size: Annotated[int, typer.Option(help="Images in a peer's batch at most.")] = 4,
    described: Annotated[str | None, typer.Option("--machine", help="What the results call it.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where the picture goes.")] = None,
) -> None:
    """Start everyone, compare, end everyone."""
    signal.signal(signal.SIGTERM, _leave)
    used: dict[str, Any] = {}
    servers: dict[Contender, Start] = {}
    for contender in [OURS, *PEERS]:
        python = environment(contender, environments, install=install)
        if python is None:
            print(f"{contender.name} is not installed: left out (--install)", file=sys.stderr)
            continue
        used[contender.name] = versions(contender, python)
        print(contender.name, used[contender.name], file=sys.stderr, flush=True)
        servers[contender] = partial(contender.running, python, max_batch_size)
    compared = compare(servers, QUICK if quick else FULL, log=True)
    print(table(compared))
    for name, peak in compared.peak_bytes.items():
        print(f"{name}: peak {peak / MIB:.0f} MiB")
    report = {"machine": described or machine(), "versions": used, "max_batch_size": max_batch_size}
    report |= compared.report()
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=2) + "\n")
    if plot is not None:
        draw(compared.ratios(), plot)


if __name__ == "__main__":
    typer.run(main)
