"""Pages of the site that lie elsewhere in the repository, where people look for them."""

import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "training/RESULTS.md": "results.md",
}
"""Files of the repository and the pages that they become."""

CARDS = "weights/*/README.md"


def reader(source: str) -> Callable[[], str]:
    """What reads a file of the repository."""
    return (ROOT / source).read_text


def weights() -> str:
    """The model cards, one after the other, as one page."""
    cards = [re.sub("^#", "##", path.read_text(), flags=re.MULTILINE) for path in sorted(ROOT.glob(CARDS))]
    return "# Weights\n\nThe model cards of the checkpoints in `weights/`.\n\n" + "\n".join(cards)
