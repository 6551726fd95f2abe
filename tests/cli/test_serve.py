"""`derain serve` as a real process on a real socket."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

WEIGHTS = Path(__file__).parents[2] / "weights"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_serves_on_the_port_asked_for_and_leaves_on_sigterm() -> None:
    port = free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until and process.poll() is None:
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/readyz").is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            else:
                pytest.fail("it never became ready")
            assert httpx.get(f"http://127.0.0.1:{port}/models").json()["models"]
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert " INFO app.main: " in log
    assert "Traceback" not in log


def shipped(folder: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS, folder / "weights"))


def truncated(folder: Path) -> Path:
    weights = shipped(folder)
    file = weights / "tvi-derain-s/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return weights


def swapped(folder: Path) -> Path:
    weights = shipped(folder)
    file = weights / "tvi-derain-s/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return weights


def without_perception(folder: Path) -> Path:
    weights = shipped(folder)
    (weights / "degradation-clip/model.safetensors").unlink()
    return weights


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        pytest.param({"WEIGHTS_DIR": lambda folder: folder}, "{folder}", id="no weights"),
        pytest.param({"WEIGHTS_DIR": truncated}, "damaged: tvi-derain-s", id="truncated weights"),
        pytest.param({"WEIGHTS_DIR": swapped}, "damaged: tvi-derain-s", id="weights of another hash"),
        pytest.param({"WEIGHTS_DIR": without_perception}, "degradation-clip", id="half of the weights"),
        pytest.param({"DEADLINE_SECONDS": lambda _: "soon"}, "DERAIN_DEADLINE_SECONDS", id="no number"),
        pytest.param({"BATCH_PIXELS": lambda _: "-1"}, "DERAIN_BATCH_PIXELS", id="a number out of range"),
        pytest.param({"MAX_INFLIGHT_BYTES": lambda _: "1"}, "max_inflight_bytes", id="limits disagree"),
        pytest.param({"MODELS": lambda _: "no-such"}, "no-such", id="a model that is not there"),
        pytest.param({"DEVICE": lambda _: "cuda:99"}, "cuda:99", id="a device that is not there"),
        pytest.param(
            {"PRECISION": lambda _: "float7"}, "DERAIN_PRECISION", id="a precision that is not known"
        ),
        pytest.param(
            {"API_KEYS_FILE": lambda folder: folder / "no"}, "DERAIN_API_KEYS_FILE", id="no key file"
        ),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start_in_one_line(
    variables: dict[str, Callable[[Path], object]],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it would fail at the first request, or tell in fifty lines of Python what one would have told."""
    for name, value in variables.items():
        monkeypatch.setenv(f"DERAIN_{name}", str(value(tmp_path)))
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(free_port())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode not in (0, -signal.SIGTERM)
    assert says.format(folder=tmp_path) in ended.stderr
    assert "Traceback" not in ended.stderr
    told = [line for line in ended.stderr.splitlines() if line.strip() and " INFO " not in line]
    assert len(told) <= 3, ended.stderr
