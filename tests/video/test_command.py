"""`derain video` as people call it, end it, and wait for it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import cli
from app.video import VideoOrder, restore_video
from benchmarks.rainy_clip import Frame
from model.restorer import Restorer
from tests.video.clips import ClipOptions, read, write

ROOT = Path(__file__).parents[2]
RAIN = "a photo with moderate rain streaks falling straight down"


def derain_video(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["video", *map(str, arguments), "--device", "cpu"])


def test_json_tells_what_was_done_and_a_leftover_of_a_killed_run_is_no_hindrance(
    tmp_path: Path, rainy: list[Frame]
) -> None:
    source, target = write(tmp_path / "in.mp4", rainy[:8], ClipOptions(sound="aac")), tmp_path / "out.mp4"
    (tmp_path / ".out.part.mp4").write_bytes(b"half a file")
    result = derain_video(source, target, "--json", "--crf", "30")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["frames"], told["codec"], told["crf"], told["notes"]) == (8, "h264", 30, [])
    assert told["prompts"][0]["seconds"] == 0
    assert "rain streaks" in told["prompts"][0]["prompt"]
    assert len(read(target).frames) == 8
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "out.mp4"}
    again = derain_video(source, target)
    assert (again.exit_code, again.stderr) == (1, f"{target} exists; --overwrite replaces it\n")
    replaced = derain_video(source, target, "--overwrite", "--prompt", RAIN)
    assert replaced.exit_code == 0
    assert f"{source} -> {target} (8 frames, " in replaced.stdout
    assert RAIN in replaced.stdout


def test_a_wrong_call_is_told_apart_from_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.mp4").write_bytes(b"no video")
    for wrong in (["in.mp4"], ["nowhere.mp4", "out.mp4"], ["in.mp4", "out.mp4", "--codec", "divx"]):
        assert derain_video(*wrong).exit_code == 2, wrong
    assert derain_video("in.mp4", "out.mp4").exit_code == 1


def test_who_interrupts_it_finds_nothing_half_done(tmp_path: Path, rainy: list[Frame]) -> None:
    source, target = write(tmp_path / "in.mp4", rainy * 20), tmp_path / "out.mp4"
    command = [sys.executable, "-m", "app.cli", "video", source, target, "--prompt", RAIN, "--device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        part, patience = tmp_path / ".out.part.mp4", time.monotonic() + 120
        while not (part.exists() and part.stat().st_size):
            assert running.poll() is None
            assert time.monotonic() < patience
            time.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM, err.decode()
    assert (out, err) == (b"", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_the_memory_does_not_grow_with_the_length(
    tmp_path: Path, rainy: list[Frame], restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that do not change are not computed again, so that many of them pass in a short time. Were they
    kept, those that follow the first measurement would take more than 100 MB."""
    monkeypatch.setattr("app.video.QUEUE_BYTES", 4 * 1024 * 1024)
    still = [frame for frame in rainy[:10] for _ in range(300)]
    source = write(
        tmp_path / "in.mkv", still, ClipOptions(options={"qp": "0", "preset": "ultrafast"}, sound="flac")
    )
    resident: list[int] = []

    def measure(_total: int | None) -> None:
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]))

    summary = restore_video(restorer, source, tmp_path / "out.mkv", VideoOrder(prompt=RAIN), progress=measure)
    assert summary.frames == len(resident) == 3000
    assert (resident[-1] - resident[600]) * os.sysconf("SC_PAGE_SIZE") < 25e6
