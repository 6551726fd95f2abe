"""A probability that `POST /perceive` gives should mean what it says; these figures tell whether it does."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from model.perception import Perceived
from model.prompts import DENSITIES, DIRECTIONS, TYPES, describe
from training.calibration import expected_calibration_error, measure_perception
from training.cli import evaluate
from training.descriptions import Attributes


def test_error_by_hand():
    # Four answers of 0.9, three right, and one of 0.1, wrong: 4/5 * |0.75 - 0.9| + 1/5 * |0 - 0.1|
    error = expected_calibration_error([0.9] * 4 + [0.1], [True, True, True, False, False])
    assert error == pytest.approx(0.8 * 0.15 + 0.2 * 0.1)


def test_as_sure_as_right_is_no_error_and_sure_of_what_is_wrong_is_all():
    assert expected_calibration_error([0.75] * 4, [True, True, True, False]) == 0
    assert expected_calibration_error([1.0] * 3, [False] * 3) == 1
    assert expected_calibration_error([0.0], [False]) == 0


def test_bins_are_fifteen_and_hold_their_upper_edge():
    within, across = [1 / 15, 0.9 / 15], [1 / 15, 1.1 / 15]
    assert expected_calibration_error(within, [True, False]) == pytest.approx(abs(1 - 1.9 / 15) / 2)
    assert expected_calibration_error(across, [True, False]) == pytest.approx((14 / 15 + 1.1 / 15) / 2)


def test_errors_of_chance_equal_an_independent_computation():
    rng = np.random.default_rng(0)
    confidences = rng.random(500)
    correct = rng.random(500) < confidences**2
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in pairwise(edges):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidences[inside].mean())
    assert expected_calibration_error(confidences.tolist(), correct.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize(("confidences", "correct"), [([], []), ([0.5], []), ([1.5], [True])])
def test_what_is_no_answer_is_refused(confidences: list[float], correct: list[bool]):
    with pytest.raises(ValueError, match="confidence"):
        expected_calibration_error(confidences, correct)


def told(image: Tensor) -> Perceived:
    """What a perceiver would say that reads the answer off an image's first pixel."""
    kind, density, direction = (int(value) for value in image[:, 0, 0])

    def sure(words: tuple[str, ...], place: int) -> dict[str, float]:
        return {word: 0.9 if i == place else 0.1 / (len(words) - 1) for i, word in enumerate(words)}

    prompt = describe("rain", "heavy", "left") if TYPES[kind].startswith("rain") else describe("clean")
    return Perceived(prompt, sure(TYPES, kind), sure(DENSITIES, density), sure(DIRECTIONS, direction))


def image(kind: int, density: int = 0, direction: int = 0) -> Tensor:
    return torch.tensor([kind, density, direction], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)


def test_density_and_direction_count_where_it_rains():
    degraded = [
        (image(1, 2, 0), Attributes("rain", "heavy", "left")),
        (image(1, 1, 0), Attributes("rain", "heavy", "left")),
        (image(0, 2, 2), Attributes("rain", "heavy", "right")),
        (image(3), Attributes("haze")),
    ]
    found = measure_perception(told, degraded, [image(0), image(0), image(1), image(0)])
    scores = found.attributes
    assert [scores[name].images for name in ("type", "density", "direction")] == [4, 3, 3]
    assert scores["type"].top1 == 3 / 4
    assert scores["density"].top1 == pytest.approx(2 / 3)
    assert scores["direction"].top1 == 1
    assert scores["direction"].ece == pytest.approx(0.1)
    assert found.rain_found == pytest.approx(2 / 3)
    assert (found.photographs, found.clean_kept) == (4, 0.75)


def test_command_measures_the_shipped_perception(tmp_path: Path):
    rng = np.random.default_rng(0)
    for i in range(40):
        (tmp_path / "clean" / "some").mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8))
        small.resize((210, 200), Image.Resampling.BICUBIC).save(tmp_path / "clean" / "some" / f"photo{i}.png")
    command = typer.Typer()
    command.command("evaluate")(evaluate)
    command.callback()(lambda: None)
    path = tmp_path / "report.json"
    options = ("--perception", "--data", tmp_path, "--json", path, "--limit", "32", "--device", "cpu")
    result = CliRunner().invoke(command, ["evaluate", *map(str, options)])
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text())
    assert written["attributes"]["type"]["images"] == 32
    assert 0 < written["attributes"]["density"]["images"] < 32
    for name, score in written["attributes"].items():
        assert f"{score['top1']:.3f}" in result.output, name
        assert f"{score['ece']:.3f}" in result.output, name
    assert written["photographs"] > 0

    result = CliRunner().invoke(command, ["evaluate", *map(str, options), "--prompt", "rain"])
    assert result.exit_code == 2
    assert "goes with" in result.output
