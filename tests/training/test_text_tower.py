"""The text tower learns from sentences; what perception needs of it stays."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from model.perception import DEGRADATIONS
from model.weights import load_clip
from training.descriptions import Attributes, canonical
from training.text_tower import TowerConfig, restore_embeddings, train_text_tower, with_vocabulary

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
CLIP = WEIGHTS / "degradation-clip"


@pytest.mark.parametrize("merges", [None, 700])
def test_the_text_tower_learns_and_perception_stays(merges: int | None, tmp_path: Path) -> None:
    train_text_tower(TowerConfig(steps=3, batch=8, warmup_steps=1, merges=merges), CLIP, tmp_path / "clip")
    clips = [load_clip(folder) for folder in (CLIP, tmp_path / "clip")]
    before, after = (cast(Any, clip.model) for clip in clips)
    for name, tensor in before.state_dict().items():
        same = torch.equal(tensor, after.state_dict()[name])
        if name.startswith("visual.") or name == "logit_scale":
            assert same, name
        elif name.startswith("transformer.") and name.endswith("in_proj_weight"):
            assert not same, name
    sentences = [canonical(Attributes(*degradation)) for degradation in DEGRADATIONS]
    with torch.inference_mode():
        kept, given = (
            cast(Any, clip.model).encode_text(clip.tokenizer(sentences), normalize=True) for clip in clips
        )
    torch.testing.assert_close(given, kept, atol=1e-4, rtol=0)


def test_a_new_token_starts_as_the_mean_of_its_parts(tmp_path: Path) -> None:
    merges = [("d", "a"), ("da", "y</w>"), ("q", "z")]
    with gzip.open(tmp_path / "vocabulary.txt.gz", "wt") as file:
        file.write("\n".join(["#version: 0.2", *map(" ".join, merges)]))
    clip = load_clip(CLIP)
    changed = with_vocabulary(clip, tmp_path, 512 + len(merges) + 2)
    was, now = (
        {token: cast(Any, one.model).token_embedding.weight[i] for token, i in encoder.items()}
        for one, encoder in ((c, cast(Any, c.tokenizer).encoder) for c in (clip, changed))
    )
    assert "qz" not in was
    torch.testing.assert_close(now["qz"], (was["q"] + was["z"]) / 2)
    for token in ("a", "day</w>", "<end_of_text>"):
        assert torch.equal(now[token], was[token])


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
