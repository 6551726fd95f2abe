"""A picture of the dashboard, panel by panel in its layout, of what its queries gave."""

# pyright: reportMissingImports=false
# matplotlib comes with the extra `benchmark`, which the checks do without.

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.dashboard.panels import Panel
from benchmarks.dashboard.prometheus import Series

Drawn = Sequence[tuple[str, Series]]
"""The series of a panel with their names."""

UNIT_INCHES = 0.38
COLUMN_INCHES = 0.625
MARGIN = 0.07
TITLE = 0.26
COLOURS = {
    "green": "#299c46",
    "yellow": "#d9a514",
    "red": "#d44a3a",
    "blue": "#3274d9",
    "text": "#8e8e8e",
}
PALETTE = (
    "#3274d9",
    "#e0752d",
    "#299c46",
    "#a352cc",
    "#d9a514",
    "#e0529c",
    "#37a3a3",
    "#8e6b3f",
    "#6e7687",
    "#b2c23d",
)
LIMIT = "#d44a3a"


def draw(panels: Sequence[Panel], series: Sequence[Drawn], file: Path) -> None:
    """Write the picture; `series` are those of each panel."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    mpl.rcParams.update({"font.size": 7.5, "axes.edgecolor": "#c8cacd", "axes.linewidth": 0.6})
    width = 24 * COLUMN_INCHES + MARGIN
    height = max(panel.y + panel.height for panel in panels) * UNIT_INCHES + MARGIN
    figure = plt.figure(figsize=(width, height), facecolor="#f1f2f4")

    def place(left: float, top: float, wide: float, high: float) -> tuple[float, float, float, float]:
        return (left / width, 1 - (top + high) / height, wide / width, high / height)

    times = [time for drawn in series for _, one in drawn if len(one.times) > 1 for time in one.times]
    shown = datetime.fromtimestamp(min(times)), datetime.fromtimestamp(max(times))
    for panel, drawn in zip(panels, series, strict=True):
        left, top = panel.x * COLUMN_INCHES + MARGIN, panel.y * UNIT_INCHES + MARGIN
        wide, high = panel.width * COLUMN_INCHES - MARGIN, panel.height * UNIT_INCHES - MARGIN
        at = place(left, top, wide, high)
        if panel.kind == "row":
            figure.text(at[0], at[1] + at[3] / 2, panel.title, fontsize=11, weight="bold", va="center")
            continue
        figure.add_artist(Rectangle(at[:2], *at[2:], facecolor="white", edgecolor="#dcdee1", zorder=-1))
        figure.text(at[0] + 0.08 / width, at[1] + at[3] - 0.05 / height, panel.title, weight="bold", va="top")
        if panel.kind == "stat":
            _stat(figure, panel, drawn, at)
            continue
        axes = figure.add_axes(place(left + 0.62, top + TITLE + 0.03, wide - 0.75, high - TITLE - 0.62))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=2, color="#c8cacd")
        {"timeseries": _lines, "heatmap": _heatmap, "bargauge": _bars}[panel.kind](axes, panel, drawn)
        if panel.kind != "bargauge":
            _time_axis(axes, *shown)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _stat(figure: Any, panel: Panel, drawn: Drawn, at: tuple[float, float, float, float]) -> None:
    value = drawn[0][1].values[-1] if drawn else math.nan
    colour = [colour for start, colour in panel.thresholds if start is None or value >= start][-1]
    text = "no data" if math.isnan(value) else written(value, panel.unit)
    figure.text(
        at[0] + at[2] / 2,
        at[1] + at[3] * 0.4,
        text,
        color=COLOURS[colour],
        fontsize=17,
        weight="bold",
        ha="center",
        va="center",
    )


def _lines(axes: Any, panel: Panel, drawn: Drawn) -> None:
    drawn = [(name, one) for name, one in drawn if any(map(math.isfinite, one.values))]
    if panel.stacked:
        times = sorted({time for _, one in drawn for time in one.times})
        heights = [[value if math.isfinite(value) else 0.0 for value in _at(one, times)] for _, one in drawn]
        dates = [datetime.fromtimestamp(time) for time in times]
        axes.stackplot(dates, *heights, labels=[name for name, _ in drawn], colors=PALETTE, alpha=0.75)
    for place, (name, one) in enumerate(() if panel.stacked else drawn):
        limit = name in panel.limits
        axes.plot(
            [datetime.fromtimestamp(time) for time in one.times],
            one.values,
            label=name,
            color=LIMIT if limit else PALETTE[place % len(PALETTE)],
            linestyle="--" if limit else "-",
            linewidth=1.1,
        )
    top = max((value for _, one in drawn for value in one.values if math.isfinite(value)), default=1.0)
    for start, colour in panel.thresholds if panel.lines else ():
        if start is not None and (panel.maximum or start < 3 * top or panel.unit == "percentunit"):
            axes.axhline(start, color=COLOURS[colour], linestyle="--", linewidth=0.8)
    axes.set_ylim(0, panel.maximum * 1.03 if panel.maximum else None)
    axes.grid(axis="y", color="#eceef0", linewidth=0.6)
    axes.set_axisbelow(True)
    _value_axis(axes, panel.unit)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.13),
        ncols=max(1, 12 * panel.width // (max((len(name) for name, _ in drawn), default=0) + 7)),
        frameon=False,
        fontsize=6.5,
        handlelength=1.0,
        columnspacing=0.9,
        borderaxespad=0,
        labelspacing=0.25,
    )


def _at(one: Series, times: Sequence[float]) -> list[float]:
    known = dict(zip(one.times, one.values, strict=True))
    return [known.get(time, 0.0) for time in times]


def _heatmap(axes: Any, _panel: Panel, drawn: Drawn) -> None:
    """Cumulative buckets as a histogram for each moment, empty ones at both ends left out."""
    buckets = sorted((float(name.replace("+Inf", "inf")), one) for name, one in drawn)
    times = sorted({time for _, one in buckets for time in one.times})
    rows: list[list[float]] = []
    below = [0.0] * len(times)
    for _, one in buckets:
        counts = _at(one, times)
        rows.append([max(0.0, count - less) for count, less in zip(counts, below, strict=True)])
        below = counts
    filled = [place for place, row in enumerate(rows) if max(row, default=0.0) > 0] or [0]
    shown = range(filled[0], filled[-1] + 1)
    axes.pcolormesh(
        [datetime.fromtimestamp(time) for time in times],
        range(len(shown)),
        [[math.sqrt(value) for value in rows[place]] for place in shown],
        cmap="Blues",
        rasterized=True,
        shading="nearest",
    )
    axes.set_yticks(
        [place + 0.5 for place in range(len(shown))], [written(buckets[place][0], "s") for place in shown]
    )
    axes.text(
        0.0,
        -0.2,
        "each band up to the duration beside it; the darker, the more requests",
        fontsize=6.5,
        transform=axes.transAxes,
        va="top",
    )


def _bars(axes: Any, panel: Panel, drawn: Drawn) -> None:
    names = [name for name, _ in drawn]
    values = [one.values[-1] for _, one in drawn]
    bars = axes.barh(names, values, color=COLOURS["blue"], height=0.6)
    axes.bar_label(bars, [written(round(value), panel.unit) for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def _time_axis(axes: Any, first: datetime, last: datetime) -> None:
    """The same for all panels, with a handful of whole minutes."""
    from matplotlib.dates import DateFormatter, MinuteLocator

    axes.set_xlim(first, last)
    minutes = max(1, round((last - first).total_seconds() / 60 / 5))
    axes.xaxis.set_major_locator(MinuteLocator(interval=minutes))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))


def _value_axis(axes: Any, unit: str) -> None:
    """A handful of values that are round in the unit that they are written in."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    def text(value: float, _place: int) -> str:
        return written(value, unit)

    top = axes.get_ylim()[1]
    bases = {"s": 30, "bytes": 2**28}
    base = bases.get(unit)
    axes.yaxis.set_major_locator(
        MultipleLocator(base * _round(top / base / 5))
        if base and top > 2 * base
        else MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    )
    axes.yaxis.set_major_formatter(FuncFormatter(text))


def _round(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 ..."""
    power = 10.0 ** math.floor(math.log10(max(value, 1)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def written(value: float, unit: str) -> str:
    """A value with its unit, as Grafana has it."""
    if math.isinf(value):
        return "more"
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s":
        return _scaled(value, ((60, 60, " min"), (1, 1, " s"), (0, 1e-3, " ms")))
    if unit == "bytes":
        return _scaled(value, ((2**30, 2**30, " GiB"), (2**20, 2**20, " MiB"), (0, 1, " B")))
    suffix = {"reqps": " req/s"}.get(unit, unit.partition(":")[2])
    if unit.startswith("count:"):
        return _scaled(value, ((1e6, 1e6, f"M {suffix}"), (1e3, 1e3, f"K {suffix}"), (0, 1, f" {suffix}")))
    return f"{value:.3g}{suffix}"


def _scaled(value: float, scales: Sequence[tuple[float, float, str]]) -> str:
    if value == 0:
        return "0"
    factor, name = next((factor, name) for start, factor, name in scales if abs(value) >= start)
    return f"{value / factor:.3g}{name}"
