"""Completion by the protocols of the shells: what an installed script asks, and what it makes of answers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.checkpoint_folders import available, default_weights_dir

MODELS = available(default_weights_dir())
COMMANDS = {"serve", "restore", "compare", "perceive", "models", "key", "evaluate", "train"}


def derain(*arguments: str, **environment: str) -> str:
    """What `derain` answers; the shells know it by its name."""
    command = [sys.executable, "-m", "app.cli", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env).stdout


def complete(shell: str, line: str) -> list[str]:
    """The words that a shell would offer at the end of a line."""
    asked = {"_DERAIN_COMPLETE": f"complete_{shell}"}
    match shell:
        case "bash":
            words = line.split(" ")
            return derain(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), **asked).split()
        case "zsh":
            answer = derain(_TYPER_COMPLETE_ARGS=line, **asked)
            return [row.split('"')[1] for row in answer.removeprefix("_arguments '*: :((").splitlines()]
        case _:
            answer = derain(_TYPER_COMPLETE_ARGS=line, _TYPER_COMPLETE_FISH_ACTION="get-args", **asked)
            return [row.split("\t")[0] for row in answer.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_and_their_values_are_offered(shell: str) -> None:
    assert set(complete(shell, "derain ")) >= COMMANDS
    assert complete(shell, "derain restore photos --model ") == MODELS


def test_options_and_formats_are_offered() -> None:
    assert {"--output", "--prompt", "--jobs"} <= set(complete("bash", "derain restore --"))
    assert complete("bash", "derain restore --format ") == ["png", "jpeg", "webp", "avif"]
    assert complete("bash", "derain perceive --device c") == ["cpu", "cuda"]


def test_files_are_left_to_the_shell() -> None:
    assert complete("bash", "derain restore pho") == []
    assert derain(_DERAIN_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="derain restore pho") == "_files\n"


@pytest.mark.parametrize(
    ("shell", "script"),
    [
        ("bash", ".bash_completions/derain.sh"),
        ("zsh", ".zfunc/_derain"),
        ("fish", ".config/fish/completions/derain.fish"),
    ],
)
def test_it_installs_for_each_shell(tmp_path: Path, shell: str, script: str) -> None:
    home = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert "installed" in derain("--install-completion", shell, **home)
    assert "_DERAIN_COMPLETE" in (tmp_path / script).read_text()


def test_the_installed_script_completes_in_a_real_bash(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    home = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    derain("--install-completion", "bash", **home)
    program = tmp_path / "bin/derain"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m app.cli "$@"\n')
    program.chmod(0o755)
    script = """
    source ~/.bashrc
    COMP_WORDS=(derain rest) COMP_CWORD=1
    $(complete -p derain | sed 's/.*-F \\([^ ]*\\).*/\\1/') derain rest derain
    echo "${COMPREPLY[@]}"
    """
    asked = subprocess.run(
        [bash, "--norc", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HOME": str(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}"},
    )
    assert asked.stdout == "restore\n", asked.stderr
