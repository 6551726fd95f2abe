"""Draws the plots of docs/benchmarks.md and writes its table, from what was measured.

python -m benchmarks.figures

The records are benchmarks/results/*.json and the first table of training/RESULTS.md. A test draws everything
again and compares, so after a new measurement this is to be run once more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import dropwhile, product, takewhile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks import network
from benchmarks.drawing import ACCENT, INK, MUTED, PAPER, QUIET, WARM, save, style
from benchmarks.process import MIB, ROOT
from benchmarks.serving.plot import draw as draw_serving

RESULTS = ROOT / "benchmarks/results"
RUNS = ROOT / "training/RESULTS.md"
PAGE = ROOT / "docs/benchmarks.md"
IMAGES = ROOT / "docs/images"

SETS = ("Rain100L", "Rain100H")

OTHERS = {"PReNet": {"Rain100L": 37.82, "Rain100H": 30.10}, "AIDNet": {"Rain100L": 38.26, "Rain100H": 30.98}}
"""PSNR in dB of networks that were each trained for the one set, on the same pairs, by the same measure."""

FLOOR = {"Rain100L": 6.0, "Rain100H": 11.0}
"""dB over the input below which nothing is shipped."""

SHIPPED = re.compile(r"\((shipped|shipped as m)\)$")
"""Marks the runs whose weights are in the repository."""

WANTED = {"Rain100L": 34.5, "Rain100H": 26.5}
"""dB that the next weights are to reach."""


def record(name: str) -> Any:
    """What a benchmark has written."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def runs() -> dict[str, dict[str, float]]:
    """PSNR in dB by set of the input and of every training run, in order."""
    lines = dropwhile(lambda line: not line.startswith("|"), RUNS.read_text().splitlines())
    head, _, *rows = [
        [cell.strip() for cell in line.replace("*", "").strip("|").split("|")]
        for line in takewhile(lambda line: line.startswith("|"), lines)
    ]
    if head[-2:] != list(SETS):
        raise ValueError(f"the first table of {RUNS} does not end in {', '.join(SETS)}")
    return {
        row[0].replace("`", ""): {
            name: float(cell.split("/")[0]) for name, cell in zip(SETS, row[-2:], strict=True)
        }
        for row in rows
    }


class Aim(NamedTuple):
    """Something that was asked for, what was measured instead, and whether that will do."""

    what: str
    asked: str
    measured: str
    met: bool


def aims() -> list[Aim]:
    """Everything that was asked for in figures."""
    quality = runs()
    (shipped,) = (reached for run, reached in quality.items() if run.endswith("(shipped)"))
    found = [
        Aim(
            f"{name}, over the rainy input",
            f"{FLOOR[name]:+g} dB to be shipped",
            f"{gain:+.2f} dB",
            gain >= FLOOR[name],
        )
        for name in SETS
        for gain in [shipped[name] - quality["input"][name]]
    ]
    found += [
        Aim(f"{name}, next", f"{WANTED[name]:g} dB", f"{shipped[name]:.2f} dB", shipped[name] >= WANTED[name])
        for name in SETS
    ]
    batching = record("batching")
    own, ratios = batching["overhead"]["service_clock_ms"], batching["throughput"]
    found += [
        at_most("around the work, median", own["median"], 2, "{:g} ms"),
        at_most("around the work, 99th percentile", own["p99"], 10, "{:g} ms"),
        at_least(
            "throughput, over the best offline with the same codecs",
            ratios["service_of_offline_with_codecs"],
            0.9,
            "{:.2f}",
        ),
        at_least(
            "throughput, over the network's with nothing else to do",
            ratios["service_of_offline_network_alone"],
            0.9,
            "{:.2f}",
        ),
    ]
    for large in record("large_image"):
        peak = large["peak_above_idle_bytes"] / MIB
        found.append(
            at_most(f"memory for 100 megapixels of {large['image_format'].upper()}", peak, 1024, "{:.0f} MiB")
        )
    for overload, times in product(record("overload")["loads"], (2, 10)):
        load = overload[f"at_{times}_times_capacity"]
        which = f"at {times} times the load of {overload['image']}"
        found += [
            at_least(f"answers {which}, over the calm rate", load["goodput"], 0.9, "{:.2f}"),
            at_most(f"slowest refusal {which}", load["refused_ms"]["max"], 50, "{:.0f} ms"),
            at_most(f"slowest probe {which}", load["probe_ms"]["max"], 100, "{:.0f} ms"),
        ]
    soak = record("soak")
    growth = soak["final"]["resident_bytes"] / soak["warm"]["resident_bytes"] - 1
    found += [
        at_least("soak", soak["minutes"], 120, "{:g} minutes"),
        at_most("memory gained in it", 100 * growth, 5, "{:.1f} %"),
        at_most(
            "descriptors gained in it", soak["final"]["descriptors"] - soak["warm"]["descriptors"], 0, "{:g}"
        ),
        at_most("answers of a wrong status in it", len(soak["surprises"]), 0, "{:g}"),
    ]
    for peer, loads in record("serving")["ratios"].items():
        busy = [loads[clients] for clients in ("8", "32")]
        most = max(figures["throughput"] for figures in busy)
        least = min(figures["p99"] for figures in busy)
        found += [
            Aim(
                f"{peer}'s answers per second, over ours",
                "under 1 with 8 and 32 clients",
                f"at most {most:.2f}",
                most < 1,
            ),
            Aim(
                f"{peer}'s slowest of a hundred, over ours",
                "over 1 with 8 and 32 clients",
                f"at least {least:.2f}",
                least > 1,
            ),
        ]
    return found


def at_least(what: str, measured: float, asked: float, form: str) -> Aim:
    """Where more is better."""
    return Aim(what, f"at least {form.format(asked)}", form.format(measured), measured >= asked)


def at_most(what: str, measured: float, asked: float, form: str) -> Aim:
    """Where less is better."""
    return Aim(what, f"at most {form.format(asked)}", form.format(measured), measured <= asked)


def table() -> str:
    """What was asked for and what became of it, as Markdown."""
    rows = "".join(
        f"| {aim.what} | {aim.asked} | {aim.measured} | {'yes' if aim.met else '**no**'} |\n"
        for aim in aims()
    )
    return f"| | asked for | measured | reached |\n|---|---|---|---|\n{rows}"


TABLE = re.compile(r"(?<=<!-- written by benchmarks/figures.py -->\n\n).*?(?=\n<!-- to here -->)", re.DOTALL)


def with_table(page: str) -> str:
    """The page with its table as the records have it now.

    Raises:
        ValueError: the page has no place for it.
    """
    written, places = TABLE.subn(lambda _: table(), page)
    if places != 1:
        raise ValueError(f"{places} places for the table, not one")
    return written


def draw_quality(file: Path) -> None:
    """PSNR of what ships, a panel a set, beside the input and networks trained for the set."""
    quality = {run: reached for run, reached in runs().items() if run == "input" or SHIPPED.search(run)}
    with style():
        from matplotlib import pyplot as plt

        figure, panels = plt.subplots(1, 2, figsize=(7.2, 1.9), layout="constrained", sharey=True)
        for panel, name in zip(panels, SETS, strict=True):
            rows = {run: reached[name] for run, reached in quality.items()}
            rows |= {f"{other}, this set alone": figures[name] for other, figures in OTHERS.items()}
            colours = [MUTED, *[ACCENT] * (len(quality) - 1), *[QUIET] * len(OTHERS)]
            bars = panel.barh(list(rows), list(rows.values()), color=colours)
            for label, colour in zip(panel.bar_label(bars, fmt="%.2f", padding=-30), colours, strict=True):
                label.set_color(INK if colour == QUIET else PAPER)
            panel.vlines(WANTED[name], -0.6, len(quality) - 0.5, color=WARM, linestyle="--", linewidth=1)
            panel.text(WANTED[name], -0.7, f"next: {WANTED[name]:g}", color=WARM, ha="center", fontsize=8)
            panel.set_title(f"{name}, PSNR on Y in dB", loc="left", pad=14)
            panel.margins(x=0.06)
        panels[0].invert_yaxis()
        save(figure, file)


def draw_batching(file: Path) -> None:
    """Megapixels per second of the network by itself, with codecs beside it, and of the service."""
    measured = record("batching")["throughput"]["megapixels_per_second"]
    labels = {
        "network": "the network, nothing else to do",
        "with_codecs": "the same with the codecs beside it",
        "service": "the service, over sockets",
    }
    with style():
        from matplotlib import pyplot as plt

        figure, panel = plt.subplots(figsize=(7.2, 1.7), layout="constrained")
        speeds = [measured[name] for name in labels]
        bars = panel.barh(list(labels.values()), speeds, color=[QUIET, QUIET, ACCENT])
        panel.bar_label(bars, [f"{speed / measured['network']:.2f}" for speed in speeds], padding=4)
        panel.axvline(0.9 * measured["with_codecs"], color=WARM, linestyle="--", linewidth=1)
        panel.invert_yaxis()
        panel.margins(x=0.1)
        panel.set_xlabel("megapixels per second; dashed: 0.90 of that with codecs, which was asked for")
        save(figure, file)


def draw_overload(file: Path) -> None:
    """What is answered in time, and how quickly the rest is refused, by load."""
    loads = {
        f"{times} times,\n{measured['image'].removesuffix(' JPEG')}": measured[f"at_{times}_times_capacity"]
        for measured, times in product(record("overload")["loads"], (2, 10))
    }
    with style():
        from matplotlib import pyplot as plt

        figure, (answered, refused) = plt.subplots(1, 2, figsize=(7.2, 2.6), layout="constrained")
        bars = answered.bar(
            ["calm", *loads], [1.0, *(load["goodput"] for load in loads.values())], 0.5, color=ACCENT
        )
        answered.bar_label(bars, fmt="%.2f", label_type="center", color=PAPER)
        answered.axhline(0.9, color=WARM, linestyle="--", linewidth=1)
        answered.set_title("answers in time, calm = 1; dashed: asked for", loc="left")
        answered.margins(y=0.15)
        words = {"refused_ms": ("a refusal", ACCENT), "probe_ms": ("/livez", QUIET)}
        for place, (key, (label, colour)) in enumerate(words.items()):
            at = [index + (place - 0.5) * 0.36 for index in range(len(loads))]
            slowest = [load[key]["max"] for load in loads.values()]
            refused.bar_label(
                refused.bar(at, slowest, 0.34, color=colour, label=label), fmt="%.0f", padding=2
            )
        refused.axhline(50, color=WARM, linestyle="--", linewidth=1)
        refused.set_xticks(range(len(loads)), list(loads))
        refused.set_title("slowest of all, ms; dashed: most for a refusal", loc="left")
        refused.margins(y=0.1)
        refused.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0.88))
        save(figure, file)


def draw_memory(file: Path) -> None:
    """Resident memory of the service before a photograph of 100 megapixels, at the peak, and after."""
    measured = record("large_image")
    with style():
        from matplotlib import pyplot as plt

        figure, panel = plt.subplots(figsize=(7.2, 1.8), layout="constrained")
        names = [large["image_format"].upper() for large in measured]
        parts: list[tuple[str, str, Callable[[Any], float]]] = [
            ("idle", QUIET, lambda large: large["idle_bytes"]),
            ("peak above idle", ACCENT, lambda large: large["peak_above_idle_bytes"]),
        ]
        left = [0.0] * len(names)
        for label, colour, read in parts:
            sizes = [read(large) / MIB for large in measured]
            bars = panel.barh(names, sizes, left=left, color=colour, label=label, height=0.55)
            panel.bar_label(bars, fmt="%.0f", label_type="center", color=INK if colour == QUIET else PAPER)
            left = [start + size for start, size in zip(left, sizes, strict=True)]
        panel.invert_yaxis()
        panel.set_xlabel("MiB of resident memory while 100 megapixels are restored")
        panel.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        save(figure, file)


def draw_all(folder: Path) -> None:
    """Every plot, from the records."""
    draw_quality(folder / "quality.svg")
    network.plot(record("network"), folder / "network-speed.svg")
    draw_batching(folder / "batching.svg")
    draw_serving(record("serving")["ratios"], folder / "serving.svg")
    draw_overload(folder / "overload.svg")
    draw_memory(folder / "memory.svg")


def main(
    folder: Annotated[Path, typer.Option(help="Where the plots go.")] = IMAGES,
    page: Annotated[Path, typer.Option(help="The page whose table is written again.")] = PAGE,
) -> None:
    """Draw and write everything."""
    draw_all(folder)
    page.write_text(with_table(page.read_text()))


if __name__ == "__main__":
    typer.run(main)
