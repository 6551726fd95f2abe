"""Devices that fail, under a real process. Were this wrong, a service would stand there and answer nobody,
and nothing would put another in its place."""

import os
import re
import resource
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service.failing import BLINDING, BREAKS, FULL, HANGS
from tests.service.test_lifecycle import Process, process

FAILING = "tests.service.failing:create_app"
RAIN = "a photo with heavy rain streaks"

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]
Decode = Callable[[bytes], Image.Image]


def post(url: str, image: bytes, prompt: str) -> httpx.Response:
    return httpx.post(f"{url}/derain", files={"image": image}, data={"prompt": prompt}, timeout=60)


@pytest.mark.parametrize("fault", [HANGS, BREAKS])
def test_a_device_that_does_not_work_any_more_ends_the_process_and_nobody_waits_for_it(
    fault: str, make_image: Make, encode: Encode
) -> None:
    image = encode(make_image(1, 200, 150))
    with process(FAILING, hang_seconds="1.5") as service, ThreadPoolExecutor(9) as clients:
        url = service.url()
        assert post(url, image, RAIN).status_code == 200
        lost = clients.submit(post, url, image, fault)
        time.sleep(0.2)
        waiting = [clients.submit(post, url, image, RAIN) for _ in range(8)]
        began = time.monotonic()
        answers = [lost.result(), *(answer.result() for answer in waiting)]
        assert time.monotonic() - began < 10
        for answer in answers:
            # those that came too late to be taken on are told so
            assert answer.status_code == 503, answer.text
            kind = answer.json()["type"].removeprefix("urn:derain:problem:")
            assert kind in ("device-failed", "draining")
            assert int(answer.headers["Retry-After"]) >= 1
        assert answers[0].json()["type"] == "urn:derain:problem:device-failed"
        try:
            for probe in ("readyz", "livez"):
                assert httpx.get(f"{url}/{probe}").status_code == 503
        except httpx.TransportError:
            pass  # it has gone already
        assert service.wait() == os.EX_SOFTWARE
        said = "".join(service.said)
        assert re.search(r"CRITICAL app\.main: .*: the process ends", said)


def test_a_device_that_fails_while_a_picture_is_looked_at_ends_the_process_too(
    make_image: Make, encode: Encode
) -> None:
    with process(FAILING) as service:
        image = encode(make_image(1, *BLINDING))
        answer = httpx.post(f"{service.url()}/derain", files={"image": image}, timeout=60)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:derain:problem:device-failed")
        assert service.wait() == os.EX_SOFTWARE


def test_where_memory_does_not_suffice_everybody_gets_the_same_picture(
    make_image: Make, encode: Encode, decode: Decode
) -> None:
    small, large = encode(make_image(1, 200, 150)), encode(make_image(2, 900, 700))
    with process(FAILING, batch_pixels=str(2**22)) as service, ThreadPoolExecutor(8) as clients:
        url = service.url()
        before = {data: post(url, data, RAIN).content for data in (small, large)}
        sent = [large, small, small, small, small, large, small, small]
        prompts = [FULL, *[RAIN] * 3, FULL, *[RAIN] * 3]
        answers = list(clients.map(lambda data, prompt: post(url, data, prompt), sent, prompts))
        assert [answer.status_code for answer in answers] == [200] * 8
        for data, prompt, answer in zip(sent, prompts, answers, strict=True):
            if prompt == RAIN:
                one, other = (np.asarray(decode(png)).astype(int) for png in (before[data], answer.content))
                assert abs(one - other).max() <= 1
        metrics = httpx.get(f"{url}/metrics").text
        failed = re.search(r"^derain_device_out_of_memory_total (\S+)", metrics, re.MULTILINE)
        assert failed is not None
        assert float(failed[1]) >= 1, "it was short of memory"
        assert 'derain_images_total{outcome="failed"} 0.0' in metrics


def test_who_was_killed_starts_again_as_if_nothing_had_been(make_image: Make, encode: Encode) -> None:
    image = encode(make_image(1, 400, 300))
    pictures: list[bytes] = []
    for _ in range(2):
        with process() as service, ThreadPoolExecutor(4) as clients:
            url = service.url()
            pictures.append(post(url, image, RAIN).content)
            under_way = [clients.submit(post, url, image, RAIN) for _ in range(4)]
            time.sleep(0.05)
            service.process.send_signal(signal.SIGKILL)
            assert service.wait() == -signal.SIGKILL
            for answer in under_way:
                assert answer.exception() or answer.result().content == pictures[0]
    assert pictures[0] == pictures[1]


def test_it_needs_no_disk(
    make_image: Make, encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one byte can be written to a file, as on a full disk or one that is read-only."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        service = Process()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    try:
        url = service.url()
        large = encode(make_image(1, 2400, 1800))
        assert len(large) > 2**20, "more than a form holds in memory by itself"
        assert post(url, large, RAIN).status_code == 200
        assert httpx.get(f"{url}/metrics").status_code == 200
        assert not list(tmp_path.iterdir())
    finally:
        service.process.send_signal(signal.SIGTERM)
        service.wait()
    assert "Traceback" not in "".join(service.said)
