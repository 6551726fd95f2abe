"""The OpenAPI document against the service. Were it wrong, clients made from it would not fit."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def test_schemathesis_finds_nothing_that_the_document_does_not_say(service_url: str) -> None:
    """All its checks and phases: examples, boundaries, random requests, and sequences of them."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", "tests/service/schemathesis.toml"),
            *("run", f"{service_url}/openapi.json"),
            *("--max-examples", "30", "--seed", "1", "--no-color", "--request-timeout", "60"),
            *("--exclude-path", "/stream"),  # a WebSocket: whoever asks by HTTP is told so
        ],
        cwd=ROOT,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.service.openapi_hooks", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Unresolvable" not in run.stdout
    assert "No issues found" in run.stdout


def test_every_error_is_described_as_the_problem_that_it_is(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], (path, method, status)
    statuses = set(document["paths"]["/derain"]["post"]["responses"])
    assert {"200", "400", "404", "406", "413", "415", "422", "500", "503", "504"} <= statuses
    assert "HTTPValidationError" not in str(document)


def test_a_restored_image_is_described_with_its_headers(
    document: dict[str, Any], client: httpx.Client, service_url: str
) -> None:
    described = document["paths"]["/derain"]["post"]["responses"]["200"]["headers"]
    photograph = next((ROOT / "tests/data/pairs/input").glob("*.jpg")).read_bytes()
    answer = client.post("/derain", content=photograph, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200
    assert all(name in answer.headers for name in described)
    assert {"Server-Timing", "X-Request-ID", "X-Derain-Model", "X-Derain-Prompt"} <= set(described)
