"""A real Chromium against the real service with the shipped weights."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app.keys import append_entry, entry_of, new_secret
from app.main import create_app
from app.settings import Settings
from tests.servers import program
from tests.service.conftest import running

PATIENCE_MS = 180_000
"""For everything that is waited for; machines that test may be busy."""

FLAGS = (
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

VIOLATIONS = """
    window.violations = [];
    addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
      window.violations.push(`${violatedDirective} ${blockedURI}`));
"""

RAINY = Path(__file__).parents[1] / "data" / "pairs" / "input"
CAT = RAINY / "cat-moderate-rain.jpg"
COFFEE = RAINY / "coffee-heavy-rain.jpg"

Open = Callable[..., Page]

expect.set_options(timeout=PATIENCE_MS)


def restored(page: Page) -> None:
    """Wait until the current photograph is restored and compared."""
    expect(page.locator("#download")).to_be_visible()
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")


@pytest.fixture(scope="session")
def service_url() -> Generator[str]:
    """A service that anybody may use."""
    with running(create_app(Settings())) as url:
        yield url


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of API keys, and the one key in it."""
    path, secret = tmp_path_factory.mktemp("keys") / "keys.toml", new_secret()
    append_entry(path, entry_of(secret, "visitor"))
    return path, secret


@pytest.fixture(scope="session")
def strict_url(key_file: tuple[Path, str]) -> Generator[str]:
    """A service that asks for a key, takes one image at a time, and none over 200 kB."""
    settings = Settings(api_keys_file=key_file[0], max_queue_images=1, max_images=1, max_image_bytes=200_000)
    with running(create_app(settings)) as url:
        yield url


# not for the whole session: where Playwright's loop runs, other tests cannot run one
@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    path = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS), timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Generator[Open]:
    """Opens the page at an address, as someone with the given settings of `Browser.new_context`.

    However a test ends, nothing may have been asked of another host, and neither the policy nor the scripts
    may have been broken.
    """
    contexts: list[BrowserContext] = []
    pages: list[tuple[Page, str]] = []
    asked: list[str] = []
    failed: list[str] = []

    def visit(url: str, **settings: Any) -> Page:
        context = chromium.new_context(**settings)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(VIOLATIONS)
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: failed.append(str(error.error)))
        page = context.new_page()
        pages.append((page, urlsplit(url).netloc))
        page.goto(url)
        return page

    yield visit
    own = {host for _, host in pages}
    strangers = [
        url for url in asked if not url.startswith(("blob:", "data:")) and urlsplit(url).netloc not in own
    ]
    violations = [violation for page, _ in pages for violation in page.evaluate("window.violations")]
    for context in contexts:
        context.close()
    assert not strangers, "the page asked another host"
    assert not violations, "the page's own policy forbids what it does"
    assert not failed, "a script failed"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a picture to a file of this name, in the format that the name says."""

    def write(image: Image.Image, name: str, **options: Any) -> Path:
        path = tmp_path / name
        image.save(path, **options)
        return path

    return write
