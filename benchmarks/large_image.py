"""What one large photograph costs a live service: peak memory above the idle process, and time.

python -m benchmarks.large_image --megapixels 100 --output benchmarks/results/large_image.json

The service runs as a process of its own on 127.0.0.1; its memory is what Linux counts (VmRSS, and VmHWM,
reset before every request). The photograph is one of tests/data, magnified, with noise as a sensor adds it.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from PIL import Image

from benchmarks.process import MIB, ROOT, Server, service

SOURCE = ROOT / "tests/data/pairs/input/meadow-light-rain.jpg"
NOISE = 2.0
"""Standard deviation of the sensor's noise, of 255."""

SAVE = {
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"},
    "png": {"format": "PNG", "compress_level": 1},
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One photograph through the service; bytes and seconds."""

    image_format: str
    width: int
    height: int
    sent_bytes: int
    answered_bytes: int
    idle_bytes: int
    peak_above_idle_bytes: int
    left_above_idle_bytes: int
    seconds: float
    server_timing: str


def photograph(megapixels: float) -> Image.Image:
    """Three wide by two high, about so many million pixels."""
    side = round((megapixels * 1e6 / 6) ** 0.5)
    width, height = 3 * side, 2 * side
    with Image.open(SOURCE) as small:
        large = small.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, NOISE, (1024, width, 3)).astype(np.float32)
    for top in range(0, height, len(noise)):
        box = (0, top, width, min(top + len(noise), height))
        part = np.asarray(large.crop(box)).astype(np.float32) + noise[: box[3] - top]
        large.paste(Image.fromarray(part.round().clip(0, 255).astype(np.uint8)), box)
    return large


def encode(image: Image.Image, image_format: str) -> bytes:
    """The photograph as a camera or an editor would write it."""
    file = BytesIO()
    image.save(file, **SAVE[image_format])
    return file.getvalue()


def measure(running: Server, data: bytes, image_format: str) -> Measured:
    """Post a photograph and watch the service from outside. Raises httpx.HTTPStatusError when refused."""
    idle = running.memory("VmRSS")
    running.reset_peak()
    started = time.monotonic()
    answer = httpx.post(
        f"{running.url}/derain", content=data, headers={"Content-Type": f"image/{image_format}"}, timeout=900
    )
    seconds = time.monotonic() - started
    answer.raise_for_status()
    peak = running.memory("VmHWM")
    time.sleep(1)
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    with Image.open(BytesIO(answer.content)) as restored:
        width, height = restored.size
    Image.MAX_IMAGE_PIXELS = limit
    return Measured(
        image_format=image_format,
        width=width,
        height=height,
        sent_bytes=len(data),
        answered_bytes=len(answer.content),
        idle_bytes=idle,
        peak_above_idle_bytes=peak - idle,
        left_above_idle_bytes=running.memory("VmRSS") - idle,
        seconds=round(seconds, 1),
        server_timing=answer.headers["Server-Timing"],
    )


def main(
    megapixels: Annotated[float, typer.Option(help="Size of the photograph.")] = 100.0,
    formats: Annotated[str, typer.Option(help="jpeg, png, or both, separated by commas.")] = "jpeg,png",
    output: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
) -> None:
    """Measure each format in a service of its own, after one small photograph has warmed it up."""
    image = photograph(megapixels)
    warm_up = encode(photograph(0.25), "jpeg")
    results: list[Measured] = []
    for image_format in formats.split(","):
        data = encode(image, image_format)
        with service() as running:
            measure(running, warm_up, "jpeg")
            result = measure(running, data, image_format)
        results.append(result)
        print(
            f"{image_format}: {result.width}x{result.height}, {result.sent_bytes / MIB:.0f} MiB sent, "
            f"{result.seconds:.1f} s; peak {result.peak_above_idle_bytes / MIB:.0f} MiB above idle "
            f"({result.idle_bytes / MIB:.0f} MiB), {result.left_above_idle_bytes / MIB:.0f} MiB left; "
            f"{result.server_timing}"
        )
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
