"""The endpoints beside /derain. Were these wrong, nobody could find out what there is, or whether it runs."""

import httpx


def test_models_are_listed_and_one_is_the_default(client: httpx.Client) -> None:
    models = client.get("/models").json()["models"]
    assert "tvi-derain-s" in [model["name"] for model in models]
    assert sum(model["default"] for model in models) == 1
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
    assert set(paths) == {"/derain", "/perceive", "/models", "/livez", "/readyz", "/metrics"}
    operation = paths["/derain"]["post"]
    assert {"multipart/form-data", "image/png", "image/jpeg", "image/webp"} <= set(
        operation["requestBody"]["content"]
    )
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"image", "prompt", "caption", "model", "format"}
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "prompt",
        "caption",
        "model",
        "format",
    }
    assert {"400", "404", "406", "413", "415", "422", "503", "504"} <= set(operation["responses"])
    assert {"image/png", "application/json", "application/zip"} <= set(
        operation["responses"]["200"]["content"]
    )
