"""What the documentation tells people to type, typed: its shell and its Python, against a real service."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from documentation import metrics

ROOT = Path(__file__).parents[2]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

NOT_HERE = ("make serve", ".venv/bin/derain restore tests/data/pairs/input --output restored --format png")
"""What the fixtures have done already, and what the tutorial does but for its last option."""


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of each block of a page."""
    for block in BLOCK.finditer((ROOT / "docs" / page).read_text()):
        yield block[1], block[2]


def masked(text: str) -> list[str]:
    """Lines without what differs from run to run: measurements and ids."""
    text = re.sub(r"\d+\.\d+(e-?\d+)?", "N", text)
    return [line.rstrip() for line in re.sub(r"\b[0-9a-f]{32}\b", "ID", text).splitlines()]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like a clone after `make serve`, where files may be made."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def typed(
    service_url: str, checkout: Path, environment: dict[str, str]
) -> Callable[[str], list[tuple[str, str]]]:
    """Runs the blocks of shell of a page, one after the other in one shell; gives what each was to print in
    the end, and what it printed."""

    def run(page: str) -> list[tuple[str, str]]:
        script = ["set -euo pipefail"]
        expected: list[str | None] = []
        for language, text in blocks(page):
            if language == "sh" and not text.startswith(NOT_HERE):
                here = text.replace("http://127.0.0.1:8000", service_url)
                script.append(f"{{\n{here}}} > printed-{len(expected)}")
                expected.append(None)
            elif language == "text" and expected:
                expected[-1] = text
        (checkout / "script.sh").write_text("\n".join(script) + "\n")
        ran = subprocess.run(
            ["bash", "script.sh"], cwd=checkout, env=environment, capture_output=True, text=True, timeout=600
        )
        assert ran.returncode == 0, ran.stderr
        return [
            (text, (checkout / f"printed-{number}").read_text())
            for number, text in enumerate(expected)
            if text is not None
        ]

    return run


@pytest.mark.parametrize(("page", "told"), [("tutorial.md", 8), ("pipelines.md", 2)])
def test_what_is_typed_prints_what_is_told(
    typed: Callable[[str], list[tuple[str, str]]], page: str, told: int
) -> None:
    results = typed(page)
    assert len(results) == told
    for expected, printed in results:
        wanted = masked(expected)
        assert masked(printed)[-len(wanted) :] == wanted


def test_python_of_the_pipelines_page_runs(
    service_url: str, checkout: Path, environment: dict[str, str]
) -> None:
    (code,) = (text for language, text in blocks("pipelines.md") if language == "python")
    (checkout / "example.py").write_text(code.replace("http://127.0.0.1:8000", service_url))
    subprocess.run([sys.executable, "example.py"], cwd=checkout, env=environment, check=True, timeout=300)
    assert (checkout / "from-python.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_python_of_the_reference_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    (code,) = (text for language, text in blocks("reference/python.md") if language == "python")
    exec(compile(code, "reference/python.md", "exec"), {})
    assert (checkout / "restored.png").stat().st_size > 10_000


def test_every_series_of_the_service_is_in_the_reference(client: httpx.Client) -> None:
    page = metrics.page()
    served = set(re.findall(r"^# TYPE (\S+)", client.get("/metrics").text, re.MULTILINE))
    assert len(served) > 10
    assert {name for name in served if f"`{name}`" not in page} == set()
