"""The text tower learns from sentences; what perception needs of it stays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from model.perception import DEGRADATIONS
from model.weights import load_clip
from training.descriptions import Attributes, canonical
from training.text_tower import TowerConfig, restore_embeddings, train_text_tower

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
CLIP = WEIGHTS / "degradation-clip"


def test_the_text_tower_learns_and_perception_stays(tmp_path: Path) -> None:
    train_text_tower(TowerConfig(steps=3, batch=8, warmup_steps=1), CLIP, tmp_path / "clip")
    before, after = (cast(Any, load_clip(folder).model) for folder in (CLIP, tmp_path / "clip"))
    for name, tensor in before.state_dict().items():
        same = torch.equal(tensor, after.state_dict()[name])
        if name.startswith("visual.") or name == "logit_scale":
            assert same, name
        elif name.startswith("transformer.") and name.endswith("in_proj_weight"):
            assert not same, name
    ids = load_clip(CLIP).tokenizer([canonical(Attributes(*degradation)) for degradation in DEGRADATIONS])
    with torch.inference_mode():
        kept, given = (model.encode_text(ids, normalize=True) for model in (before, after))
    torch.testing.assert_close(given, kept, atol=1e-4, rtol=0)


def test_embeddings_are_restored_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    ends, projection = (torch.randn(shape, generator=generator) for shape in ((5, 32), (32, 8)))
    wanted = torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    before = projection.clone()
    restore_embeddings(projection, ends, wanted)
    found = torch.nn.functional.normalize(ends @ projection, dim=-1)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    other = torch.linalg.svd(ends).Vh[-1]  # what no token has is not touched
    torch.testing.assert_close(other @ projection, other @ before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_meanings_are_told_apart_after_some_steps(
    bfloat16: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TowerConfig(steps=50, batch=16, warmup_steps=5, bfloat16=bfloat16)
    train_text_tower(config, CLIP, tmp_path / "clip")
    loss = re.findall(r"loss=([0-9.]+)", capsys.readouterr().err)[-1]
    assert float(loss) < 1.8  # at random it is 2.3 for the meaning alone
