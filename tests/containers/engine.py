"""What the tests ask of an engine and of Compose."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command in the repository, show its output where it fails, give its standard output."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        timeout=3600,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


def succeeds(*command: str) -> bool:
    """Whether a command is there and exits with 0."""
    return bool(shutil.which(command[0])) and not subprocess.run(command, capture_output=True).returncode


def inspect(container: str) -> dict[str, Any]:
    return json.loads(run("docker", "inspect", container))[0]


def eventually(check: Callable[[], object], *, seconds: float, what: str) -> None:
    """Wait until `check` holds; it may raise httpx.TransportError before it does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if check():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"{what}: not within {seconds:.0f} seconds")


@dataclass(frozen=True)
class Compose:
    """One Compose and a project of it."""

    command: tuple[str, ...]
    project: str
    environment: Mapping[str, str]

    def __call__(self, *arguments: str) -> str:
        print("$", *self.command, *arguments, flush=True)
        return run(*self.command, "--project-name", self.project, *arguments, environment=self.environment)

    def containers(self) -> dict[str, str]:
        """Identifiers of the project's containers, by service, whether they run or not."""
        found = run(
            *("docker", "ps", "--all", "--no-trunc"),
            *("--filter", f"label=com.docker.compose.project={self.project}"),
            *("--format", '{{.Label "com.docker.compose.service"}} {{.ID}}'),
        )
        return dict(line.split() for line in found.splitlines())


@dataclass(frozen=True)
class Composition:
    compose: Compose
    service: str
    prometheus: str
    at_start: Mapping[str, dict[str, Any]]
    """What the engine said of the containers when they had just been started, by service."""

    @property
    def container(self) -> str:
        """Identifier of the service's container."""
        return self.compose.containers()["derain"]

    def is_ready(self) -> bool:
        return httpx.get(f"{self.service}/readyz").is_success

    def ask_prometheus(self, path: str, **parameters: str) -> dict[str, Any]:
        """What its API answers under /api/v1."""
        answer = httpx.get(f"{self.prometheus}/api/v1/{path}", params=parameters).raise_for_status()
        return answer.json()["data"]
