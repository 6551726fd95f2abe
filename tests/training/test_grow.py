"""A grown network must restore as the one that it began as did, and be able to learn with what is new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from model.checkpoint_folders import NETWORK, read_config
from model.config import PRESETS, NetworkConfig
from model.network import TVIDerain
from model.prompts import Prompt
from model.weights import build_network, learned_state, load_network, read_state
from training.cli import train
from training.grow import GrowthError, grow
from training.train import run, start

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
SHIPPED = WEIGHTS / "tvi-derain-s"
PROMPTS = [Prompt(degradation="heavy rain"), Prompt(degradation="leave it unchanged", semantic="a cat")]


def with_restoration(**changes: object) -> NetworkConfig:
    small = PRESETS["s"]
    return replace(small, restoration=replace(small.restoration, **changes))  # type: ignore[arg-type]


LARGER = {
    "deeper": PRESETS["m"],
    "wider": with_restoration(widths=(64, 128, 352), decoder_widths=(64, 128)),
    "both": with_restoration(
        widths=(48, 96, 192), decoder_widths=(48, 96), encoder_blocks=(4, 2, 3), decoder_blocks=(6, 2)
    ),
}


@pytest.fixture(params=LARGER)
def grown(request: pytest.FixtureRequest) -> TVIDerain:
    torch.manual_seed(0)
    network = build_network(LARGER[request.param], WEIGHTS)
    start(network, SHIPPED)
    return network


def test_a_grown_network_restores_as_the_smaller_one_did(grown: TVIDerain) -> None:
    narrow = load_network(SHIPPED, read_config(SHIPPED, NETWORK))
    rainy = torch.rand(2, 3, 40, 56)
    with torch.inference_mode():
        assert (run(narrow, rainy, PROMPTS) - rainy).abs().max() > 0.05
        torch.testing.assert_close(run(grown, rainy, PROMPTS), run(narrow, rainy, PROMPTS), atol=1e-4, rtol=0)


@pytest.mark.parametrize("larger", LARGER)
def test_all_that_is_new_has_a_gradient_at_the_second_step(larger: str) -> None:
    torch.manual_seed(0)
    network = build_network(LARGER[larger], WEIGHTS)
    grow(network, learned_state(build_network(PRESETS["s"], WEIGHTS)), PRESETS["s"])
    optimizer = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), lr=1e-3)
    rainy = torch.rand(2, 3, 32, 32)
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad()
        (run(network, rainy, PROMPTS) - 0.5).square().sum().backward()
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and not name.startswith("text."):
            assert parameter.grad is not None
            learning = parameter.grad.flatten(1).any(1).float().mean()
            # rectified units may see nothing of noise
            assert learning > (0.5 if ".expand." in name else 0.99), f"{name} does not learn"


def test_a_grown_run_goes_on_in_one_of_its_size(tmp_path: Path, grown: TVIDerain) -> None:
    learned = {name: p for name, p in grown.named_parameters() if p.requires_grad}
    saved = {
        "architecture": grown.config.to_dict(),
        "names": list(learned),
        "network": grown.state_dict(),
        "average": [p.detach() for p in learned.values()],
    }
    torch.save(saved, tmp_path / "last.pt")
    again = build_network(grown.config, WEIGHTS)
    start(again, tmp_path / "last.pt")
    for name, tensor in learned_state(again).items():
        assert torch.equal(tensor, learned_state(grown)[name])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoder_blocks": (3, 1, 2)}, "shallower"),
        ({"expansion": 3.0}, "expansion"),
        ({"widths": (16, 64, 128)}, "narrower"),
        ({"block": "transformer"}, "block"),
    ],
)
def test_what_cannot_grow_is_refused(changes: dict[str, object], reason: str) -> None:
    state = read_state(SHIPPED, read_config(SHIPPED, NETWORK))
    network = TVIDerain(with_restoration(**changes))
    with pytest.raises(GrowthError, match=reason):
        grow(network, state, PRESETS["s"])


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        (["--revive"], 2, "--start-from"),
        (["--half"], 2, "--export"),
        (["--layerwise-rates", "--preset", "paper"], 2, "normalised"),
    ],
)
def test_what_makes_no_sense_together_is_refused_in_words(
    tmp_path: Path, options: list[str], status: int, told: str
) -> None:
    app = Typer()
    app.command()(train)
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--steps", "1", *options]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "240", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == status
    assert told in result.output
