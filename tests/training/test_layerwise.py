"""No layer may be left standing or turned over because of the values that it happens to work on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.config import PRESETS
from model.network import TVIDerain
from model.prompts import Prompt
from model.weights import build_network
from training.layerwise import learning_rate_multipliers
from training.muon import Muon
from training.train import run

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
PROMPTS = [Prompt(degradation="heavy rain"), Prompt()]


def uneven_network() -> tuple[TVIDerain, Tensor]:
    """One whose finest decoder level works on a hundredth of what the others do."""
    torch.manual_seed(0)
    network = build_network(PRESETS["s"], WEIGHTS)
    with torch.no_grad():
        for name in ("merge.0.weight", "merge.0.bias"):
            network.get_parameter(name).mul_(0.01)
    return network, torch.rand(2, 3, 64, 64)


def moved(network: TVIDerain, rainy: Tensor, optimizer: Muon) -> dict[str, float]:
    """By how much of itself each matrix changes in one step."""
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    run(network, rainy, PROMPTS).square().mean().backward()
    optimizer.step()
    return {
        name: float((p.detach() - before[name]).norm() / before[name].norm())
        for name, p in network.named_parameters()
        if p.grad is not None and p.ndim == 4 and bool(before[name].any())
    }


def test_layers_change_by_the_same_share_of_themselves() -> None:
    network, rainy = uneven_network()
    plain = moved(network, rainy, Muon(network.parameters(), lr=1e-3, weight_decay=0))
    network, rainy = uneven_network()
    multipliers = learning_rate_multipliers(network, [(rainy, PROMPTS)])
    optimizer = Muon(network.parameters(), lr=1e-3, weight_decay=0)
    for name, multiplier in multipliers.items():
        optimizer.set_multiplier(network.get_parameter(name), multiplier)
    even = moved(network, rainy, optimizer)
    # the way out of a block is to grow from next to nothing
    shares = [[share for name, share in found.items() if "project" not in name] for found in (plain, even)]
    assert max(shares[0]) / min(shares[0]) > 100
    assert max(shares[1]) / min(shares[1]) < 3


def test_a_bias_follows_what_it_is_added_to() -> None:
    network, rainy = uneven_network()
    multipliers = learning_rate_multipliers(network, [(rainy, PROMPTS)])
    assert multipliers["decoder.0.0.expand.bias"] < 0.03 * multipliers["decoder.1.0.expand.bias"]
    assert not any(name.startswith("text.") for name in multipliers)
    learned = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {n for n in learned if n.startswith(("encoder", "decoder", "stem", "head"))} <= set(multipliers)
    assert set(multipliers) <= learned


def test_factors_are_saved_with_the_state() -> None:
    network, _ = uneven_network()
    optimizer = Muon(network.parameters(), lr=1e-3, weight_decay=0)
    optimizer.set_multiplier(network.get_parameter("head.0.weight"), 7.0)
    resumed = Muon(network.parameters(), lr=1e-3, weight_decay=0)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.state[network.get_parameter("head.0.weight")]["multiplier"] == 7.0


def test_normalised_layers_are_refused() -> None:
    config = PRESETS["paper"]
    text = dataclasses.replace(config.text, clip="degradation-clip", pretrained=None)
    network = build_network(dataclasses.replace(config, text=text), WEIGHTS)
    with pytest.raises(ValueError, match="convolution"):
        learning_rate_multipliers(network, [])
