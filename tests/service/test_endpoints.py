"""The endpoints beside /derain. Were these wrong, nobody could find out what there is, or whether it runs."""

import httpx
import pytest


def test_models_are_listed_and_one_is_the_default(client: httpx.Client) -> None:
    models = client.get("/models").json()["models"]
    assert {model["name"] for model in models} == {"tvi-derain-s", "tvi-derain-m"}
    assert [model["default"] for model in models] == [True, False]
    for model in models:
        assert set(model) == {"name", "default", "parameters", "device", "precision", "multiple"}
        assert model["parameters"] > 100_000


def test_probes(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_the_documentation_tells_both_request_forms_and_the_errors(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text
    paths = client.get("/openapi.json").json()["paths"]
    ours = {path for path in paths if not path.startswith("/v2")}
    assert ours == {"/derain", "/perceive", "/stream", "/models", "/livez", "/readyz", "/metrics"}
    operation = paths["/derain"]["post"]
    assert {"multipart/form-data", "image/png", "image/jpeg", "image/webp"} <= set(
        operation["requestBody"]["content"]
    )
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"image", "prompt", "caption", "model", "format", "metadata"}
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "prompt",
        "caption",
        "model",
        "format",
        "metadata",
        "X-Request-Timeout",
    }
    assert {"400", "404", "406", "413", "415", "422", "503", "504"} <= set(operation["responses"])
    assert {"image/png", "application/json", "application/zip"} <= set(
        operation["responses"]["200"]["content"]
    )


def test_head_tells_of_a_resource_without_sending_it(client: httpx.Client) -> None:
    for path in ("/models", "/livez", "/readyz", "/docs"):
        got, headed = client.get(path), client.head(path)
        assert (headed.status_code, headed.content) == (200, b"")
        assert headed.headers["content-type"] == got.headers["content-type"]
        assert headed.headers["content-length"] == got.headers["content-length"]
    requests = client.get("/metrics").text
    assert 'derain_requests_total{endpoint="/models",status="200"}' in requests
    assert client.head("/nowhere").status_code == 404


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/derain", "OPTIONS, POST"),
        ("/perceive", "OPTIONS, POST"),
        ("/models", "GET, HEAD, OPTIONS"),
        ("/v2/models/tvi-derain-s", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_path_says_which_methods_it_takes(client: httpx.Client, path: str, allowed: str) -> None:
    options = client.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, allowed)
    wrong = client.request("HEAD" if "POST" in allowed else "POST", path)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, allowed)
    assert wrong.headers["content-type"] == "application/problem+json"
    assert client.options("/nowhere").status_code == 404
