"""How drawings of docs/images look: in colours that follow the page that they are in, light or dark."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "paper": ("#ffffff", "#131517"),
    "ink": ("#17191c", "#eceae6"),
    "muted": ("#5b5f66", "#a2a7ae"),
    "line": ("#d5d2cb", "#3a3f44"),
    "quiet": ("#b4bfc9", "#5d6975"),
    "accent": ("#0f5c94", "#86c1ee"),
    "soft": ("#6fa3cb", "#4a86b5"),
    "warm": ("#b5532a", "#f0a57c"),
}
"""Names of colours, each for light and for dark pages; docs/stylesheets/site.css has the same."""

PAPER, INK, MUTED, LINE, QUIET, ACCENT, SOFT, WARM = (light for light, _ in COLOURS.values())

NUMBERED = re.compile(r' id="[A-Za-z.0-9]+_\d+"')
"""Names that matplotlib gives to groups and nothing refers to; drawings in one page would share them."""

FONT = re.compile(r"'DejaVu Sans'[^;\"]*")


def alone() -> str:
    """The style of a drawing that is looked at by itself; the site takes it out and gives its own colours."""
    light, dark = (
        "".join(f"--{name}:{pair[place]};" for name, pair in COLOURS.items()) + "background:var(--paper)"
        for place in (0, 1)
    )
    return f'<style class="alone">svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>'


@contextmanager
def style() -> Generator[None]:
    """Matplotlib as these drawings need it."""
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "axes.titlesize": 10,
        "font.size": 9,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
    }
    mpl.use("svg")
    with mpl.rc_context(settings):
        yield


def save(figure: Figure, file: Path) -> None:
    """Write a figure as an SVG whose colours are variables, and close it."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    written = StringIO()
    with mpl.rc_context({"svg.hashsalt": file.stem}):  # names of its own: several drawings may share a page
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = FONT.sub("system-ui, sans-serif", NUMBERED.sub("", written.getvalue()))
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    svg = re.sub(r"(<svg\b[^>]*>)", lambda start: start[0] + alone(), svg, count=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(svg)
