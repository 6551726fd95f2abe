"""A run that was killed must go on as if nothing had happened, to the last digit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from app.checkpoints import inspect
from app.image_headers import ImageLimits
from app.images import decode
from model.checkpoint_folders import CLIP, NETWORK, CheckpointError, read_config
from model.config import PRESETS
from model.network import TVIDerain
from model.prompts import Prompt
from model.restorer import Restorer
from model.weights import load_network, read_state, write_checkpoint
from training.export import export_run
from training.scenes import DataError, TrainingData, held_out, read_rgb
from training.train import Stage, TrainConfig, averaged_state, load_averaged, train

RUN = """
import sys
from pathlib import Path
from training.train import Stage, TrainConfig, train
text = sys.argv[3] == "text"
config = TrainConfig(steps=int(sys.argv[4]), text=text, weights=sys.argv[5], threads=1, checkpoint_minutes=0,
                     layerwise_rates=text, validate_minutes=1e9, warmup_steps=4,
                     stages=(Stage(until=0.5, crop=32, batch=2), Stage(until=1, crop=40, batch=2)))
train(config, Path(sys.argv[1]), Path(sys.argv[2]))
"""
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature data folder: photographs (some held out), streaks, pairs of both layouts."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def picture(path: Path, height: int = 60, width: int = 70) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(path)

    for i in range(40):
        picture(root / "clean" / "some" / f"photo{i}.png")
    for i in range(40):
        picture(root / "streaks" / "rendered" / f"streak{i}.png")
    for side in ("input", "target"):
        for i in range(4):
            picture(root / "pairs_train" / "rain200h" / side / f"{i}.png")
    for i in range(40):
        picture(root / "pairs_train" / "side_by_side" / f"{i}.jpg", width=140)
    return root


def run(data: Path, out: Path, text: str, steps: int = 8) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", RUN, str(data), str(out), text, str(steps), str(WEIGHTS)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("text", ["null", "text"])
def test_killed_and_resumed_equals_uninterrupted(data: Path, tmp_path: Path, text: str) -> None:
    whole = run(data, tmp_path / "whole", text)  # beside the other
    broken = run(data, tmp_path / "broken", text)
    last = tmp_path / "broken" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and broken.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    step = torch.load(last, weights_only=True)["step"]
    assert 0 < step < 8, "killed too late to test anything"
    resumed = run(data, tmp_path / "broken", text)
    for process in (whole, resumed):
        assert process.wait() == 0, process.stderr and process.stderr.read().decode()

    one = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)
    two = torch.load(last, weights_only=True)
    assert one["step"] == two["step"] == 8
    assert all(torch.equal(one["network"][k], two["network"][k]) for k in one["network"])
    assert all(torch.equal(a, b) for a, b in zip(one["average"], two["average"], strict=True))


def test_the_twin_without_text_is_exported_and_hears_nothing(data: Path, tmp_path: Path) -> None:
    """Text and no text can be compared at the same budget only if the twin is restored as it was trained."""
    run_folder, folder = tmp_path / "run", tmp_path / "weights" / "twin"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "degradation-clip").symlink_to(WEIGHTS / "degradation-clip")
    config = TrainConfig(
        steps=2,
        text=False,
        weights=str(WEIGHTS),
        stages=(Stage(until=1.0, crop=32, batch=2),),
        learning_rate=0.01,
    )
    train(config, data, run_folder)
    export_run(run_folder, folder, weights=WEIGHTS)
    restorer = Restorer.from_checkpoint(folder, device="cpu", precision="float32")

    image = torch.randint(0, 256, (3, 40, 48), dtype=torch.uint8)
    told = [Prompt(), Prompt("completely remove the rain"), Prompt("leave it unchanged", "a red car")]
    first, *others = (restorer.restore([image], [prompt])[0] for prompt in told)
    assert all(torch.equal(first, other) for other in others)

    network = TVIDerain(PRESETS["s"])
    saved = torch.load(run_folder / "last.pt", weights_only=True)
    load_averaged(network, saved)
    token = torch.zeros(1, 1, PRESETS["s"].text.width)
    with torch.inference_mode():
        trained = network.eval()(image[None] / 255, token, torch.ones(1, 1, dtype=torch.bool))[0]
    expected = (trained.clamp(0, 1) * 255).round()
    assert (first - expected).abs().max() <= 1
    assert not torch.equal(first, image)
    assert restorer.perceive(image).prompt
    assert inspect(folder).text == "none"


def test_held_out_scenes_are_never_trained_on(data: Path) -> None:
    kept = sum(held_out(f"photo{i}") for i in range(40))
    assert 0 < kept < 20
    pairs = 4 + 40
    training, validation = TrainingData(data), TrainingData(data, validation=True)
    assert len(training.photographs) + len(validation.photographs) == 40 + pairs
    assert len(training.pairs) + len(validation.pairs) == pairs
    assert len(validation.photographs) >= kept


def test_missing_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="clean"):
        TrainingData(tmp_path)
    (tmp_path / "clean").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "clean" / "not-in-a-set.png")
    with pytest.raises(DataError, match="no photographs"):
        TrainingData(tmp_path)
    (tmp_path / "clean" / "some").mkdir()
    for i in range(20):
        (tmp_path / "clean" / "some" / f"{i}.png").write_bytes(b"rain")
    with pytest.raises(DataError, match=r"clean/some/\d+\.png cannot be read"):
        TrainingData(tmp_path)


def test_photographs_are_read_as_the_service_reads_them(tmp_path: Path) -> None:
    grey = np.arange(6, dtype=np.uint16).reshape(2, 3) * 13107
    Image.fromarray(grey).save(tmp_path / "sixteen.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray((grey // 257).astype(np.uint8)).save(tmp_path / "sideways.png", exif=exif)
    upright = decode((tmp_path / "sideways.png").read_bytes(), ImageLimits(100))
    assert read_rgb(tmp_path / "sixteen.png")[0].tolist() == [[0, 51, 102], [153, 204, 255]]
    assert torch.equal(read_rgb(tmp_path / "sideways.png"), upright.pixels)


def test_a_run_of_several_processes_is_exported_once_and_whole(data: Path, tmp_path: Path) -> None:
    (tmp_path / "degradation-clip").symlink_to(WEIGHTS / "degradation-clip")
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = Path(sys.executable).parent / "derain"
    options = ["--steps", "2", "--crop", "32", "--batch", "2", "--threads", "1"]
    places = ["--data", str(data), "--out", str(tmp_path / "run"), "--export", str(tmp_path / "derained")]
    subprocess.run([*started, str(command), "train", *options, *places], check=True, timeout=300)
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert saved["step"] == 2
    state = load_network(tmp_path / "derained", read_config(tmp_path / "derained", NETWORK)).state_dict()
    assert all(torch.equal(state[name], average) for name, average in averaged_state(saved).items())


def test_a_run_goes_on_with_the_clip_that_it_began_with_alone(data: Path, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "degradation-clip", tmp_path / "degradation-clip")
    stages = (Stage(until=1, crop=32, batch=2),)
    config = TrainConfig(steps=1, weights=str(tmp_path), stages=stages)
    train(config, data, tmp_path / "run")
    path = tmp_path / "degradation-clip"
    settings = read_config(path, CLIP)
    state = {name: tensor + 0.01 for name, tensor in read_state(path, settings).items()}
    write_checkpoint(path, CLIP, state, {k: v for k, v in settings.items() if k != "sha256"})
    with pytest.raises(CheckpointError, match="another degradation-clip"):
        train(replace(config, steps=2), data, tmp_path / "run")
    with pytest.raises(CheckpointError, match="another degradation-clip"):
        export_run(tmp_path / "run", tmp_path / "derained", weights=tmp_path)


def test_schedule_warms_up_and_ends_at_the_final_rate() -> None:
    config = TrainConfig(steps=1000, warmup_steps=100, learning_rate=1e-3, final_learning_rate=1e-6)
    assert config.rate(0, 0.0) == pytest.approx(1e-5)
    assert config.rate(100, 0.1) > config.rate(500, 0.5) > config.rate(999, 1.0)
    assert config.rate(1000, 1.0) == pytest.approx(1e-6)
    assert config.stage(0.0) == Stage(until=0.45, crop=64, batch=16)
    assert config.stage(1.0).crop == 128


def test_a_run_is_as_long_as_steps_or_minutes_say() -> None:
    with pytest.raises(ValueError, match="either"):
        TrainConfig()
    with pytest.raises(ValueError, match="either"):
        TrainConfig(steps=1, minutes=1)
    assert TrainConfig(minutes=2).progress(10**9, 60) == pytest.approx(0.5)
    assert set(PRESETS) == {"paper", "m", "s"}
