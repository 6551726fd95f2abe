"""The tables of docs/scaling.md, from what was measured and what is assumed.

python -m benchmarks.scaling            prints them
python -m benchmarks.scaling --write    puts them into docs/scaling.md, between the marks
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/scaling.md"

EFFICIENCY = 0.2
"""Assumed: the part of a GPU's peak that the network gets."""

IN_USE = 0.7
"""The part of the time in which devices are to be in use; that of the chart's autoscaling."""

IMAGE_MEGAPIXELS = 2.0
"""A photograph of 1600x1250, for what is told by the image."""


SMALL_MEGAPIXELS = 256 * 256 / 1e6


@dataclass(frozen=True, slots=True)
class Device:
    """Something to compute on.

    Attributes:
        peak: dense bfloat16, TFLOP/s, as its maker says; None: measured.
        cores: that are rented with it, an example.
        price: an hour of both, an example.
    """

    name: str
    peak: float | None
    cores: int
    price: float


DEVICES = (
    Device("two CPU cores", None, 2, 0.10),
    Device("L4", 121, 8, 0.80),
    Device("A100", 312, 12, 2.00),
    Device("H100", 989, 16, 4.00),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What benchmarks/results says.

    Attributes:
        gflop_per_megapixel: of the network, one image of 321x481.
        service_megapixels_per_second: of the whole service on two CPU cores.
        overhead_seconds: of a request that is neither decoding, the network nor encoding.
        codec_seconds: of one core for a megapixel, decoding and encoding, by format.
        bytes_per_pixel: of what is written, by format.
    """

    gflop_per_megapixel: float
    service_megapixels_per_second: float
    overhead_seconds: float
    codec_seconds: dict[str, float]
    bytes_per_pixel: dict[str, float]

    @classmethod
    def read(cls, folder: Path = RESULTS) -> Measured:
        """From the files of the benchmarks."""

        def results(name: str) -> Any:
            return json.loads((folder / f"{name}.json").read_text())

        network, batching = results("network"), results("batching")
        height, width = network["size"]
        codecs = results("codecs")["2448x1632"]
        formats = {"jpeg": "jpeg", "png": "png", "webp": "webp, lossless"}
        written = {name: _of_service(codecs["encode"][key]) for name, key in formats.items()}
        return cls(
            gflop_per_megapixel=network["gigaflop"]["tvi-derain-s"] / (height * width / 1e6),
            service_megapixels_per_second=batching["throughput"]["megapixels_per_second"]["service"],
            overhead_seconds=batching["overhead"]["service_clock_ms"]["median"] / 1000,
            codec_seconds={
                name: (_of_service(codecs["decode"][name])["ms_per_megapixel"] + row["ms_per_megapixel"])
                / 1000
                for name, row in written.items()
            },
            bytes_per_pixel={name: row["bytes_per_pixel"] for name, row in written.items()},
        )

    def network(self, device: Device) -> float:
        """Megapixels per second of the network alone; of the whole service where that was measured."""
        if device.peak is None:
            return self.service_megapixels_per_second
        return EFFICIENCY * device.peak * 1000 / self.gflop_per_megapixel

    def limits(self, device: Device, image_format: str = "jpeg") -> dict[str, float]:
        """Megapixels per second, by what bounds them."""
        network = self.network(device)
        if device.peak is None:
            return {"network": network}
        return {
            "network": network,
            "codecs": device.cores / self.codec_seconds[image_format],
            "event loop": IMAGE_MEGAPIXELS / self.overhead_seconds,
        }

    def speed(self, device: Device, image_format: str = "jpeg") -> float:
        """Megapixels per second of a device that always has work, with its cores."""
        return min(self.limits(device, image_format).values())


def _of_service(rows: list[dict[str, Any]]) -> dict[str, Any]:
    [row] = [row for row in rows if row["by"] == "service"]
    return row


def number(value: float) -> str:
    """Two digits that count, and all before the point of what is larger."""
    if value >= 100:
        return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"
    return f"{value:.2g}"


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """As Markdown."""
    lines = [list(titles), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def per_device(measured: Measured) -> str:
    """What one device does, what it takes to feed it, and what bounds it with the cores that it has."""
    rows: list[list[str]] = []
    for device in DEVICES:
        network = measured.network(device)
        wanted = [number(network * measured.codec_seconds[name]) for name in ("jpeg", "png")]
        row = [device.name, number(network), *(wanted if device.peak else ["", ""]), str(device.cores)]
        for name in ("jpeg", "png"):
            bounds = measured.limits(device, name)
            bound = min(bounds, key=lambda what: bounds[what])
            row.append(f"{number(bounds[bound] / IMAGE_MEGAPIXELS)} ({bound})")
        jpeg = min(measured.limits(device, "jpeg").values())
        gbit = jpeg * measured.bytes_per_pixel["jpeg"] * 8 / 1000
        rows.append([*row, number(gbit)])
    titles = (
        "",
        "network, MP/s",
        "cores it wants",
        "with PNG",
        "has (example)",
        "images/s",
        "with PNG",
        "Gbit/s each way",
    )
    return table(titles, rows)


def limits(measured: Measured) -> str:
    """Of one process and of one core: megapixels per second at two sizes of image."""
    loop = 1 / measured.overhead_seconds
    rows = [
        [
            "event loop, a process",
            f"{measured.overhead_seconds * 1000:.2g} ms a request",
            number(loop * SMALL_MEGAPIXELS),
            number(loop * IMAGE_MEGAPIXELS),
        ]
    ]
    for name, seconds in measured.codec_seconds.items():
        cost = f"{seconds * 1000:.0f} ms a MP"
        rows.append([f"{name.upper()} in and out, a core", cost, *[number(1 / seconds)] * 2])
    return table(["", "cost", "MP/s at 256x256", f"MP/s at {IMAGE_MEGAPIXELS:g} MP"], rows)


def fleet(measured: Measured) -> str:
    """Devices in use for 70 % of the time, the codecs' cores and the network, by images of 2 MP in JPEG."""
    rows: list[list[str]] = []
    for images in (10, 100, 1_000, 10_000, 100_000):
        load = images * IMAGE_MEGAPIXELS
        counts = [math.ceil(load / (IN_USE * measured.speed(device))) for device in DEVICES]
        cores = math.ceil(load * measured.codec_seconds["jpeg"] / IN_USE)
        gbit = load * measured.bytes_per_pixel["jpeg"] * 8 / 1000
        rows.append([f"{images:,}", *(f"{count:,}" for count in counts), f"{cores:,}", number(gbit)])
    names = (device.name if device.peak else f"pods of {device.name}" for device in DEVICES)
    return table(["images/s", *names, "cores for codecs", "Gbit/s each way"], rows)


def cost(measured: Measured) -> str:
    """Of a million images of 2 MP."""
    rows: list[list[str]] = []
    for device in DEVICES:
        hours = 1e6 * IMAGE_MEGAPIXELS / (measured.speed(device) * IN_USE) / 3600
        rows.append([device.name, number(hours), f"{device.price:.2f}", number(hours * device.price)])
    return table(["", "device hours", "an hour (example)", "a million images"], rows)


TABLES = {"per device": per_device, "limits": limits, "fleet": fleet, "cost": cost}


def filled(page: str, measured: Measured) -> str:
    """The page with the tables between their marks. Raises ValueError: a mark is missing."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"{begin} is missing")
        text = f"{begin}\n{make(measured)}\n{end}"
        page = pattern.sub(lambda _, text=text: text, page, count=1)
    return page


def main(
    write: Annotated[bool, typer.Option("--write", help="Put them into docs/scaling.md.")] = False,
) -> None:
    """Print the tables, or put them in."""
    measured = Measured.read()
    if write:
        PAGE.write_text(filled(PAGE.read_text(), measured))
        return
    print(measured)
    for name, make in TABLES.items():
        print(f"\n{name}\n\n{make(measured)}")


if __name__ == "__main__":
    typer.run(main)
