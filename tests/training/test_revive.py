"""What has died is drawn anew, what lives is left alone, and nothing changes in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from model.blocks import ConvolutionBlock
from model.config import PRESETS
from model.prompts import Prompt
from model.weights import build_network
from training.revive import revive
from training.train import run

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
PROMPTS = [Prompt(degradation="heavy rain"), Prompt()]


def test_dead_units_begin_anew_and_the_picture_stays() -> None:
    torch.manual_seed(0)
    network = build_network(PRESETS["s"], WEIGHTS)
    rainy = torch.rand(2, 3, 64, 64)
    # the last block: what dies earlier changes what the later ones see
    block = cast(ConvolutionBlock, network.decoder[0][-1])  # type: ignore[index]
    living = revive(network, [(rainy, PROMPTS)] * 2)  # whatever a random network has
    assert revive(network, [(rainy, PROMPTS)]) < max(1, living)
    with torch.no_grad():
        block.expand.bias[[3, 5]] = -100
    before = block.expand.weight.detach().clone()
    with torch.inference_mode():
        restored = run(network, rainy, PROMPTS)
    found = revive(network, [(rainy, PROMPTS)])
    with torch.inference_mode():
        torch.testing.assert_close(run(network, rainy, PROMPTS), restored, atol=1e-6, rtol=0)
    changed = (block.expand.weight.detach() != before).flatten(1).any(1)
    assert found == 2
    assert changed.nonzero().flatten().tolist() == [3, 5]
    assert block.expand.bias[[3, 5]].tolist() == [0, 0]
    assert block.project.weight[:, [3, 5]].abs().max() == 0
