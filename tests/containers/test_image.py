"""The image by itself: what is in it, what is not, and as whom it runs."""

import json
import tomllib
from typing import Any

import pytest

from tests.containers.conftest import LABELS
from tests.containers.engine import ROOT, run, succeeds

pytestmark = pytest.mark.containers

COMPILERS = (
    "as",
    "c++",
    "cc",
    "cc1",
    "cicc",
    "clang",
    "cpp",
    "g++",
    "gcc",
    "ld",
    "make",
    "nvcc",
    "ptxas",
    "tcc",
)

FIND = """
import os, sys
names = set(sys.argv)
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = set(folders) - {"proc", "sys", "dev"}
    for path in (os.path.join(folder, name) for name in files if names & set(name.split("-"))):
        if os.access(path, os.X_OK) and ".so" not in path:
            print(path)
"""
"""Prints the executable files of the given names, those of a version (gcc-12) and of a platform included."""


def inspect(image: str) -> dict[str, Any]:
    return json.loads(run("docker", "image", "inspect", image))[0]


def in_image(image: str, *command: str, user: str = "0") -> str:
    return run(
        *("docker", "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--user", user),
        *("--entrypoint", command[0], image, *command[1:]),
    )


def test_it_is_as_large_as_it_is(image: str) -> None:
    """Prints what it weighs and by what; a copy left in a layer would show as more than the files weigh."""
    size = inspect(image)["Size"]
    print(f"{size / 1e9:.2f} GB")
    print(run("docker", "history", "--format", "{{.Size}}\t{{.CreatedBy}}", image))
    files = int(in_image(image, "du", "--summarize", "--bytes", "--one-file-system", "/").split()[0])
    assert size < 1.05 * files


def test_there_is_no_compiler(image: str) -> None:
    assert in_image(image, "python", "-c", FIND, *COMPILERS) == ""


def test_the_environment_of_the_service_brings_no_pip(image: str) -> None:
    assert not succeeds(
        "docker", "run", "--rm", "--network", "none", image, "/opt/derain/bin/python", "-m", "pip"
    )


def test_labels_say_what_it_is_and_where_it_comes_from(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = inspect(image)["Config"]["Labels"]
    named = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert named.pop("description")
    assert named == {
        "title": project["name"],
        "licenses": project["license"],
        "version": project["version"],
        "source": LABELS["SOURCE"],
        "revision": LABELS["REVISION"],
    }


def test_it_runs_as_nobody_in_particular_and_without_a_shell_between(image: str) -> None:
    config = inspect(image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Cmd"][:2] == ["derain", "serve"]
    assert config["Entrypoint"] is None
    assert config["Healthcheck"]["Test"][0] == "CMD"


def test_the_weights_are_inside(image: str) -> None:
    """Whole, for whoever it runs as, and without a network."""
    listed = json.loads(in_image(image, "derain", "models", "--json", user="12345:12345"))
    print(listed)
    assert {one.name for one in (ROOT / "weights").iterdir() if one.name.startswith("tvi-")} <= {
        model["name"] for model in listed
    }


def test_it_can_send_traces_where_it_is_asked_to(image: str) -> None:
    in_image(image, "python", "-c", "import app.otel")


def test_only_what_it_is_made_of_is_in_the_context(image: str) -> None:
    """Neither the tests nor the history, which may hold what nobody meant to publish."""
    assert (
        in_image(image, "find", "/", "-xdev", "-name", ".git", "-o", "-xdev", "-name", "test_compose.py")
        == ""
    )
