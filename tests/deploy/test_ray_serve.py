"""The service on Ray Serve, on a cluster of several nodes, of which one dies under load."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from ray import serve

from benchmarks.process import free_port
from deploy.ray.serve import Options, application
from tests.deploy.conftest import PATIENCE_SECONDS, Nodes, eventually

PROMPT = "a photo with heavy rain streaks"


def photograph(seed: int, side: int = 96) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def post(url: str, data: bytes) -> httpx.Response:
    return httpx.post(
        f"{url}/derain",
        params={"prompt": PROMPT},
        content=data,
        headers={"Content-Type": "image/png"},
        timeout=PATIENCE_SECONDS,
    )


def insist(url: str, data: bytes) -> httpx.Response:
    """As any client of something that may fail: again, until it is answered."""
    patience = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = post(url, data)
        except httpx.TransportError:
            pass
        else:
            if answer.is_success:
                return answer
        assert time.monotonic() < patience
        time.sleep(0.2)


@pytest.fixture(scope="module")
def url(nodes: Nodes) -> Generator[str]:
    """Two replicas, one a node, small enough to be filled."""
    nodes.have(2)
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"DEVICE": "cpu", "MAX_QUEUE_IMAGES": "4", "MAX_IMAGES": "4"}.items():
            patch.setenv(f"DERAIN_{name}", value)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(Options(replicas=2, cpus=1)), blocking=False)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


def test_the_whole_service_is_there_and_refuses_in_its_own_words(url: str) -> None:
    assert httpx.get(f"{url}/readyz", timeout=60).json() == {"status": "ready"}
    [model] = [one for one in httpx.get(f"{url}/models", timeout=60).json()["models"] if one["default"]]
    answer = post(url, photograph(0))
    assert answer.status_code == 200, answer.text
    assert Image.open(BytesIO(answer.content)).size == (96, 96)
    assert answer.headers["X-Derain-Model"] == model["name"]
    assert "inference" in answer.headers["Server-Timing"]
    assert httpx.post(f"{url}/derain", content=b"no picture", timeout=60).status_code in (415, 422)
    # eight places in two replicas, and many more who come at once
    large = photograph(1, side=400)
    with ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(lambda _: post(url, large), range(40)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.json()["type"].startswith("urn:derain:problem:")
            assert int(answer.headers["Retry-After"]) >= 1


def test_a_node_dies_under_load_and_every_image_is_answered_once(url: str, nodes: Nodes) -> None:
    count = 24
    sent = [photograph(seed, side=256) for seed in range(count)]
    alone = {seed: post(url, sent[seed]).content for seed in (0, count - 1)}
    eventually(lambda: len(nodes.running("Replica")) == 2, "both nodes have a replica")
    with ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(insist, url, data) for data in sent]
        eventually(lambda: sum(answer.done() for answer in answers) >= 4, "the first are answered")
        nodes.kill(nodes.running("Replica")[0])
        assert not all(answer.done() for answer in answers), "the node died after the load"
        restored = [answer.result().content for answer in answers]
    assert len({*restored}) == count, "each is its own"
    for seed, before in alone.items():
        one, other = (np.asarray(Image.open(BytesIO(data))).astype(int) for data in (before, restored[seed]))
        assert abs(one - other).max() <= 1
    # and the replica comes back with the next node
    nodes.have(2)
    eventually(lambda: len(nodes.running("Replica")) == 2, "the replica that died is replaced")


def test_a_replica_that_leaves_finishes_what_it_has(url: str, nodes: Nodes) -> None:
    with ThreadPoolExecutor(1) as clients:
        answer = clients.submit(post, url, photograph(2, side=1600))
        eventually(lambda: held(url) > 0, "it has been taken on")
        assert not answer.done()
        serve.delete("default", _blocking=False)
        assert answer.result().status_code == 200
    eventually(lambda: not nodes.running("Replica"), "the replicas have left")


def held(url: str) -> float:
    """Bytes of requests in flight, of whichever replica is asked."""
    found = re.search(
        r"^derain_inflight_bytes (\S+)$", httpx.get(f"{url}/metrics", timeout=60).text, re.MULTILINE
    )
    assert found is not None
    return float(found[1])
