"""The optimiser must learn: a wrong step would waste every hour of training after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.muon import Muon, orthogonalise


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (32, 32)])
def test_orthogonalised_matrices_have_singular_values_of_about_one(
    shape: tuple[int, int], precision: torch.dtype
) -> None:
    matrices = torch.randn((3, *shape), generator=torch.Generator().manual_seed(0))
    found = orthogonalise(matrices * torch.tensor([1.0, 1e-4, 1e3])[:, None, None], precision).float()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3
    assert values.max() < 1.3
    aligned = torch.linalg.svd(matrices, full_matrices=False)
    assert (aligned.U @ aligned.Vh * found).sum((1, 2)).min() > 0.7 * min(shape)


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))


def test_it_fits_convolutions_and_their_biases() -> None:
    network = convolutions()
    optimizer = Muon(network.parameters(), lr=5e-3, weight_decay=0)
    x = torch.rand((8, 3, 12, 12), generator=torch.Generator().manual_seed(1))
    target = x.flip(1) * 0.5 + 0.2

    def error() -> torch.Tensor:
        return (network(x) - target).square().mean()

    before = error().item()
    for _ in range(60):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert error().item() < 0.05 * before


def test_a_saved_state_goes_on_bit_by_bit() -> None:
    x = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(1))

    def steps(network: nn.Module, optimizer: Muon, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()

    whole, first, second = convolutions(), convolutions(), convolutions()
    optimizer = Muon(whole.parameters(), lr=1e-3, weight_decay=1e-2)
    steps(whole, optimizer, 6)
    optimizer = Muon(first.parameters(), lr=1e-3, weight_decay=1e-2)
    steps(first, optimizer, 3)
    resumed = Muon(second.parameters(), lr=1e-3, weight_decay=1e-2)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    steps(second, resumed, 3)
    for expected, found in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(expected, found)
