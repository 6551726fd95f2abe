"""What tests of several parts need."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

COCA = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 76,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
"""coca_ViT-B-32 with everything but its vocabulary made small."""


@pytest.fixture(scope="session")
def coca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CoCa in open_clip's own folder layout. Its weights are random, wide enough that what it says depends
    on the picture.
    """
    folder = tmp_path_factory.mktemp("coca")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CoCa(**COCA)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**COCA, "custom_text": True}}))
    return folder
