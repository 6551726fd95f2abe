"""What Prometheus sees. Were these wrong, dashboards and alerts would show nothing, or something untrue."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

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


@pytest.fixture(scope="module")
def rainy(encode: Encode) -> bytes:
    """A photograph in heavy rain, small enough for that service."""
    with Image.open(Path(__file__).parents[1] / "data/pairs/input/dogs-heavy-rain.jpg") as photograph:
        photograph.draft("RGB", (320, 320))
        left, top = photograph.width // 2 - 150, photograph.height // 2 - 100
        return encode(photograph.crop((left, top, left + 300, top + 200)))


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
    assert value(series, "derain_stage_duration_seconds_count", stage="read") == 2
    assert value(series, "derain_stage_duration_seconds_count", stage="codec_wait") >= 6
    assert value(series, "derain_problems_total", problem="image-too-large") == 1
    assert value(series, "derain_problems_total", problem="not-found") == 1
    assert value(series, "derain_restore_duration_seconds_count", size="tiny") == 1
    assert value(series, "derain_image_pixels_count") == 3
    assert value(series, "derain_image_pixels_sum") == 3 * 64 * 48
    assert value(series, "derain_prompts_total", prompt="given") == 3
    assert value(series, "derain_images_total", outcome="restored") == 3
    assert value(series, "derain_images_total", outcome="rejected") == 1
    assert value(series, "derain_batch_size_sum") == 3
    assert value(series, "derain_batch_pixels_sum") == 3 * 64 * 48
    assert value(series, "derain_device_steps_total") == value(series, "derain_batch_size_count")
    busy = value(series, "derain_device_busy_seconds_total")
    assert 0 < busy <= value(series, "derain_stage_duration_seconds_sum", stage="inference") * 1.1
    assert value(series, "derain_device_out_of_memory_total") == 0
    assert value(series, "derain_throughput_pixels_per_second") > 0
    assert value(series, "derain_queue_images") == 0
    assert value(series, "derain_inflight_requests") == 0
    assert value(series, "derain_inflight_images") == 0
    assert value(series, "derain_backlog_seconds") == 0
    assert value(series, "derain_inflight_bytes") == 0
    looked_up = [value(series, "derain_text_cache_total", result=result) for result in ("hit", "miss")]
    assert min(looked_up) > 0
    told = [dict(labels) for name, labels in series if name == "derain_model_info"]
    models = fresh.get("/models").json()["models"]
    assert told == [
        {key: str(model[key]) for key in ("device", "precision", "parameters")} | {"model": model["name"]}
        for model in models
    ]


def test_limits_and_memory_are_told(fresh: httpx.Client) -> None:
    """How near the service is to them is what alerts ask."""
    settings = Settings()
    series = scrape(fresh)
    assert value(series, "derain_inflight_images_limit") == settings.max_queue_images
    assert value(series, "derain_inflight_bytes_limit") == settings.max_inflight_bytes
    assert value(series, "derain_deadline_seconds") == settings.deadline_seconds
    assert value(series, "derain_batch_pixels_limit") >= 256 * 256, "however warm-up was disturbed"
    allocated, free, total = (
        value(series, "derain_device_memory_bytes", kind=kind) for kind in ("allocated", "free", "total")
    )
    assert 0 < allocated < total
    assert 0 < free < total


def test_what_was_perceived_is_counted(fresh: httpx.Client, rainy: bytes) -> None:
    before = scrape(fresh)
    headers = {"Content-Type": "image/png", "Accept": "application/json"}
    answer = fresh.post("/derain", content=rainy, headers=headers)
    assert answer.status_code == 200
    assert "heavy rain" in answer.json()["prompt"]
    after = scrape(fresh)
    counted = {
        dict(labels)["prompt"]: count - before[name, labels]
        for (name, labels), count in after.items()
        if name == "derain_prompts_total" and count != before[name, labels]
    }
    assert counted == {"heavy rain": 1}


def test_first_times_are_seen_as_increases(fresh: httpx.Client) -> None:
    """A counter that appears with its first event at one has not increased, for Prometheus."""
    series = scrape(fresh)
    assert value(series, "derain_requests_total", endpoint="/derain", status="500") == 0
    assert value(series, "derain_rejected_total", reason="bytes") == 0
    assert value(series, "derain_images_total", outcome="failed") == 0
    assert value(series, "derain_restore_duration_seconds_count", size="huge") == 0


def test_nothing_that_a_client_chose_is_in_it(fresh: httpx.Client) -> None:
    fresh.post("/derain", headers={"X-Request-ID": SECRET, "User-Agent": SECRET}, params={"model": SECRET})
    assert SECRET not in fresh.get("/metrics").text


def test_open_metrics_is_spoken_too(fresh: httpx.Client) -> None:
    response = fresh.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
