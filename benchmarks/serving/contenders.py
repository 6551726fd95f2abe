"""Who is measured: how each is started, where it takes photographs, and where it is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

from benchmarks.process import ROOT, Server, free_port, serving
from benchmarks.serving.load import Post
from benchmarks.serving.pictures import photograph_file, posts

PROMPT = "a photo with heavy rain streaks"
"""That of `restoring`, which this process need not import."""

WAIT_SECONDS = 0.01
"""How long a peer waits for its batch to become fuller: Ray Serve's default."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server.

    Attributes:
        package: of the server, as it is installed.
        requirements: what its environment gets beside this one's packages.
        command: behind `python`, for a port and the most images in a batch.
        path: takes forms with a field `image`.
    """

    name: str
    package: str
    requirements: tuple[str, ...]
    command: Callable[[int, int], list[str]]
    path: str

    def posts(self, files: Sequence[bytes]) -> list[Post]:
        """Requests that restore these JPEG files."""
        return posts(files, self.path, "image")

    @contextmanager
    def running(self, python: Path, max_batch_size: int) -> Iterator[Server]:
        """Start it, until it has restored its first photograph; ends it. Raises RuntimeError."""
        port = free_port()
        [first] = self.posts([photograph_file(0, (64, 64))])

        def ready(url: str) -> bool:
            return httpx.post(
                f"{url}{first.path}",
                content=first.body,
                headers={"Content-Type": first.content_type},
                timeout=60,
            ).is_success

        command = [str(python), *self.command(port, max_batch_size)]
        environment = {"PYTHONPATH": str(ROOT)}
        with serving(command, port=port, ready=ready, environment=environment) as server:
            yield server


def _module(name: str, *arguments: str) -> Callable[[int, int], list[str]]:
    def command(port: int, max_batch_size: int) -> list[str]:
        return ["-m", f"benchmarks.serving.peers.{name}", str(port), str(max_batch_size), *arguments]

    return command


def _ours(port: int, max_batch_size: int) -> list[str]:
    del max_batch_size  # it measures by itself what a batch should hold
    return ["-m", "app.cli", "serve", "--port", str(port), "--log-level", "warning"]


OURS = Contender("derain", "tvi-derain", (), _ours, f"/derain?prompt={quote(PROMPT)}")

PEERS = [
    Contender(
        "LitServe",
        "litserve",
        ("litserve==0.2.19",),
        _module("litserve_server", str(WAIT_SECONDS)),
        "/predict",
    ),
    Contender(
        "Ray Serve", "ray", ("ray[serve]==2.60.0",), _module("ray_server", str(WAIT_SECONDS)), "/derain"
    ),
    Contender("BentoML", "bentoml", ("bentoml==1.4.40",), _module("bentoml_server"), "/derain"),
]

SHARED = ("torch", "numpy", "pillow", "open_clip_torch", "pyvips")
"""What computes; every contender has it in the version of this environment."""


def environment(contender: Contender, folder: Path, *, install: bool) -> Path | None:
    """The Python of a contender: this one, or a virtual environment `folder/<package>` on top of it.

    Peers do not agree with each other's pins, nor with ours, so each gets an environment of its own, in which
    packages of this one are found behind its own.

    Returns:
        None where it is not installed and `install` is False.
    """
    if not contender.requirements:
        return Path(sys.executable)
    python = folder / contender.package / "bin/python"
    if python.exists() and _version(python, contender.package) is not None:
        return python
    if not install:
        return None
    subprocess.run([sys.executable, "-m", "venv", str(folder / contender.package)], check=True)
    [packages] = (folder / contender.package).glob("lib/python*/site-packages")
    (packages / "this_environment.pth").write_text(f"{Path(httpx.__file__).parents[1]}\n")
    constraints = folder / "constraints.txt"
    versions = {name: _version(Path(sys.executable), name) for name in SHARED}
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    pip = [str(python), "-m", "pip", "install", "--constraint", str(constraints), *contender.requirements]
    subprocess.run(pip, check=True)
    return python


def versions(contender: Contender, python: Path) -> dict[str, str | None]:
    """Of the server and of what it computes with."""
    return {name: _version(python, name) for name in (contender.package, "torch", "starlette", "uvicorn")}


def _version(python: Path, package: str) -> str | None:
    program = f"import importlib.metadata as m; print(m.version({package!r}))"
    found = subprocess.run([str(python), "-c", program], capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None
