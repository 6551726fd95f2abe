"""Many clients at once. Were these wrong, someone would get someone else's photograph."""

import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import torch
from fastapi import FastAPI
from PIL import Image

from app.main import create_app
from app.settings import Settings
from model.prompts import Prompt
from model.restorer import NonFiniteError

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]
Decode = Callable[[bytes], Image.Image]
Pixels = npt.NDArray[np.int64]

SIZES = [(96, 64), (64, 96), (95, 61), (120, 80), (33, 47)]
PROMPTS = ["light rain", "heavy rain slanting to the left", "haze", "", "a photo with moderate rain and haze"]


def metric(client: httpx.Client, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < patience, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def occupy(client: httpx.Client, service_url: str, make_image: Make, encode: Encode) -> Callable[[], None]:
    """Keeps the device busy for a while, so that what comes next has to wait and is batched."""
    large = encode(make_image(99, 800, 800))

    def occupy() -> None:
        form = {"files": {"image": large}, "data": {"prompt": "rain"}, "timeout": 120}
        threading.Thread(target=httpx.post, args=[f"{service_url}/derain"], kwargs=form).start()
        wait_until(lambda: metric(client, "derain_backlog_seconds") > 0)

    return occupy


def test_sixteen_clients_each_get_their_own_image_back(
    client: httpx.Client,
    service_url: str,
    make_image: Make,
    encode: Encode,
    decode: Decode,
    occupy: Callable[[], None],
) -> None:
    """Mixed sizes and prompts, restored in batches: every answer equals that to the same image sent alone."""
    pictures = [make_image(seed, *SIZES[seed % len(SIZES)]) for seed in range(16)]
    prompts = [PROMPTS[seed % len(PROMPTS)] for seed in range(1, 17)]

    def derain(picture: Image.Image, prompt: str) -> tuple[Pixels, int]:
        response = httpx.post(
            f"{service_url}/derain", files={"image": encode(picture)}, data={"prompt": prompt}, timeout=120
        )
        assert response.status_code == 200, response.text
        restored = np.asarray(decode(response.content)).astype(np.int64)
        return restored, int(response.headers["x-derain-batch-size"])

    alone = [derain(picture, prompt)[0] for picture, prompt in zip(pictures, prompts, strict=True)]
    occupy()
    with ThreadPoolExecutor(16) as clients:
        together = list(clients.map(derain, pictures, prompts))

    assert max(size for _, size in together) > 1, "nothing was batched, so nothing was tested"
    for place, ((restored, _), expected) in enumerate(zip(together, alone, strict=True)):
        assert restored.shape == expected.shape
        assert np.abs(restored - expected).max() <= 1
        for other, neighbour in enumerate(alone):
            if other != place and neighbour.shape == expected.shape:
                assert np.abs(restored - neighbour).mean() > 5


def test_a_client_that_leaves_is_not_worked_for(
    client: httpx.Client, service_url: str, make_image: Make, encode: Encode, occupy: Callable[[], None]
) -> None:
    cancelled = metric(client, 'derain_images_total{outcome="cancelled"}')
    restored = metric(client, 'derain_images_total{outcome="restored"}')
    image = encode(make_image(7, 200, 150))
    occupy()
    address = urlsplit(service_url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        head = "POST /derain HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\nContent-Length: "
        connection.sendall(f"{head}{len(image)}\r\n\r\n".encode() + image)
        wait_until(lambda: metric(client, "derain_queue_images") == 1)
    wait_until(lambda: metric(client, 'derain_images_total{outcome="cancelled"}') == cancelled + 1)
    assert metric(client, "derain_queue_images") == 0
    # the image that kept the device busy is finished, the other one never
    wait_until(lambda: metric(client, 'derain_images_total{outcome="restored"}') == restored + 1)
    wait_until(lambda: metric(client, "derain_inflight_bytes") == 0)
    assert metric(client, 'derain_images_total{outcome="restored"}') == restored + 1


def test_an_upload_that_breaks_off_leaves_nothing_behind(client: httpx.Client, service_url: str) -> None:
    address = urlsplit(service_url)
    left = metric(client, 'derain_requests_total{endpoint="/derain",status="499"}')
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        head = b"POST /derain HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\n"
        connection.sendall(head + b"Content-Length: 100000\r\n\r\n" + b"x" * 50_000)
        wait_until(lambda: metric(client, "derain_inflight_bytes") == 50_000)
    wait_until(lambda: metric(client, "derain_inflight_bytes") == 0)
    assert metric(client, 'derain_requests_total{endpoint="/derain",status="499"}') == left + 1


def test_an_image_that_the_network_fails_on_fails_alone(
    run_app: Callable[[FastAPI], AbstractContextManager[str]], make_image: Make, encode: Encode
) -> None:
    app = create_app(Settings(batch_pixels=2**22))
    with run_app(app) as url, ThreadPoolExecutor(6) as clients:
        restorer = app.state.pipeline.restorer(None)
        restore = restorer.restore

        def fragile(
            images: Sequence[torch.Tensor], prompts: Sequence[Prompt], **how: Any
        ) -> list[torch.Tensor]:
            if any(prompt.semantic == "a curse" for prompt in prompts):
                raise NonFiniteError("the network's output is not finite")
            return restore(images, prompts, **how)

        restorer.restore = fragile
        captions = ["", "a street", "a curse", "", "a garden", ""]
        answers = list(
            clients.map(
                lambda seed: httpx.post(
                    f"{url}/derain",
                    files={"image": encode(make_image(seed, 64, 48))},
                    data={"caption": captions[seed]},
                    timeout=60,
                ),
                range(6),
            )
        )
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200, 200, 200]
    assert answers[2].json()["type"] == "urn:derain:problem:restoration-failed"
    assert "finite" not in answers[2].text


def test_beyond_its_capacity_the_service_says_when_to_come_back(
    run_service: Callable[[Settings], AbstractContextManager[str]], make_image: Make, encode: Encode
) -> None:
    image = encode(make_image(1, 500, 400))
    with (
        run_service(Settings(max_images=1, max_queue_images=2)) as url,
        ThreadPoolExecutor(12) as clients,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        waiting = [
            clients.submit(httpx.post, f"{url}/derain", files={"image": image}, timeout=60) for _ in range(12)
        ]
        wait_until(lambda: any(answer.done() for answer in waiting))
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200
        answers = [answer.result() for answer in waiting]
        refused = [answer for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in refused:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["type"] == "urn:derain:problem:overloaded"
        assert metric(client, 'derain_rejected_total{reason="queue"}') == len(refused)
        # and then there is room again
        assert client.post("/derain", files={"image": image}).status_code == 200


def test_what_cannot_be_done_in_time_is_told_in_time(
    run_service: Callable[[Settings], AbstractContextManager[str]], make_image: Make, encode: Encode
) -> None:
    image = encode(make_image(1, 1600, 1200))
    with (
        run_service(Settings(deadline_seconds=0.05)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        response = client.post("/derain", files={"image": image})
        assert response.status_code == 504
        assert response.json()["type"] == "urn:derain:problem:deadline-passed"
        assert metric(client, 'derain_images_total{outcome="expired"}') == 1


def test_a_client_says_how_long_it_waits(
    run_service: Callable[[Settings], AbstractContextManager[str]], make_image: Make, encode: Encode
) -> None:
    image = encode(make_image(1, 1600, 1200))
    with run_service(Settings(deadline_seconds=60)) as url, httpx.Client(base_url=url, timeout=60) as client:

        def derain(seconds: str) -> httpx.Response:
            return client.post("/derain", files={"image": image}, headers={"X-Request-Timeout": seconds})

        late = derain("0.05")
        assert (late.status_code, late.json()["type"]) == (504, "urn:derain:problem:deadline-passed")
        assert "0.05 seconds" in late.json()["detail"]
        assert derain("1e9").status_code == 200, "longer than the service allows is as long as it allows"
        for nonsense in ("soon", "0", "-1", "nan", "inf", ""):
            refused = derain(nonsense)
            assert (refused.status_code, refused.json()["type"]) == (422, "urn:derain:problem:bad-field")
            assert "X-Request-Timeout" in refused.json()["detail"]


def test_who_cannot_be_served_in_time_is_told_before_the_upload(
    run_service: Callable[[Settings], AbstractContextManager[str]], make_image: Make, encode: Encode
) -> None:
    image = encode(make_image(1, 1600, 1200))
    with (
        run_service(Settings()) as url,
        ThreadPoolExecutor(2) as clients,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        form = {"files": {"image": image}, "timeout": 60}
        patient = [clients.submit(httpx.post, f"{url}/derain", **form) for _ in range(2)]
        wait_until(lambda: metric(client, "derain_backlog_seconds") > 1)
        started = time.monotonic()
        hasty = client.post("/derain", files={"image": image}, headers={"X-Request-Timeout": "1"})
        assert time.monotonic() - started < 1
        assert (hasty.status_code, hasty.json()["type"]) == (503, "urn:derain:problem:overloaded")
        assert 1 <= int(hasty.headers["retry-after"]) <= 30
        assert metric(client, 'derain_rejected_total{reason="backlog"}') == 1
        # counted once the rest of its upload was read
        wait_until(lambda: metric(client, 'derain_requests_total{endpoint="/derain",status="503"}') == 1)
        assert [answer.result().status_code for answer in patient] == [200, 200]


def test_a_client_that_leaves_a_large_image_gives_the_device_back_at_the_next_tile(
    client: httpx.Client, service_url: str, make_image: Make, encode: Encode
) -> None:
    """Were it finished for nobody, everybody else would wait for a minute of it."""
    large, small = encode(make_image(1, 4000, 3000)), encode(make_image(1, 64, 64))
    gone = metric(client, 'derain_images_total{outcome="cancelled"}')
    with httpx.Client(timeout=2.0) as hasty, pytest.raises(httpx.ReadTimeout):
        hasty.post(f"{service_url}/derain?prompt=rain", files={"image": large})
    wait_until(lambda: metric(client, 'derain_images_total{outcome="cancelled"}') == gone + 1)
    started = time.monotonic()
    assert client.post("/derain?prompt=rain", files={"image": small}).status_code == 200
    # a dozen megapixels take more than ten seconds on any CPU; one tile of them, less than two
    assert time.monotonic() - started < 5
    wait_until(lambda: metric(client, "derain_inflight_bytes") == 0)
