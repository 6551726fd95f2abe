"""Were these wrong, one large photograph would take the memory of the whole machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEGAPIXELS = 12
MIB = 1024 * 1024

TILE_BYTES = 900 * MIB
"""What the network needs for one tile, however large the photograph."""

BYTES_PER_PIXEL = 10
"""Pillow's copy or the restored image beside the photograph, and the encoded files."""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_bounded_by_the_tile_and_few_bytes_a_pixel(tmp_path: Path) -> None:
    """The same as benchmarks/large_image.py measures of 100 megapixels, in a real process from outside."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.large_image", "--formats", "png"]
    subprocess.run(
        [*command, "--megapixels", str(MEGAPIXELS), "--output", str(figures)],
        cwd=ROOT,
        check=True,
        timeout=300,
    )
    [measured] = json.loads(figures.read_text())
    pixels = measured["width"] * measured["height"]
    assert pixels > 0.99e6 * MEGAPIXELS
    assert measured["peak_above_idle_bytes"] < TILE_BYTES + BYTES_PER_PIXEL * pixels
