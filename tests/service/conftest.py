"""A real uvicorn on a real socket, with the shipped weights."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from app.main import create_app
from app.settings import Settings
from tests.serving import running


@pytest.fixture(scope="session")
def run_app() -> Callable[[FastAPI], AbstractContextManager[str]]:
    """Serves an application; gives the URL."""
    return running


@pytest.fixture(scope="session")
def run_service() -> Callable[[Settings], AbstractContextManager[str]]:
    """Starts a service with settings of one's own; gives the URL."""
    return lambda settings: running(create_app(settings))


@pytest.fixture(scope="session")
def service_url() -> Generator[str]:
    """The service that most tests share; batches are large enough to be worth testing on any machine."""
    with running(create_app(Settings(batch_pixels=2**22))) as url:
        yield url


@pytest.fixture
def client(service_url: str) -> Generator[httpx.Client]:
    """A client of the shared service."""
    with httpx.Client(base_url=service_url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def make_image() -> Callable[..., Image.Image]:
    """Makes photograph-like pictures that differ clearly from seed to seed: a few broad waves of colour."""

    def make(seed: int, width: int, height: int) -> Image.Image:
        random = np.random.default_rng(seed)
        y, x = np.mgrid[0:height, 0:width]
        samples = np.empty((height, width, 3))
        for channel in range(3):
            along, across = random.uniform(-0.1, 0.1, 2)
            level, phase = random.uniform(70, 180), random.uniform(0, 2 * np.pi)
            samples[..., channel] = level + 60 * np.sin(along * x + across * y + phase)
        return Image.fromarray(samples.clip(0, 255).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Writes a picture as the bytes of a file."""

    def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
        buffer = BytesIO()
        image.save(buffer, format=image_format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def decode() -> Callable[[bytes], Image.Image]:
    """Reads a picture from the bytes of a file."""

    def decode(data: bytes) -> Image.Image:
        image = Image.open(BytesIO(data))
        image.load()
        return image

    return decode
