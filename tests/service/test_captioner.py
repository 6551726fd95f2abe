"""A service with a captioner: a picture that comes without a caption gets one, and it is used."""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.settings import Settings

PROMPT = "remove the rain"


@pytest.fixture(scope="module")
def client(
    coca: Path, run_service: Callable[[Settings], AbstractContextManager[str]]
) -> Generator[httpx.Client]:
    settings = Settings(models=("tvi-derain-s",), captioner=f"local-dir:{coca}", batch_pixels=2**16)
    with run_service(settings) as url, httpx.Client(base_url=url, timeout=120) as client:
        yield client


def ask(client: httpx.Client, pictures: list[bytes], **fields: str) -> dict[str, Any]:
    files = [("image", (f"{i}.png", data, "image/png")) for i, data in enumerate(pictures)]
    answer = client.post(
        "/derain", files=files, data={"prompt": PROMPT, **fields}, headers={"Accept": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_captioners_sentence_is_the_semantic_prompt(
    client: httpx.Client, make_image: Callable[..., Image.Image], encode: Callable[..., bytes]
) -> None:
    pictures = [encode(make_image(seed, 60, 50)) for seed in range(3)]
    alone = [ask(client, [picture]) for picture in pictures]
    captions = [answer["caption"] for answer in alone]
    assert len(set(captions)) > 1
    assert ask(client, pictures)["caption"] == "; ".join(captions)
    for picture, answer in zip(pictures, alone, strict=True):
        given = ask(client, [picture], caption=answer["caption"])
        assert given["images"] == answer["images"], "restored with something else than what was said"


def test_the_clients_caption_goes_before(
    client: httpx.Client, make_image: Callable[..., Image.Image], encode: Callable[..., bytes]
) -> None:
    picture = encode(make_image(0, 60, 50))
    answer = ask(client, [picture], caption="a street at night")
    assert answer["caption"] == "a street at night"
    ours, theirs = (base64.b64decode(a["images"][0]["image"]) for a in (answer, ask(client, [picture])))
    assert ours != theirs, "the caption does nothing"
