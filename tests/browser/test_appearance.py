"""How the page looks and to whom. Were this wrong, people who see, hear or point differently, or have a small
screen, would be shut out."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import CAT, COFFEE, Open, restored

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
NARROW = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True}
STILL: dict[str, Any] = {"reduced_motion": "reduce"}

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def assert_nobody_is_shut_out(page: Page, state: str) -> None:
    found = Axe().run(page, options=RULES)
    told = [
        f"{violation['id']}: {violation['help']}: {[node['html'][:120] for node in violation['nodes']]}"
        for violation in found.response["violations"]
    ]
    assert not told, state
    assert found.response["passes"], "nothing was looked at"


def assert_nothing_sticks_out(page: Page, state: str) -> None:
    wide = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0, f"{state}: the page scrolls sideways by {wide} pixels"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [DESKTOP, NARROW], ids=["desktop", "narrow"])
def test_every_state_is_open_to_all(
    visit: Open, service_url: str, screen: dict[str, Any], scheme: str
) -> None:
    page = visit(service_url, color_scheme=scheme, **screen, **STILL)

    def check(state: str) -> None:
        assert_nobody_is_shut_out(page, state)
        assert_nothing_sticks_out(page, state)

    check("empty")
    session = page.context.new_cdp_session(page)
    network = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 3000}
    session.send("Network.emulateNetworkConditions", network)
    page.set_input_files("#files", COFFEE)
    page.wait_for_function("() => document.getElementById('before').naturalWidth > 0")
    check("working")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    check("cancelled")
    session.send("Network.emulateNetworkConditions", network | {"uploadThroughput": -1})
    page.set_input_files("#files", CAT)
    restored(page)
    page.get_by_text("All that it weighed").click()
    check("restored")
    page.get_by_role("radio", name="200 %").check(force=True)
    check("zoomed")
    page.set_input_files("#files", __file__)
    expect(page.locator("#problem-title")).to_be_visible()
    check("refused")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_field_for_the_key_is_open_to_all(visit: Open, strict_url: str, scheme: str) -> None:
    page = visit(strict_url, color_scheme=scheme, **NARROW, **STILL)
    page.set_input_files("#files", CAT)
    expect(page.get_by_label("API key")).to_be_visible()
    assert_nobody_is_shut_out(page, "a key is asked for")
    assert_nothing_sticks_out(page, "a key is asked for")


@pytest.mark.parametrize("width", [320, 1280])
def test_text_of_twice_the_size_is_all_there(visit: Open, service_url: str, width: int) -> None:
    page = visit(service_url, viewport={"width": width, "height": 800}, **STILL)
    page.evaluate("() => { document.documentElement.style.fontSize = '200%' }")
    assert_nothing_sticks_out(page, "empty")
    page.set_input_files("#files", CAT)
    restored(page)
    assert_nothing_sticks_out(page, "restored")
    cut = page.evaluate(
        """() => [...document.querySelectorAll("button, p, h1, h2, li, dt, dd, label, summary, blockquote")]
          .filter((e) => e.checkVisibility() && !e.closest(".unseen, .intro, ol"))
          .filter((e) => getComputedStyle(e).display !== "inline" && e.scrollWidth > e.clientWidth + 1)
          .map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert not cut, "words are cut off"


def background(page: Page) -> int:
    """The red of the page's background, 0 to 255."""
    colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    (red,) = re.findall(r"rgb\((\d+),", colour)
    return int(red)


def test_it_follows_the_system_until_something_else_is_chosen(visit: Open, service_url: str) -> None:
    page = visit(service_url, color_scheme="light")
    switch = page.get_by_role("switch", name="Dark appearance")
    assert background(page) > 200
    page.emulate_media(color_scheme="dark")
    assert background(page) < 50
    expect(switch).to_be_checked()
    switch.press("Space")
    assert background(page) > 200
    page.reload()
    assert background(page) > 200, "what was chosen is remembered"
    expect(switch).not_to_be_checked()


def test_nothing_moves_by_itself_where_that_is_unwelcome(visit: Open, service_url: str) -> None:
    moving = """() => document.getAnimations().length"""
    for motion, moves in (("reduce", False), ("no-preference", True)):
        page = visit(service_url, reduced_motion=motion)
        page.set_input_files("#files", CAT)
        page.wait_for_function("() => !document.getElementById('progress').hidden")
        page.evaluate("() => document.getElementById('progress-bar').removeAttribute('value')")
        assert (page.evaluate(moving) > 0) == moves
