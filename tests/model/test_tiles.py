"""Were these wrong, large photographs would show seams, or take the memory of the service with them."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint_folders import NETWORK, read_config
from model.prompts import Prompt
from model.restorer import AbandonedError, Restorer
from model.tiles import Tiling, restore_by_tiles
from model.weights import load_network

HEAVY = Prompt(degradation="a photo with heavy rain streaks falling straight down")


@pytest.fixture(scope="module")
def tiling(weights: Path) -> Restorer:
    """The shipped network with small tiles."""
    folder = weights / "tvi-derain-s"
    network = load_network(folder, read_config(folder, NETWORK))
    return Restorer(
        network, None, name="tiling", device=torch.device("cpu"), precision=torch.float32, tile=64
    )


HALO = 64


@pytest.mark.parametrize("side", [8, 64, 592])
def test_tiles_cover_every_pixel_once_with_a_halo_around(side: int):
    tiling = Tiling(side=side, multiple=8, halo=HALO)
    for length in range(8, 6000, 8 if side < 64 else 56):
        windows = tiling.windows(length)
        assert len({window.end - window.start for window in windows}) == 1, "memory would not be used again"
        assert windows[0].first == 0
        assert windows[-1].last == length
        for window, following in pairwise(windows):
            assert window.last == following.first
            assert window.end - window.last >= HALO
            assert following.first - following.start >= HALO
        for window in windows:
            assert window.start % 8 == 0
            assert window.end - window.start <= side + 2 * HALO
            assert window.start <= window.first < window.last <= window.end


@pytest.mark.parametrize(("height", "width"), [(1, 500), (500, 1), (300, 215), (333, 201), (64, 193)])
def test_an_image_may_be_restored_over_itself(height: int, width: int):
    """With a blur as wide as the halo in the network's place, one overwritten pixel would show."""

    def blur(batch: Tensor) -> Tensor:
        kernel = torch.full((1, 1, 2 * HALO + 1, 1), 1 / (2 * HALO + 1), dtype=torch.float64)
        x = batch.double().transpose(0, 1)
        x = torch.nn.functional.conv2d(x, kernel, padding=(HALO, 0))
        x = torch.nn.functional.conv2d(x, kernel.transpose(2, 3), padding=(0, HALO))
        return x.transpose(0, 1).round().to(torch.uint8)

    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    tiles = Tiling(side=64, multiple=8, halo=HALO)
    padded = np.pad(image.numpy(), ((0, 0), (0, -height % 8), (0, -width % 8)), mode="symmetric")
    whole = blur(torch.from_numpy(padded)[None])[0, :, :height, :width]
    apart = torch.empty_like(image)
    restore_by_tiles(image, apart, blur, tiles)
    restore_by_tiles(image, image, blur, tiles)
    assert torch.equal(apart, whole)
    assert torch.equal(image, whole)


@pytest.mark.parametrize("size", [(60, 90), (230, 301)])
def test_in_place_gives_the_same_in_the_same_memory(tiling: Restorer, rainy: Tensor, size: tuple[int, int]):
    image = rainy[:, : size[0], : size[1]].clone()
    interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    (expected,) = tiling.restore([image], [HEAVY])
    (laid_out,) = tiling.restore([interleaved], [HEAVY])
    assert laid_out.stride() == interleaved.stride(), "encoding would have to copy it"
    assert torch.equal(laid_out, expected)
    (written,) = tiling.restore([image], [HEAVY], in_place=True)
    assert written is image
    assert torch.equal(image, expected)


def test_it_gives_up_between_tiles(tiling: Restorer, rainy: Tensor):
    asked: list[None] = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) > 2

    with pytest.raises(AbandonedError):
        tiling.restore([rainy], [HEAVY], cancelled=cancelled)
    assert 3 <= len(asked) <= 2 + torch.get_num_threads(), "those that are computed side by side ask at once"


def test_a_batch_that_nobody_waits_for_is_not_begun(tiling: Restorer, rainy: Tensor):
    with pytest.raises(AbandonedError):
        tiling.restore([rainy[:, :16, :16]], [HEAVY], cancelled=lambda: True)


PEAK = """
import json, sys
from pathlib import Path
import torch
from model.memory import keep_freed_memory
from model.prompts import Prompt
from model.restorer import Restorer

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

keep_freed_memory()
restorer = Restorer.from_checkpoint(Path(sys.argv[1]), device="cpu", precision="float32")
restorer.restore([torch.zeros(3, 256, 256, dtype=torch.uint8)], [Prompt()])
idle = status("VmRSS")
image = torch.randint(0, 256, (2600, int(sys.argv[2]), 3), dtype=torch.uint8).permute(2, 0, 1)
# only the first tiles: those after them take their place
asked = iter(range(7))
try:
    restorer.restore([image], [Prompt()], in_place=True, cancelled=lambda: next(asked) == 6)
except RuntimeError:
    pass
print(json.dumps({"above_idle": status("VmHWM") - idle, "image": image.numel()}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_by_the_tile_not_by_the_image(weights: Path):
    """An image of 100 megapixels: its own bytes, and little else."""
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(weights / "tvi-derain-s"), "38500"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    measured = json.loads(result.stdout)
    assert measured["image"] > 300e6
    assert measured["above_idle"] - measured["image"] < 350 * 2**20
