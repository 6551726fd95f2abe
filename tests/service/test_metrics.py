"""What Prometheus sees. Were these wrong, dashboards and alerts would show nothing, or something untrue."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

SECRET = "nobody-else-must-read-this"


@pytest.fixture(scope="module")
def fresh(run_service: Callable[[Settings], AbstractContextManager[str]]) -> Generator[httpx.Client]:
    """A service that nobody else has used."""
    with (
        run_service(Settings(max_image_pixels=100_000)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def scrape(client: httpx.Client) -> Series:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def test_a_request_is_counted_once_in_every_series(
    fresh: httpx.Client, make_image: Make, encode: Encode
) -> None:
    files = [("image", encode(make_image(seed, 64, 48))) for seed in range(3)]
    assert fresh.post("/derain", files=files, data={"prompt": SECRET, "caption": SECRET}).status_code == 200
    too_large = encode(Image.new("L", (1000, 101)))
    assert fresh.post("/derain", files={"image": too_large}, data={"prompt": SECRET}).status_code == 413
    assert fresh.get(f"/{SECRET}").status_code == 404

    series = scrape(fresh)
    assert value(series, "derain_requests_total", endpoint="/derain", status="200") == 1
    assert value(series, "derain_requests_total", endpoint="/derain", status="413") == 1
    assert value(series, "derain_requests_total", endpoint="unmatched", status="404") == 1
    assert value(series, "derain_request_duration_seconds_count") == 2
    assert value(series, "derain_request_duration_seconds_sum") > 0
    for stage in ("decode", "queue", "inference", "encode"):
        assert value(series, "derain_stage_duration_seconds_count", stage=stage) == 3
    assert value(series, "derain_images_total", outcome="restored") == 3
    assert value(series, "derain_images_total", outcome="rejected") == 1
    assert value(series, "derain_batch_size_sum") == 3
    assert value(series, "derain_batch_pixels_sum") == 3 * 64 * 48
    assert value(series, "derain_queue_images") == 0
    assert value(series, "derain_backlog_seconds") == 0
    assert value(series, "derain_inflight_bytes") == 0
    looked_up = [value(series, "derain_text_cache_total", result=result) for result in ("hit", "miss")]
    assert min(looked_up) > 0
    (info,) = [dict(labels) for name, labels in series if name == "derain_model_info"]
    (model,) = fresh.get("/models").json()["models"]
    assert info == {key: str(model[key]) for key in ("device", "precision", "parameters")} | {
        "model": model["name"]
    }


def test_nothing_that_a_client_chose_is_in_it(fresh: httpx.Client) -> None:
    fresh.post("/derain", headers={"X-Request-ID": SECRET, "User-Agent": SECRET}, params={"model": SECRET})
    assert SECRET not in fresh.get("/metrics").text


def test_open_metrics_is_spoken_too(fresh: httpx.Client) -> None:
    response = fresh.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
