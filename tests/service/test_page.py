"""The page and its files over HTTP. Were this wrong, browsers would get none of it, or an old one, or ask
another host for it."""

import re
from pathlib import Path

import httpx
import pytest

from app.page import FILES, VERSION, WEB
from training.descriptions import Attributes, canonical
from training.instructions import COMPLETELY, LIGHTLY, PLAIN, RAIN_ONLY, UNCHANGED

RELATIVE = re.compile(r'(?:src|href|data-sample)="([^"#]+)"')


def test_the_page_is_html_under_a_policy_without_exceptions(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert {
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "font-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    } <= set(policy.split("; "))
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", page.text)


def test_it_names_no_other_host_and_all_its_files_are_here(client: httpx.Client) -> None:
    linked = RELATIVE.findall(client.get("/").text)
    assert {"docs", f"static/{VERSION}/main.js", f"static/{VERSION}/icon.svg"} <= set(linked)
    for name, path in FILES.items():
        if path.suffix in (".js", ".css"):
            text = path.read_text("utf-8")
            assert not re.search(r"https?://|[\"'(]//", text), name
            around = f"static/{VERSION}/{name}".rpartition("/")[0]
            linked += [
                f"{around}/{other}" for other in re.findall(r'(?:from|url\()\s*"(?:\./)?([^"]+)"', text)
            ]
    for address in linked:
        assert not address.startswith(("/", "http")), "it works below any path"
        assert client.get(f"/{address}").status_code == 200, address


def test_browsers_keep_the_files_for_good_and_ask_for_the_page(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    unchanged = client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert client.get("/", headers={"If-None-Match": '"another"'}).status_code == 200

    types = {
        "main.js": "text/javascript",
        "style.css": "text/css",
        "icon.svg": "image/svg+xml",
        "samples/dogs.jpg": "image/jpeg",
        "fonts/instrument-sans-latin.woff2": "font/woff2",
    }
    for name, media_type in types.items():
        file = client.get(f"/static/{VERSION}/{name}")
        assert file.headers["content-type"].split(";")[0] == media_type
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert file.content == (WEB / name).read_bytes()
    # another version's page, while both run behind one address
    assert client.get("/static/0123456789ab/main.js").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "name", ["index.html", "fonts/LICENSE", "none.js", "..%2fpage.py", "%2e%2e/%2e%2e/api.py"]
)
def test_no_other_file_can_be_had(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/static/{VERSION}/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", f"/static/{VERSION}/main.js"])
def test_its_addresses_take_the_methods_that_others_take(client: httpx.Client, path: str) -> None:
    got, headed = client.get(path), client.head(path)
    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["content-length"] == got.headers["content-length"]
    options = client.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    wrong = client.post(path)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_nothing_of_it_is_counted_under_what_a_client_chose(client: httpx.Client) -> None:
    client.get("/")
    client.get("/static/chosen/none.js")
    series = client.get("/metrics").text
    assert 'derain_requests_total{endpoint="/",status="200"}' in series
    assert 'endpoint="/static/{version}/{name:path}",status="404"' in series
    assert "chosen" not in series


def test_the_network_has_learned_what_every_suggested_sentence_means(client: httpx.Client) -> None:
    page = client.get("/").text
    suggested = re.findall(r'<option value="([^"]+ [^"]+)">', page) + re.findall(
        r'class="say">([^<]+)<', page
    )
    assert len(suggested) > 10
    described = {
        canonical(Attributes("rain", density, direction))
        for density in ("light", "moderate", "heavy")
        for direction in ("left", "vertical", "right")
    }
    instructed = {
        *PLAIN,
        *LIGHTLY,
        *COMPLETELY,
        *RAIN_ONLY,
        *UNCHANGED,
        *(f"{text} and the haze" for text in PLAIN),
    }
    assert set(suggested) <= described | instructed


def test_every_photograph_and_font_comes_with_its_licence() -> None:
    told = (WEB / "samples" / "README.md").read_text("utf-8")
    assert all(f"`{path.name}`" in told for path in (WEB / "samples").glob("*.jpg"))
    assert "SIL Open Font License" in (WEB / "fonts" / "LICENSE").read_text("utf-8")
    assert Path(WEB / "fonts" / "README.md").exists()
