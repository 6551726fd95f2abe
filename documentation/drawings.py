"""SVG drawings as parts of their pages: so they take the colours of the site, light or dark."""

import html
import posixpath
import re

from mkdocs.structure.files import Files

IMAGE = re.compile(r'<img alt="(?P<alt>[^"]*)" src="(?P<src>[^":]+\.svg)"[^>]*>')

ALONE = re.compile(r'<style class="alone">.*?</style>', re.DOTALL)
"""Colours of a drawing that is looked at by itself; on the site they are those of its style sheet."""

PROLOGUE = re.compile(r"^.*?(?=<svg\b)", re.DOTALL)

STYLE = re.compile(r"(<style[^>]*>)(.*?)(</style>)", re.DOTALL)


def inlined(page: str, url: str, files: Files) -> str:
    """The HTML of the page at `url` with its drawings inside it, each named by its alternative text."""

    def drawing(image: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(url), image["src"]))
        file = next((file for file in files if file.url == path), None)
        if file is None:
            return image[0]
        svg = ALONE.sub("", PROLOGUE.sub("", file.content_string, count=1))
        label = html.escape(html.unescape(image["alt"]), quote=True)
        name = f"drawing-{posixpath.basename(path).removesuffix('.svg')}"
        # its rules hold for itself, not for the page and the other drawings
        svg = STYLE.sub(rf"\1#{name}{{\2}}\3", svg)
        svg = svg.replace("<svg ", f'<svg id="{name}" class="drawing" role="img" aria-label="{label}" ', 1)
        return f'<span class="drawing-frame" tabindex="0">{svg}</span>'

    return IMAGE.sub(drawing, page)
