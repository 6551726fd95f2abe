"""The site. Were it wrong, readers would find dead links, and tell other hosts that they read."""

import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from app.settings import Settings
from documentation import drawings, links

ROOT = Path(__file__).parents[2]

FETCHED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
"""What a browser fetches without being asked to."""


class Page(HTMLParser):
    """The names in a page, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.fetched += [given[name] for name in FETCHED.get(tag, ()) if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it, where nothing outside this machine can be reached."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = "http://127.0.0.1:9"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"http_proxy": nowhere, "https_proxy": nowhere, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING  " not in built.stderr
    return folder


@cache
def _page(file: Path) -> Page:
    return Page(file.read_text())


def pages(site: Path) -> Iterator[tuple[Path, Page]]:
    for file in sorted(site.rglob("*.html")):
        yield file, _page(file)


def target(file: Path, link: str) -> tuple[Path, str]:
    """The file that a link leads to, and the place in it."""
    parts = urlsplit(link)
    path = posixpath.normpath(posixpath.join(file.parent, unquote(parts.path))) if parts.path else file
    return Path(path), unquote(parts.fragment)


def test_every_link_leads_somewhere(site: Path) -> None:
    broken: list[str] = []
    for file, page in pages(site):
        for link in [*page.links, *page.fetched]:
            if urlsplit(link).scheme or file.name == "404.html":  # the server decides where that one is shown
                continue
            found, place = target(file, link)
            found = found / "index.html" if found.is_dir() else found
            whole = found.is_file() and (not place or found.suffix != ".html" or place in _page(found).ids)
            if not whole and place != "__top":
                broken.append(f"{file.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_comes_from_another_host(site: Path) -> None:
    """Not a font, not a script: reading the documentation tells nobody, and works without a network."""
    foreign = [
        f"{file.relative_to(site)}: {link}"
        for file, page in pages(site)
        for link in page.fetched
        if urlsplit(link).scheme not in ("", "data") or link.startswith("//")
    ]
    for sheet in site.rglob("*.css"):
        for link in re.findall(r"url\(\s*['\"]?([^)'\"]+)|@import\s+['\"]([^'\"]+)", sheet.read_text()):
            address = link[0] or link[1]
            if urlsplit(address).scheme not in ("", "data") or address.startswith("//"):
                foreign.append(f"{sheet.relative_to(site)}: {address}")
    assert foreign == []


def test_names_in_a_page_are_its_own(site: Path) -> None:
    """A name that a page has twice sends its links, and the drawings that refer to it, to the wrong place."""
    for file, page in pages(site):
        twice = {name for name in page.ids if page.ids.count(name) > 1}
        assert not twice, file.relative_to(site)


def test_every_setting_is_in_the_reference(site: Path) -> None:
    text = (site / "reference/settings.html").read_text()
    assert [name for name in Settings.model_fields if f">DERAIN_{name.upper()}<" not in text] == []
    assert str(ROOT) not in text


@pytest.mark.parametrize("command", ["serve", "restore", "perceive", "models", "key", "train", "evaluate"])
def test_every_command_is_in_the_reference(site: Path, command: str) -> None:
    assert f"derain-{command}" in _page(site / "reference/commands.html").ids


@pytest.mark.parametrize(
    "operation", ["POST /derain", "POST /perceive", "GET /models", "GET /readyz", "GET /v2/models/{name}"]
)
def test_every_operation_is_in_the_reference(site: Path, operation: str) -> None:
    assert f">{operation}<" in re.sub(
        r"(?<=\w)<a class=\"headerlink\"", "<", (site / "reference/http.html").read_text()
    )


def test_drawings_are_parts_of_their_pages_and_say_what_they_show(site: Path) -> None:
    """Only so do they take the colours of the page, and can be read out."""
    text = (site / "tvi-derain.html").read_text()
    assert text.count('<svg id="drawing-') == 4
    assert text.count('role="img" aria-label="') >= 4
    assert "prefers-color-scheme" not in "".join(re.findall(r'<svg id="drawing-.*?</svg>', text, re.DOTALL))


@pytest.mark.parametrize(
    ("page", "written", "shown"),
    [
        ("tutorial.md", "[a](gpu.md#x)", "[a](gpu.md#x)"),
        ("tutorial.md", "[a](../SECURITY.md)", "[a](security.md)"),
        (
            "decisions/0001-no-fixed-wait.md",
            "[a](../../training/RESULTS.md#prompts)",
            "[a](../results.md#prompts)",
        ),
        ("contributing.md", "[a](docs/decisions/index.md)", "[a](decisions/index.md)"),
        ("results.md", "[a](../docs/gpu.md)", "[a](gpu.md)"),
        (
            "decisions/0005-compact-clip.md",
            "[a](../../weights/degradation-clip/README.md)",
            "[a](../weights.md)",
        ),
        ("tutorial.md", "[the code](../app/main.py)", "the code (`app/main.py`)"),
        ("tutorial.md", "[a](../no/such/file.py)", "[a](../no/such/file.py)"),
        ("tutorial.md", "[a](https://example.com/x)", "[a](https://example.com/x)"),
        ("tutorial.md", "```sh\n[a](../SECURITY.md)\n```\n", "```sh\n[a](../SECURITY.md)\n```\n"),
    ],
)
def test_links_of_the_repository_are_links_of_the_site(page: str, written: str, shown: str) -> None:
    assert links.on_site(written, page) == shown


def test_a_picture_that_is_no_drawing_stays_one() -> None:
    assert drawings.IMAGE.search('<img alt="a" src="https://example.com/a.svg">') is None
    assert drawings.IMAGE.search('<img alt="a" src="a.jpg">') is None
