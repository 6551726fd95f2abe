"""A picture of the comparison: throughput and the slowest answers of every peer in parts of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.drawing import ACCENT, INK, QUIET, SOFT, save, style

TITLES = {
    "throughput": "answers per second, ours = 1 (more is better)",
    "p99": "99th percentile of the wait, ours = 1 (less is better)",
}


def draw(ratios: Mapping[str, Mapping[str, Mapping[str, float]]], file: Path) -> None:
    """Bars by load, a panel a measure; `ratios` as `Compared.ratios` gives them."""
    with style():
        from matplotlib import pyplot as plt

        figure, panels = plt.subplots(2, 1, figsize=(7.2, 5.2), layout="constrained")
        loads = list(next(iter(ratios.values())))
        for panel, (measure, title) in zip(panels, TITLES.items(), strict=True):
            for place, (name, values) in enumerate(ratios.items()):
                width = 0.8 / len(ratios)
                at = [index + (place - (len(ratios) - 1) / 2) * width for index in range(len(loads))]
                bars = panel.bar(
                    at,
                    [values[load][measure] for load in loads],
                    width * 0.92,
                    color=(ACCENT, SOFT, QUIET)[place % 3],
                    label=name,
                )
                panel.bar_label(bars, fmt="%.2f", fontsize=8, padding=1)
            panel.axhline(1, color=INK, linewidth=0.8)
            panel.set_xticks(
                range(len(loads)), [f"{load} at once" if load.isdigit() else "at random" for load in loads]
            )
            panel.set_title(title, loc="left")
            panel.margins(y=0.12)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=len(ratios), loc="outside lower center")
        save(figure, file)
