"""`derain evaluate` is where every figure comes from: what it prints must be what the pictures say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from model.checkpoint_folders import NETWORK, default_weights_dir, read_config
from model.metrics import psnr, ssim
from model.restorer import Restorer
from model.weights import load_network
from training.cli import evaluate
from training.evaluate import evaluate_pair, evaluate_set, report
from training.pairs import PairedSet, find_sets, read_set

DATA = Path(__file__).resolve().parent.parent / "data"
FOLDER = default_weights_dir() / "tvi-derain-s"
PROMPT = "remove the rain"


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_checkpoint(FOLDER, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def pairs() -> PairedSet:
    found = read_set(DATA / "pairs")
    assert found is not None
    return found


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two paired sets of small crops: enough to measure on, quickly."""
    for name, stems in (("one", ["meadow-light-rain"]), ("two", ["dogs-heavy-rain", "nuthatch-heavy-rain"])):
        for kind in ("input", "target"):
            (tmp_path / "data" / name / kind).mkdir(parents=True)
            for stem in stems:
                with Image.open(DATA / "pairs" / kind / f"{stem}.jpg") as image:
                    image.crop((60, 50, 157, 131)).save(tmp_path / "data" / name / kind / f"{stem}.png")
    return tmp_path / "data"


def run(*arguments: str | Path) -> Result:
    """Runs the command as `derain` does, without its entry point being installed."""
    command = typer.Typer()
    command.command("evaluate")(evaluate)
    command.callback()(lambda: None)
    return CliRunner().invoke(command, ["evaluate", *map(str, arguments)])


def test_the_shipped_model_brings_every_photograph_closer(restorer: Restorer, pairs: PairedSet):
    """With the prompt that it perceives itself; cat, coffee and nuthatch were never trained on."""
    result = evaluate_set(restorer, pairs)
    assert len(result.pairs) == 6
    for pair in result.pairs:
        assert pair.restored.psnr >= pair.input.psnr + 4, pair.name
        assert pair.restored.ssim > pair.input.ssim, pair.name


def test_figures_are_those_of_the_saved_pictures(restorer: Restorer, small: Path, tmp_path: Path):
    (one, two) = find_sets(small)
    result = evaluate_set(restorer, two, save=tmp_path / "out")
    for pair, measured in zip(two.pairs, result.pairs, strict=True):
        rainy, clean = pair.read()
        with Image.open(tmp_path / "out" / "two" / f"{pair.name}.png") as image:
            restored = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert measured.input.psnr == psnr(rainy, clean)
        assert measured.input.ssim == ssim(rainy, clean)
        assert measured.restored.psnr == psnr(restored, clean)
        assert measured.restored.ssim == ssim(restored, clean)
        assert (measured.width, measured.height) == (97, 81)
    assert result.restored.psnr == pytest.approx(sum(pair.restored.psnr for pair in result.pairs) / 2)
    assert result.input.ssim == pytest.approx(sum(pair.input.ssim for pair in result.pairs) / 2)
    assert not (tmp_path / "out" / "one").exists()
    assert one.name == "one"


def test_a_network_that_changes_nothing_gains_nothing(small: Path):
    network = load_network(FOLDER, read_config(FOLDER, NETWORK))
    assert isinstance(network.head, nn.Sequential)
    for parameter in network.head.parameters():
        nn.init.zeros_(parameter)
    idle = Restorer(network, None, name="idle", device=torch.device("cpu"), precision=torch.float32)
    for found in find_sets(small):
        for pair in evaluate_set(idle, found, prompt=PROMPT).pairs:
            assert pair.restored == pair.input


def test_each_image_is_restored_with_what_is_perceived_in_it(restorer: Restorer, pairs: PairedSet):
    perceived = {pair.name: restorer.perceive(pair.rainy.read()).prompt for pair in pairs.pairs}
    result = evaluate_set(restorer, pairs)
    assert {pair.name: pair.prompt for pair in result.pairs} == perceived
    assert len(set(perceived.values())) > 1
    assert sum(result.prompts.values()) == pytest.approx(1)
    assert set(result.prompts) == set(perceived.values())


def test_a_given_prompt_is_the_one_used(restorer: Restorer, small: Path):
    (one, _) = find_sets(small)
    kept = evaluate_pair(restorer, one.pairs[0], prompt="leave it unchanged")
    removed = evaluate_pair(restorer, one.pairs[0], prompt=PROMPT)
    assert kept.prompt == "leave it unchanged"
    assert kept.restored != removed.restored


def test_equal_pictures_have_no_figure_in_json(restorer: Restorer, tmp_path: Path):
    for kind in ("input", "target"):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (16, 16), (90, 120, 60)).save(tmp_path / kind / "flat.png")
    found = read_set(tmp_path)
    assert found is not None
    described = report(restorer, [evaluate_set(restorer, found, prompt=PROMPT)], prompt=PROMPT)
    assert json.loads(json.dumps(described, allow_nan=False))["sets"][0]["input"] == {
        "psnr": None,
        "ssim": 1.0,
    }


def test_command_prints_a_table_and_writes_json(small: Path, tmp_path: Path, restorer: Restorer):
    path = tmp_path / "report.json"
    derain = Path(sys.executable).with_name("derain")
    options = ("--data", small, "--json", path, "--save", tmp_path / "out", "--device", "cpu")
    result = subprocess.run(
        [derain, "evaluate", *map(str, options)], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    written = json.loads(path.read_text())
    assert written["model"] == "tvi-derain-s"
    assert written["parameters"] == restorer.parameters
    assert written["prompt"] is None
    assert [(one["name"], one["images"]) for one in written["sets"]] == [("one", 1), ("two", 2)]
    for one in written["sets"]:
        assert f"{one['input']['psnr']:.2f} " in result.stdout
        assert f"{one['restored']['psnr']:.2f} " in result.stdout
        assert f"{one['restored']['ssim']:.4f}" in result.stdout
        assert len(one["pairs"]) == one["images"]
    assert (tmp_path / "out" / "one" / "meadow-light-rain.png").is_file()


def test_command_limits_and_takes_a_prompt_and_a_folder(small: Path, tmp_path: Path):
    path = tmp_path / "report.json"
    options = ("--limit", "1", "--prompt", "[/b] rain", "--model", FOLDER, "--json", path)
    result = run("--data", small / "two", *options)
    assert result.exit_code == 0, result.output
    (only,) = json.loads(path.read_text())["sets"]
    assert (only["images"], only["prompts"]) == (1, {"[/b] rain": 1.0})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--data", "nowhere"), "is not a folder"),
        (("--data", DATA / "pairs", "--model", "tvi-derain-xxl"), "neither a checkpoint in"),
        (("--data", DATA / "pairs", "--model", DATA), "config.json is missing"),
        (("--data", DATA / "pairs", "--precision", "int8"), "unknown precision"),
        (("--data", DATA / "pairs", "--json", "nowhere/report.json"), "is not a folder"),
        (("--data", DATA / "pairs", "--limit", "0"), "greater than or equal to 1"),
    ],
)
def test_command_says_what_is_wrong(options: tuple[str | Path, ...], complaint: str):
    result = run(*options)
    assert result.exit_code != 0
    assert complaint in " ".join(result.output.replace("│", " ").split())
    assert isinstance(result.exception, SystemExit), "a stack trace instead"


def test_command_names_the_pair_that_cannot_be_measured(small: Path):
    Image.new("RGB", (20, 20)).save(small / "two" / "target" / "dogs-heavy-rain.png")
    result = run("--data", small)
    assert result.exit_code == 1
    assert "two: " in result.output
    assert "two sizes: 97x81 and 20x20" in result.output
