"""Every command of docs/command-line.md does what is written there."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import cli

ROOT = Path(__file__).resolve().parents[2]
PAIRS = ROOT / "tests/data/pairs"
TEXT = (ROOT / "docs/command-line.md").read_text()


def run(line: str) -> bytes:
    """A line of commands with pipes and redirections, in this process."""
    data = b""
    for command in line.split(" | "):
        words = shlex.split(command)
        target = None
        while words[-2] in ("<", ">"):
            if words[-2] == "<":
                data = Path(words[-1]).read_bytes()
            else:
                target = Path(words[-1])
            words = words[:-2]
        assert words[0] == "derain"
        ended = CliRunner().invoke(cli, words[1:], input=data)
        assert ended.exit_code == 0, f"{command}: {ended.output}"
        data = ended.stdout_bytes
        if target is not None:
            target.write_bytes(data)
    return data


def test_every_command_works_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos/deep").mkdir(parents=True)
    for name, pair in (("rainy.jpg", "input"), ("clean.jpg", "target")):
        with Image.open(PAIRS / pair / "dogs-heavy-rain.jpg") as image:
            image.crop((60, 50, 156, 130)).save(name, quality=95)
    for name in ("one.jpg", "deep/two.jpg"):
        shutil.copy("rainy.jpg", Path("photos") / name)
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    printed = {line: run(line) for block in blocks for line in block.splitlines()}
    for name in ("restored.png", "piped.jpg", "both.png", "side-by-side.jpg", "all.png", "restored/one.jpg"):
        with Image.open(name) as image:
            image.load()
    webp = {path.relative_to("webp").as_posix() for path in Path("webp").rglob("*.*")}
    assert webp == {"deep/two.webp", "one.webp", "rainy.webp"}
    for line, output in printed.items():
        if "--json" in line:
            told = json.loads(output.splitlines()[0] if " restore " in line else output)
            for member in told[0] if isinstance(told, list) else told:
                assert f"`{member}`" in TEXT, f"{member} of {line} is not documented"
