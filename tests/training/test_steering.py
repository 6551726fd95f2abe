"""A sentence must change what is removed; otherwise the text is decoration."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from model.restorer import Restorer
from training.cli import evaluate
from training.descriptions import UNSEEN
from training.scenes import TrainingData, held_out
from training.steering import (
    AMOUNTS,
    DEGRADATIONS,
    RAINY,
    REQUESTS,
    WISHES,
    Steering,
    degrade,
    steer,
    target_of,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose photographs, those of the tests, are all held out from training."""
    root = tmp_path_factory.mktemp("scenes")
    (root / "clean" / "some").mkdir(parents=True)
    names = (name for i in count() if held_out(name := f"photo{i}"))
    for path in sorted((ROOT / "tests" / "data" / "pairs" / "target").iterdir()):
        with Image.open(path) as image:
            image.save(root / "clean" / "some" / f"{next(names)}.png")
    return root


@pytest.fixture(scope="module")
def found(photographs: Path) -> Steering:
    restorer = Restorer.from_checkpoint(ROOT / "weights" / "tvi-derain-s", device="cpu")
    return steer(restorer, TrainingData(photographs, validation=True), scenes=4, size=128)


def test_every_prompt_is_measured_on_every_degradation(found: Steering) -> None:
    assert set(found.restored) == set(DEGRADATIONS)
    for scores in found.restored.values():
        assert list(scores) == [request.text for request in REQUESTS]


def test_restoring_brings_rain_closer_to_what_is_asked_for(found: Steering) -> None:
    for degradation in ("light rain", "heavy rain"):
        for text in AMOUNTS:
            assert found.restored[degradation][text] > found.input[degradation][text] + 1, (degradation, text)


def test_leave_it_unchanged_leaves_it_unchanged(found: Steering) -> None:
    for degradation, scores in found.restored.items():
        assert scores["leave it unchanged"] > 38, degradation


def test_a_prompt_for_something_else_keeps_the_rain(found: Steering) -> None:
    for degradation in ("light rain", "heavy rain"):
        assert found.wordings["wrong"][degradation] < found.wordings["correct"][degradation] - 1


def test_lightly_plain_and_completely_remove_more_and_more(found: Steering) -> None:
    for degradation in ("light rain", "heavy rain"):
        lightly, plain, completely = (found.removed[text][degradation] for text in AMOUNTS)
        assert lightly < plain - 0.1
        assert plain <= completely + 0.01


def test_most_sentences_that_training_never_saw_are_done(found: Steering) -> None:
    assert set(found.obeyed) == set(WISHES) == set(UNSEEN)
    assert found.obeyed["rain gone"] > 0.85


def test_targets_are_what_the_requests_say(photographs: Path) -> None:
    data = TrainingData(photographs, validation=True)
    sample = degrade(data, DEGRADATIONS["rain and haze"], 3, 64, seed=1)
    targets = {request.text: target_of(sample, request) for request in REQUESTS}
    assert torch.equal(targets["remove the rain and the haze"], sample.clean)
    assert torch.equal(targets["leave it unchanged"], sample.rainy)
    assert torch.allclose(targets["remove the rain"], sample.hazy, atol=1e-6)
    assert set(RAINY) < set(DEGRADATIONS)


def test_the_command_prints_and_writes_it(photographs: Path, tmp_path: Path) -> None:
    app = Typer()
    app.command()(evaluate)
    path = tmp_path / "prompts.json"
    arguments = ["--prompts", "--data", str(photographs), "--limit", "1", "--json", str(path)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "240"})
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text())
    assert written["scenes"] == 1
    assert f"{written['restored']['haze']['remove the haze']:.1f}" in result.output
    assert f"rain gone {written['obeyed']['rain gone']:.0%}" in result.output
    assert f"{written['wordings']['shuffled']['heavy rain']:.2f}" in result.output
    refused = CliRunner().invoke(app, [*arguments, "--prompt", "rain"], env={"COLUMNS": "240"})
    assert refused.exit_code == 2
