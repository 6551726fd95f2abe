"""A picture of the comparison: throughput and the slowest answers of every peer in parts of ours."""

# pyright: reportMissingImports=false
# matplotlib comes with the extra `benchmark`, which the checks do without.

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

COLOURS = {"throughput": "#3b6ea5", "p99": "#c4683c"}


def draw(ratios: Mapping[str, Mapping[str, Mapping[str, float]]], file: Path) -> None:
    """Bars by load, a panel a measure; `ratios` as `Compared.ratios` gives them."""
    import matplotlib as mpl

    mpl.use("svg" if file.suffix == ".svg" else "agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "serving"
    titles = {"throughput": "answers per second, ours = 1", "p99": "99th percentile of the wait, ours = 1"}
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    loads = list(next(iter(ratios.values())))
    for panel, (measure, title) in zip(panels, titles.items(), strict=True):
        for place, (name, values) in enumerate(ratios.items()):
            width = 0.8 / len(ratios)
            at = [index + (place - (len(ratios) - 1) / 2) * width for index in range(len(loads))]
            bars = panel.bar(
                at,
                [values[load][measure] for load in loads],
                width * 0.92,
                color=COLOURS[measure],
                alpha=1 - 0.28 * place,
                label=name,
            )
            panel.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_xticks(
            range(len(loads)), [f"{load} at once" if load.isdigit() else "Poisson" for load in loads]
        )
        panel.set_title(title, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(y=0.12)
        panel.legend(
            frameon=False, fontsize=8, ncols=len(ratios), loc="upper center", bbox_to_anchor=(0.5, -0.1)
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if file.suffix == ".svg" else None
    figure.savefig(file, dpi=110, metadata=metadata)
    plt.close(figure)
