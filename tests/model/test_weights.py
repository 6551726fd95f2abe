"""Weights are code's equal: what is damaged, swapped or pickled must not be loaded, and be named."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from model.checkpoint_folders import (
    NETWORK,
    CheckpointError,
    available,
    default_weights_dir,
    read_config,
    sha256,
)
from model.config import PRESETS
from model.network import TVIDerain
from model.prompts import Prompt
from model.restorer import Restorer
from model.weights import build_network, export_network, load_network, parameter_count

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TVIDerain]:
    """An untrained network beside the shipped text tower, written as a checkpoint."""
    root = tmp_path_factory.mktemp("weights")
    shutil.copytree(weights / "degradation-clip", root / "degradation-clip")
    torch.manual_seed(0)
    network = build_network(PRESETS["s"], root).eval()
    export_network(root / "tiny", network, weights=root, description={"trained": "never"})
    return root, network


@pytest.fixture
def root(made: tuple[Path, TVIDerain], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made[0], tmp_path / "weights")
    return tmp_path / "weights"


def load(root: Path) -> TVIDerain:
    return load_network(root / "tiny", read_config(root / "tiny", NETWORK))


def change_config(root: Path, change: Callable[[dict[str, Any]], None], name: str = "tiny") -> None:
    path = root / name / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def change_state(root: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the tensors and names the new file's hash, as a well-meaning person would."""
    path = root / "tiny" / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    change_config(root, lambda config: config.update(sha256=sha256(path)))


def test_a_written_network_is_read_back_exactly(made: tuple[Path, TVIDerain]):
    root, network = made
    loaded = load(root)
    assert not loaded.training
    assert loaded.config == network.config
    written, read = network.state_dict(), loaded.state_dict()
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in written)


def test_half_the_bytes_restore_the_same_picture(weights: Path, tmp_path: Path):
    shutil.copytree(weights / "degradation-clip", tmp_path / "degradation-clip")
    shipped = weights / "tvi-derain-s"
    network = load_network(shipped, read_config(shipped, NETWORK))
    export_network(tmp_path / "half", network, weights=tmp_path, half=True)
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 0.51 * (shipped / "model.safetensors").stat().st_size
    whole, half = (
        Restorer.from_checkpoint(folder, device="cpu", precision="float32")
        for folder in (shipped, tmp_path / "half")
    )
    with Image.open(next((ROOT / "tests/data/pairs/input").glob("coffee*.jpg"))) as image:
        rainy = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
    prompt = [Prompt(degradation="a photo with heavy rain streaks")]
    difference = whole.restore([rainy], prompt)[0].int() - half.restore([rainy], prompt)[0].int()
    assert difference.abs().max() <= 1


def test_the_frozen_tower_is_stored_once(made: tuple[Path, TVIDerain]):
    root, network = made
    stored = load_file(root / "tiny" / "model.safetensors")
    assert "text.null" in stored
    assert not [
        name for name in stored if "token_embedding" in name or name.startswith("text.blocks.0.block.")
    ]
    learned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert set(stored) == learned
    assert parameter_count(network) == sum(tensor.numel() for tensor in stored.values())


def test_available_names_restoration_checkpoints_only(root: Path):
    shutil.copytree(root / "tiny", root / "another")
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("not a checkpoint")
    assert available(root) == ["another", "tiny"]
    assert available(root / "nowhere") == []


def test_one_changed_bit_is_found(root: Path):
    path = root / "tiny" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not the file its config\.json names: SHA-256 is "):
        load(root)


def test_a_cut_off_file_is_found(root: Path):
    path = root / "tiny" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(root)


class Bomb:
    """Pickled, it is a file that is created by whoever loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_refused_and_not_run(root: Path, tmp_path: Path, kind: str):
    path, trace = root / "tiny" / "model.safetensors", tmp_path / "it-was-run"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save(Bomb(trace), path)
    change_config(root, lambda config: config.update(sha256=sha256(path)))
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load(root)
    assert not trace.exists()


def test_a_pickle_beside_is_not_looked_at(root: Path, tmp_path: Path):
    (root / "tiny" / "model.safetensors").unlink()
    torch.save(Bomb(tmp_path / "it-was-run"), root / "tiny" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load(root)
    assert not (tmp_path / "it-was-run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "does not hold an object"),
        ('{"format": 2, "kind": "tvi-derain"}', "not a tvi-derain checkpoint of format 1"),
        ('{"format": 1, "kind": "clip"}', "not a tvi-derain checkpoint of format 1"),
    ],
)
def test_a_configuration_of_something_else_is_refused(root: Path, content: str, message: str):
    (root / "tiny" / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_config(root / "tiny", NETWORK)


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_foreign_folder_does_not_hide_the_others(root: Path, content: str):
    (root / "foreign").mkdir()
    (root / "foreign" / "config.json").write_bytes(content.encode("latin-1"))
    assert available(root) == ["tiny"]


def test_another_shape_is_refused(root: Path):
    def widen(config: dict[str, Any]) -> None:
        config["network"]["restoration"]["widths"] = [40, 64, 128]

    change_config(root, widen)
    with pytest.raises(CheckpointError, match="does not fit its configuration"):
        load(root)


def test_missing_and_unknown_tensors_are_refused(root: Path):
    change_state(root, lambda state: state.pop("text.null"))
    with pytest.raises(CheckpointError, match=r"does not fit its configuration, for example in text\.null"):
        load(root)
    change_state(root, lambda state: state.update({"text.null": torch.zeros(128), "extra": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="does not fit its configuration, for example in extra"):
        load(root)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("network"),
        lambda config: config["network"].pop("text"),
        lambda config: config["network"].update(colour="blue"),
        lambda config: config["network"]["restoration"].update(depth=3),
        lambda config: config["network"]["restoration"].update(heads=[1]),
    ],
    ids=["no network", "no text", "unknown part", "unknown field", "inconsistent"],
)
def test_an_architecture_that_is_none_is_refused(root: Path, change: Callable[[dict[str, Any]], None]):
    change_config(root, change)
    with pytest.raises(CheckpointError, match="does not describe a network"):
        load(root)


def test_another_text_tower_than_in_training_is_refused(root: Path):
    path = root / "degradation-clip" / "model.safetensors"
    state = load_file(path)
    state["token_embedding.weight"] += 1
    save_file(state, path)
    change_config(root, lambda config: config.update(sha256=sha256(path)), name="degradation-clip")
    with pytest.raises(CheckpointError, match="trained with another degradation-clip"):
        load(root)


def test_weights_are_beside_the_package_or_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("DERAIN_WEIGHTS_DIR", str(tmp_path))
    assert default_weights_dir() == tmp_path
    monkeypatch.delenv("DERAIN_WEIGHTS_DIR")
    assert default_weights_dir() == Path(__file__).resolve().parents[2] / "weights"
