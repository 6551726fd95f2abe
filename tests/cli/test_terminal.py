"""What is shown, and where: scripts read standard output, people watch terminals, nobody likes to wait."""

import json
import os
import pty
import re
import subprocess
import sys
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from app.cli import cli, terminal
from model.checkpoint_folders import available, default_weights_dir

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")
COMMAND = [sys.executable, "-m", "app.cli"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300, env=env)


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command writes where both outputs are a terminal."""
    controller, terminal = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", **environment}
    with subprocess.Popen([*COMMAND, *arguments], stdout=terminal, stderr=terminal, env=env) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                shown += (some := os.read(controller, 65536))
            except OSError:  # Linux says so at the end
                break
            if not some:
                break
        process.wait(timeout=300)
    os.close(controller)
    return shown.decode()


@pytest.mark.parametrize("arguments", [["--help"], ["restore", "--help"], ["models", "--json"]])
def test_what_needs_no_network_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from app.cli import main\ntry: main()\nfinally: sys.stderr.write(' '.join(sys.modules))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, check=True
    )
    loaded = set(asked.stderr.split())
    assert "app.cli.restore" in loaded
    assert not loaded & {"torch", "open_clip", "torchvision", "fastapi", "uvicorn", "pyvips", "httpx"}


def test_the_version_is_that_of_the_package() -> None:
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"derain {version('tvi-derain')}\n"


def test_models_are_told_in_json() -> None:
    asked = run("models", "--json")
    assert [one["name"] for one in json.loads(asked.stdout)] == available(default_weights_dir())
    assert asked.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["restore", "nowhere.jpg", "-o", "out"], "derain restore: .*nowhere.jpg does not exist"),
        (["restore", "--formt", "png"], "derain restore: No such option: --formt"),
        (["resotre"], "derain: No such command 'resotre'"),
        (["serve", "--port", "70000"], "derain serve: .*--port"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(arguments: list[str], said: str) -> None:
    asked = CliRunner().invoke(cli, arguments)
    assert asked.exit_code == 2
    assert asked.stdout == ""
    assert re.fullmatch(f"{said}.*\n", asked.stderr)


def test_settings_that_are_wrong_are_named() -> None:
    asked = run("models", DERAIN_MAX_IMAGES="-1")
    assert asked.returncode == 1
    assert asked.stderr.splitlines()[0].startswith("DERAIN_MAX_IMAGES: ")
    assert "Traceback" not in asked.stderr


def test_file_names_need_not_be_utf_8(tmp_path: Path) -> None:
    picture, both = (os.fsencode(tmp_path) + name for name in (b"/\xe9t\xe9.png", b"/\xe9t\xe9s.png"))
    with Path(os.fsdecode(picture)).open("wb") as file:
        Image.new("RGB", (16, 16)).save(file, "PNG")
    arguments = [*map(os.fsencode, COMMAND), b"compare", picture, picture, b"-o", both]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as where the locale is UTF-8
    compared = subprocess.run(arguments, capture_output=True, timeout=300, env=strict)
    assert (compared.returncode, compared.stdout, compared.stderr) == (0, both + b"\n", b"")


def test_without_a_command_the_help_is_shown() -> None:
    asked = run()
    assert asked.returncode == 2
    assert "restore" in asked.stdout + asked.stderr


def test_colours_are_for_terminals_and_for_whoever_wants_them() -> None:
    assert COLOUR.search(on_a_terminal("--help"))
    assert not COLOUR.search(on_a_terminal("--help", NO_COLOR="1"))
    assert "\x1b" not in run("--help").stdout


def test_an_image_is_not_written_to_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    assert "redirect it" in on_a_terminal("restore", str(tmp_path / "photo.jpg"), "-o", "-")


def test_the_bar_tells_how_many_how_fast_and_how_long_still(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=screen, force_terminal=True, width=100))
    with terminal.progress("restoring", 4) as advance:
        for _ in range(3):
            advance()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"restoring .*3/4 .*[0-9.e+]+ images/s 0:00:0\d", shown)
    screen = StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=screen))
    with terminal.progress("restoring", 4) as advance:
        advance()
    assert screen.getvalue() == ""
