"""A run that is interrupted or killed leaves nothing half done, and the same command goes on from there."""

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import cli
from app.cli.interrupts import Interrupts

COUNT = 60  # on the fastest machine they take longer than a signal needs


@pytest.fixture(autouse=True)
def heard() -> Generator[None]:
    """SIGINT as in a shell's foreground: what a script starts with `&` begins deaf to it, and so does all
    that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Each makes a batch of its own."""
    (tmp_path / "in").mkdir()
    for seed in range(COUNT):
        samples = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(samples).resize((384, 384), Image.Resampling.BICUBIC)
        picture.save(tmp_path / f"in/{seed:02d}.png")
    return tmp_path / "in"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_is_ended_in_the_middle_and_goes_on(number: signal.Signals, photos: Path) -> None:
    out = photos.parent / "out"
    arguments = [
        "restore",
        str(photos),
        "-o",
        str(out),
        "--json",
        "--prompt",
        "heavy rain",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "app.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(number)
        rest, complaint = process.communicate(timeout=300)
    told = [first, *map(json.loads, rest.splitlines())]
    done = sorted(out.glob("*.png"))
    assert 0 < len(done) < COUNT
    for path in done:
        with Image.open(path) as image:
            image.load()
    assert "Traceback" not in complaint
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"interrupted with {COUNT - len(told)} images left" in complaint
        assert sorted(one["output"] for one in told) == list(map(str, done))
        assert sorted(out.iterdir()) == done
    before = {path: path.stat().st_mtime_ns for path in done}
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 0, again.output
    statuses = [json.loads(line)["status"] for line in again.stdout.splitlines()]
    assert (statuses.count("skipped"), statuses.count("restored")) == (len(done), COUNT - len(done))
    assert {path: path.stat().st_mtime_ns for path in done} == before


def test_the_first_signal_is_a_call_and_the_second_one_what_it_always_is() -> None:
    calls: list[int] = []
    interrupts = Interrupts()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupts.calling(lambda: calls.append(interrupts.signal)):
        # to this thread: what comes to another is handled some time later
        signal.raise_signal(signal.SIGTERM)
        assert calls == [signal.SIGTERM]
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")
    assert calls == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before
