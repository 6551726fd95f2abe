"""A network hears through another text tower what it heard before, and restores as it did."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer import Typer
from typer.testing import CliRunner

from model.checkpoint_folders import NETWORK, read_config
from model.prompts import Prompt
from model.weights import load_network
from training.cli import distill_text
from training.distill import DistillConfig, distill, read, some_pixels, visual_features
from training.scenes import TrainingData
from training.sentences import EXEMPLARS
from training.text_tower import TowerConfig, train_text_tower

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights"
TEACHER = WEIGHTS / "tvi-derain-s"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "clean" / "some").mkdir(parents=True)
    for i, path in enumerate(sorted((ROOT / "tests" / "data" / "pairs" / "target").iterdir())):
        with Image.open(path) as image:
            image.save(root / "clean" / "some" / f"scene{i}.png")
    return root


def difference(folder: Path, data: Path) -> float:
    """How differently from the teacher a network reads the sentences that the teacher knows."""
    teacher, student = (load_network(one, read_config(one, NETWORK)) for one in (TEACHER, folder))
    pixels = some_pixels(visual_features(teacher, TrainingData(data), 0), 1)
    known = [Prompt(degradation=text) for text in EXEMPLARS.values()]
    with torch.inference_mode():
        wanted, found = read(teacher, known, pixels).levels, read(student, known, pixels).levels
    return max(
        float((found[level] - values).square().mean() / values.var(0).mean())
        for level, values in wanted.items()
    )


def test_only_the_text_encoder_learns(data: Path, tmp_path: Path) -> None:
    (tmp_path / "degradation-clip").symlink_to(WEIGHTS / "degradation-clip")
    config = DistillConfig(steps=2, batch=12, warmup_steps=1)
    distill(config, TEACHER, WEIGHTS, data, tmp_path / "taught", half=False)
    before, after = (load_file(one / "model.safetensors") for one in (TEACHER, tmp_path / "taught"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("after_attention" in name for name in changed)
    assert all(name.startswith("text.") for name in changed)
    assert difference(tmp_path / "taught", data) < 0.05


def test_another_tower_is_fitted_to_the_network(data: Path, tmp_path: Path) -> None:
    train_text_tower(
        TowerConfig(steps=4, batch=8), WEIGHTS / "degradation-clip", tmp_path / "degradation-clip"
    )
    app = Typer()
    app.command()(distill_text)
    arguments = ["--data", data, "--teacher", TEACHER, "--weights", tmp_path, "--out", tmp_path / "taught"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--steps", "3", "--batch", "12", "--half"])
    assert result.exit_code == 0, result.output
    written = load_file(tmp_path / "taught" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float16}
    named = cast("dict[str, str]", read_config(tmp_path / "taught", NETWORK))
    assert named["clip_sha256"] != read_config(TEACHER, NETWORK)["clip_sha256"]
    assert difference(tmp_path / "taught", data) < 1
