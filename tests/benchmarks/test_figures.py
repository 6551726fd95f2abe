"""Figures of the documentation. Were they old, it would show what is no longer so."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import figures
from model.checkpoint_folders import default_weights_dir

TEXT = re.compile(r"<text\b[^>]*>(.*?)</text>", re.DOTALL)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots")
    figures.draw_all(folder)
    return folder


@pytest.mark.parametrize("name", ["quality", "network-speed", "batching", "serving", "overload", "memory"])
def test_plots_show_what_was_measured_last(drawn: Path, name: str) -> None:
    """All that is written in it, the figures at the bars among it. If not: python -m benchmarks.figures"""
    shown, now = ((folder / f"{name}.svg").read_text() for folder in (figures.IMAGES, drawn))
    assert TEXT.findall(now)
    assert TEXT.findall(shown) == TEXT.findall(now)


def test_the_table_says_what_was_measured_last() -> None:
    page = figures.PAGE.read_text()
    assert page == figures.with_table(page), "python -m benchmarks.figures"


def test_attention_is_that_of_the_shipped_weights() -> None:
    digest = json.loads((default_weights_dir() / "tvi-derain-s/config.json").read_text())["sha256"]
    assert f"weights {digest}" in (figures.IMAGES / "attention.svg").read_text(), (
        "python -m benchmarks.attention"
    )


def test_readme_says_how_fast_the_network_was_last() -> None:
    times = figures.record("network")["times_as_long_as_s"]
    prenet, restormer = (times[f"{name}'s shape"] for name in ("PReNet", "Restormer"))
    readme = " ".join((figures.PAGE.parents[1] / "README.md").read_text().split())
    expected = (
        f"PReNet's shape takes {prenet:.0f} times as long as `tvi-derain-s` "
        f"and Restormer's shape {restormer:.0f} times"
    )
    assert expected in readme


def test_what_was_missed_is_called_missed() -> None:
    assert not figures.at_least("speed", 0.89, 0.9, "{:.2f}").met
    assert not figures.at_most("memory", 1025, 1024, "{:.0f}").met
    assert figures.at_most("memory", 1024, 1024, "{:.0f}").met


def test_drawings_can_be_read_on_dark_pages(drawn: Path) -> None:
    """No colour but those that follow the page."""
    for file in drawn.glob("*.svg"):
        drawing = re.sub(r'<style class="alone">.*?</style>', "", file.read_text())
        assert re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawing) == [], file.name
