"""`deploy/ray/bulk.py` on a cluster of several nodes, of which one dies in the middle of the job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import obstore.store
import pytest
import torch
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from app.formats import FORMATS
from app.image_headers import ImageLimits
from app.images import decode
from deploy.ray import bulk
from model.checkpoint_folders import default_weights_dir
from model.prompts import Prompt
from model.restorer import Restorer
from tests.deploy.conftest import PATIENCE_SECONDS, Nodes, eventually

ROOT = Path(__file__).parents[2]
PROMPT = "a photo with heavy rain streaks falling straight down"


class Run:
    """The command, as it runs."""

    def __init__(self, nodes: Nodes, source: str | Path, result: str | Path, *options: str | Path) -> None:
        arguments = [source, result, "--address", nodes.address, "--prompt", PROMPT, *options]
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "deploy/ray/bulk.py", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "DERAIN_DEVICE": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def end(self) -> tuple[int, str]:
        """Exit status and what it said."""
        said, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        print(said)
        return self.process.returncode, said


def draw(path: Path, side: int, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)


def pixels(data: bytes) -> torch.Tensor:
    return decode(data, ImageLimits(10**8)).pixels


def images(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file())


@pytest.fixture(scope="module")
def restorer() -> Iterator[Restorer]:
    """As on a node, with one thread: in bfloat16 another number of threads rounds the sentence's features and
    with them a picture otherwise, by up to 2 of 255."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Restorer.from_checkpoint(default_weights_dir() / "tvi-derain-s", device="cpu")
    torch.set_num_threads(threads)


def test_a_node_dies_and_every_image_is_there_once(tmp_path: Path, nodes: Nodes, restorer: Restorer) -> None:
    nodes.have(2)
    count, out = 16, tmp_path / "out"
    for seed in range(count):
        draw(tmp_path / f"in/day {seed % 3}/{seed:02}.png", 480, seed)
    (tmp_path / "in/broken.jpg").write_bytes(b"no picture")
    expected = [name for name in images(tmp_path / "in") if name != "broken.jpg"]
    # one was restored before, one was cut off as it was written by something that cannot write at once
    draw(out / expected[0], 64, 0)
    draw(out / expected[1], 480, 0)
    cut = (out / expected[1]).read_bytes()
    (out / expected[1]).write_bytes(cut[: len(cut) // 2])
    before = (out / expected[0]).read_bytes()

    options = "--batch", "4", "--report", tmp_path / "report.json"
    with Run(nodes, tmp_path / "in", out, *options) as run:
        eventually(lambda: len(images(out)) >= 4 or run.process.poll() is not None, "the first are restored")
        assert run.process.poll() is None, run.end()
        [first, *_] = nodes.running("Device")
        nodes.kill(first)
        assert len(images(out)) < count, "the node died after the job"
        status, said = run.end()

    assert status == 1, "the broken one"
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["name"] for one in report["failures"]] == ["broken.jpg"]
    assert "not an image" in report["failures"][0]["error"]
    assert f"broken.jpg: {report['failures'][0]['error']}" in said
    # what the node that died had finished is found whole when its batch is begun again
    assert report["restored"] + report["skipped"] == count
    assert report["skipped"] >= 1
    assert [name for name in images(out) if not Path(name).name.startswith(".")] == expected
    assert (out / expected[0]).read_bytes() == before
    for name in expected[1:]:
        [alone] = restorer.restore([pixels((tmp_path / "in" / name).read_bytes())], [Prompt(PROMPT)])
        difference = alone.int() - pixels((out / name).read_bytes()).int()
        assert difference.abs().max() <= 1, name


def test_buckets(tmp_path: Path, nodes: Nodes, buckets: str) -> None:
    nodes.have(1)
    for bucket in ("rainy", "dry"):
        httpx.put(f"{buckets}/{bucket}").raise_for_status()
    rainy, dry = (obstore.store.from_url(f"s3://{bucket}") for bucket in ("rainy", "dry"))
    for seed in range(3):
        draw(tmp_path / f"{seed}.jpg", 96, seed)
        rainy.put(f"2026/{seed}.jpg", tmp_path / f"{seed}.jpg")
    dry.put("all/2026/1.webp", b"RIFF, and nothing more")

    with Run(nodes, "s3://rainy", "s3://dry/all", "--format", "webp") as run:
        status, said = run.end()
    assert (status, "3 restored" in said) == (0, True)
    names = sorted(one["path"] for page in dry.list() for one in page)
    assert names == [f"all/2026/{seed}.webp" for seed in range(3)]
    sizes = {pixels(bytes(dry.get(name).bytes())).shape for name in names}
    assert sizes == {(3, 96, 96)}


@pytest.mark.parametrize("wrong", [["nowhere", "out"], ["in", "in/out"], ["in", "out", "--format", "gif"]])
def test_a_wrong_call_is_told_before_anything_is_started(tmp_path: Path, wrong: list[str]) -> None:
    draw(tmp_path / "in/photo.png", 8, 0)
    command = Typer()
    command.command()(bulk.main)
    source, result, *options = wrong
    told = CliRunner().invoke(
        command, [str(tmp_path / source), str(tmp_path / result), *options, "--address", "127.0.0.1:1"]
    )
    assert told.exit_code == 2, told.output


def test_names_tell_what_becomes_of_images() -> None:
    names = ["a.jpg", "a.JPEG", "b/c.webp", "b/c.png"]
    rows, errors = bulk.plan(names, None)
    assert [(row["result"], row["format"]) for row in rows] == [
        ("a.jpg", "jpeg"),
        ("a.JPEG", "jpeg"),
        ("b/c.webp", "webp"),
        ("b/c.png", "png"),
    ]
    assert not errors
    rows, errors = bulk.plan(names, FORMATS["png"])
    assert [row["result"] for row in rows] == ["a.png", "b/c.png"]
    assert errors.keys() == {"a.JPEG", "b/c.png"}, "two would be one file"
