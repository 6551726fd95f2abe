"""What the service is for. Were this wrong, the rain would stay."""

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from model.metrics import psnr

PAIRS = Path(__file__).parents[1] / "data" / "pairs"
GAIN = 4.0


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("model", ["tvi-derain-s", "tvi-derain-m"])
@pytest.mark.parametrize("rainy", sorted((PAIRS / "input").iterdir()), ids=lambda path: path.stem)
def test_a_rainy_photograph_comes_back_closer_to_the_clean_one(
    client: httpx.Client, decode: Callable[[bytes], Image.Image], rainy: Path, model: str
) -> None:
    """By at least 4 dB, on the luminance, without anyone telling the service what is wrong with it."""
    clean = tensor(Image.open(PAIRS / "target" / rainy.name))
    before = psnr(tensor(Image.open(rainy)), clean)
    response = client.post(
        "/derain",
        content=rainy.read_bytes(),
        headers={"Content-Type": "image/jpeg"},
        params={"format": "png", "model": model},
    )
    assert response.status_code == 200, response.text
    assert response.headers["X-Derain-Model"] == model
    after = psnr(tensor(decode(response.content)), clean)
    assert after - before >= GAIN, f"{before:.2f} dB before, {after:.2f} dB after"
