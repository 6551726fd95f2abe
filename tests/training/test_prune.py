"""What is left of a pruned network must restore as the whole one does without the blocks left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoint_folders import NETWORK, read_config
from model.network import TVIDerain
from model.prompts import Prompt
from model.weights import build_network, learned_state, load_network
from training.prune import Block, blocks_of, least_needed, prune, without
from training.train import run

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
SHIPPED = WEIGHTS / "tvi-derain-s"
GONE = [Block("encoder", 0, 1), Block("encoder", 2, 0), Block("decoder", 0, 3), Block("decoder", 0, 0)]


@pytest.fixture
def network() -> TVIDerain:
    return load_network(SHIPPED, read_config(SHIPPED, NETWORK))


def restored(network: TVIDerain) -> Tensor:
    rainy = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return run(network, rainy, [Prompt(degradation="heavy rain")])


def test_what_is_left_restores_as_the_whole_without_the_blocks(network: TVIDerain) -> None:
    whole = restored(network)
    with without(network, GONE):
        expected = restored(network)
    assert (whole - expected).abs().max() > 0.01
    assert torch.equal(restored(network), whole), "they are back"
    state, config = prune(learned_state(network), network.config, GONE)
    counts = config.restoration
    assert (counts.encoder_blocks, counts.decoder_blocks) == ((2, 2, 1), (3, 2))
    pruned = build_network(config, WEIGHTS)
    unknown = pruned.load_state_dict(state, strict=False)
    assert not unknown.unexpected_keys
    assert set(unknown.missing_keys).isdisjoint(learned_state(pruned))
    torch.testing.assert_close(restored(pruned), expected, atol=1e-5, rtol=0)


def test_the_block_that_does_nothing_is_the_first_to_go(network: TVIDerain) -> None:
    before = restored(network)
    idle = Block("decoder", 0, 2)
    block = network.decoder[idle.level][idle.place]  # type: ignore[index]
    torch.nn.init.zeros_(block.project.weight)
    torch.nn.init.zeros_(block.project.bias)
    wanted = restored(network)
    assert not torch.equal(before, wanted)

    def score() -> float:
        return -float((restored(network) - wanted).square().mean())

    (first, without_it), (second, without_both) = least_needed(network, score, 2)
    assert (first, without_it) == (idle, 0.0)
    assert second != idle
    assert without_both < 0
    assert torch.equal(restored(network), wanted), "it is the same again"


def test_a_block_that_is_not_there_is_refused(network: TVIDerain) -> None:
    assert Block("decoder", 0, 5) not in blocks_of(network.config)
    with pytest.raises(ValueError, match="no such block"):
        prune({}, network.config, [Block("decoder", 0, 5)])
