"""The paper's own path, small: its sets as published, its CLIP from a file, trained, resumed, measured,
served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import open_clip
import torch
from PIL import Image

from app.settings import Settings

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


def rain200h(root: Path, count: int) -> None:
    """`norain/norain-1.png` and `rain/X2/norain-1x2.png`, 48x40."""
    (root / "norain").mkdir(parents=True)
    (root / "rain" / "X2").mkdir(parents=True)
    for i in range(1, count + 1):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 200, (4, 5, 3), dtype=np.uint8))
        clean = np.array(coarse.resize((48, 40), Image.Resampling.BICUBIC))
        streaks = ((rng.random((1, 48, 1)) < 0.15) * 50).astype(np.uint8)
        Image.fromarray(clean).save(root / "norain" / f"norain-{i}.png")
        Image.fromarray(np.minimum(255 - streaks, clean) + streaks).save(
            root / "rain" / "X2" / f"norain-{i}x2.png"
        )


def derain(*arguments: object, weights: Path) -> None:
    command = [str(Path(sys.executable).with_name("derain")), *map(str, arguments)]
    environment = {**os.environ, "DERAIN_WEIGHTS_DIR": str(weights)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_paper_preset_trains_resumes_evaluates_and_serves(
    tmp_path: Path, coca: Path, run_service: Callable[[Settings], AbstractContextManager[str]]
) -> None:
    """With ViT-B-32 and CoCa from local checkpoints of random weights: none can be downloaded in a test."""
    torch.manual_seed(0)
    clip = tmp_path / "vit-b-32.pt"
    torch.save(open_clip.create_model("ViT-B-32").state_dict(), clip)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "degradation-clip").symlink_to(WEIGHTS / "degradation-clip")
    training_set, test_set = tmp_path / "rain_data_train_Heavy", tmp_path / "rain_data_test_Heavy"
    rain200h(training_set, 4)  # none is held out: validation alone would take this preset a minute
    rain200h(test_set, 2)

    train = ("train", "--preset", "paper", "--clip", clip, "--data", training_set, "--out", tmp_path / "run")
    captioner = f"local-dir:{coca}"
    train = (*train, "--crop", 16, "--batch", 2, "--captioner", captioner)
    derain(*train, "--steps", 2, weights=weights)
    captions = (tmp_path / "run" / "captions.csv").read_text()
    assert "rain_data_train_Heavy/norain-1x2.png," in captions
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 2
    derain(*train, "--steps", 3, "--export", weights / "tvi-derain-paper", weights=weights)
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 3
    assert (tmp_path / "run" / "captions.csv").read_text() == captions, "what was said once is not said again"

    report = tmp_path / "report.json"
    measure = ("evaluate", "--data", test_set, "--json", report, "--model", "tvi-derain-paper")
    derain(*measure, "--captioner", captioner, weights=weights)
    written = json.loads(report.read_text())
    said = [pair["caption"] for pair in written["sets"][0]["pairs"]]
    assert len(said) == 2
    assert all(said)
    assert 15e6 < written["parameters"] < 19e6

    rainy = (test_set / "rain" / "X2" / "norain-1x2.png").read_bytes()
    headers = {"Content-Type": "image/png"}
    with run_service(Settings(weights_dir=weights, batch_pixels=2**12, captioner=captioner)) as url:
        client = httpx.Client(
            base_url=url, timeout=300, params={"prompt": "remove the rain"}, headers=headers
        )
        answer = client.post("/derain", content=rainy)
        captioned = client.post("/derain", content=rainy, headers={"Accept": "application/json"}).json()
        given = client.post(
            "/derain", content=rainy, params={"caption": "a red car"}, headers={"Accept": "application/json"}
        ).json()
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Derain-Model"] == "tvi-derain-paper"
    assert Image.open(BytesIO(answer.content)).size == (48, 40)
    assert captioned["caption"] == said[0], "the service sees something else than was measured"
    assert given["caption"] == "a red car"
