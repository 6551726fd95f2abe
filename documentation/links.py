"""Links between files of the repository, which work in a checkout, made to work on the site."""

import posixpath
import re
from fnmatch import fnmatch

from documentation.repository_pages import CARDS, PAGES, ROOT

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)

DOCS = "docs/"


def on_site(markdown: str, page: str) -> str:
    """A page's Markdown with its links to files of the repository as the site has them.

    A link to another page leads there; one to a file that the site does not have becomes its name. What
    leads nowhere stays, for MkDocs to complain of.

    Args:
        page: its path among the pages, `reference/settings.md`.
    """
    sources = {site: source for source, site in PAGES.items()}
    folder = posixpath.dirname(sources.get(page, DOCS + page))

    def resolved(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link["path"]))
        page_of = "weights.md" if fnmatch(path, CARDS) else PAGES.get(path)
        if page_of is not None or path.startswith(DOCS):
            target = page_of or path.removeprefix(DOCS)
            target = posixpath.relpath(target, posixpath.dirname(page) or ".")
            return f"[{link['text']}]({target}{link['anchor'] or ''})"
        if not path.startswith("..") and (ROOT / path).exists():
            return link["text"] if path in link["text"] else f"{link['text']} (`{path}`)"
        return link[0]

    parts: list[str] = []
    end = 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(resolved, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(resolved, markdown[end:])])
