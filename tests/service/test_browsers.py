"""What browsers are told. Were this wrong, a page of somebody else's could use the service in a visitor's
name, or reading the documentation would tell a stranger."""

import re
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

import httpx
import pytest

from app.settings import Settings

Run = Callable[[Settings], AbstractContextManager[str]]

FRIEND, STRANGER = "https://photos.example", "https://evil.example"


@pytest.fixture(scope="module")
def opened(run_service: Run) -> Generator[httpx.Client]:
    """A service that answers one origin, and only for its own names."""
    settings = Settings(cors_origins=(FRIEND,), trusted_hosts=("derain.example", "*.rain.example"))
    with run_service(settings) as url, httpx.Client(base_url=url) as client:
        client.headers["Host"] = "derain.example"
        yield client


def preflight(client: httpx.Client, origin: str, headers: str = "content-type,x-api-key") -> httpx.Response:
    return client.options(
        "/derain",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": headers,
        },
    )


class TestOrigins:
    def test_no_page_of_another_origin_may_call_by_default(self, client: httpx.Client) -> None:
        for response in (preflight(client, FRIEND), client.get("/models", headers={"Origin": FRIEND})):
            assert not [name for name in response.headers if name.startswith("access-control-")]

    def test_pages_of_an_origin_that_is_named_may_call_and_read_our_headers(
        self, opened: httpx.Client
    ) -> None:
        asked = preflight(opened, FRIEND)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == FRIEND
        assert "POST" in asked.headers["access-control-allow-methods"]
        for response in (
            opened.get("/models", headers={"Origin": FRIEND}),
            opened.post("/derain", headers={"Origin": FRIEND}),
        ):
            assert response.headers["access-control-allow-origin"] == FRIEND
            exposed = response.headers["access-control-expose-headers"].lower()
            for name in ("x-derain-prompt", "x-request-id", "server-timing", "retry-after"):
                assert name in exposed
            assert "access-control-allow-credentials" not in response.headers

    def test_pages_of_others_may_not(self, opened: httpx.Client) -> None:
        for response in (preflight(opened, STRANGER), opened.get("/models", headers={"Origin": STRANGER})):
            assert "access-control-allow-origin" not in response.headers

    def test_a_key_may_be_sent_and_any_other_header_not(self, opened: httpx.Client) -> None:
        assert preflight(opened, FRIEND, "authorization").status_code == 200
        assert preflight(opened, FRIEND, "x-anything").status_code == 400


class TestHosts:
    @pytest.mark.parametrize("host", ["derain.example", "DERAIN.example:8000", "a.rain.example"])
    def test_its_own_names_are_answered(self, opened: httpx.Client, host: str) -> None:
        assert opened.get("/models", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "derain.example.evil.example", "rain.example", "1.2.3.4"]
    )
    def test_others_are_refused_with_a_problem(self, opened: httpx.Client, host: str) -> None:
        response = opened.get("/models", headers={"Host": host})
        assert response.status_code == 400
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["type"] == "urn:derain:problem:unknown-host"
        assert "tvi-derain-s" not in response.text

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready"])
    def test_probes_are_answered_under_an_address(self, opened: httpx.Client, path: str) -> None:
        """An orchestrator would restart the service otherwise."""
        assert opened.get(path, headers={"Host": "10.0.0.7:8000"}).status_code == 200

    def test_by_default_every_name_is_answered(self, client: httpx.Client) -> None:
        assert client.get("/models", headers={"Host": "anything.example"}).status_code == 200


class TestHeaders:
    @pytest.mark.parametrize("path", ["/", "/models", "/metrics", "/docs", "/docs/start.js", "/no/such/path"])
    def test_no_answer_may_be_taken_for_another_kind(self, client: httpx.Client, path: str) -> None:
        assert client.get(path).headers["x-content-type-options"] == "nosniff"

    def test_a_page_runs_only_scripts_of_its_own_and_stands_in_no_frame(self, client: httpx.Client) -> None:
        page = client.get("/docs")
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "content-security-policy" not in client.get("/models").headers


class TestDocumentation:
    def test_it_names_no_other_host_and_all_its_files_are_here(self, client: httpx.Client) -> None:
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "//" not in page.text
        assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", page.text)
        linked = re.findall(r'(?:src|href|data-openapi)="([^"]+)"', page.text)
        assert "/openapi.json" in linked
        assert "/docs/start.js" in linked
        for path in linked:
            assert client.get(path).status_code == 200
        types = {path: client.get(path).headers["content-type"].split(";")[0] for path in linked}
        assert types["/docs/swagger-ui-bundle.js"] == types["/docs/start.js"] == "text/javascript"
        assert types["/docs/swagger-ui.css"] == "text/css"

    @pytest.mark.parametrize("name", ["redoc.standalone.js", "..%2f__init__.py", "%2e%2e/core.py", "none.js"])
    def test_no_other_file_of_the_package_can_be_had(self, client: httpx.Client, name: str) -> None:
        assert client.get(f"/docs/{name}").status_code == 404
