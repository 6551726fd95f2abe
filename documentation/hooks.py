"""What MkDocs calls while it builds the site."""

from collections.abc import Callable

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from documentation import commands, drawings, http_api, links, metrics, repository_pages, settings

WRITTEN: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands.page,
    "reference/http.md": http_api.page,
    "reference/metrics.md": metrics.page,
    "reference/openapi.json": http_api.document,
    "reference/settings.md": settings.page,
    "weights.md": repository_pages.weights,
    **{page: repository_pages.reader(source) for source, page in repository_pages.PAGES.items()},
}
"""Files of the site that are not in docs/, and what writes them."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is written from the code and taken from other folders."""
    for path, write in WRITTEN.items():
        files.append(File.generated(config, path, content=write()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Links that work in a checkout work on the site."""
    return links.on_site(markdown, page.file.src_uri)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Drawings become part of their pages, so that they take the colours of the site."""
    return drawings.inlined(html, page.url, files)
