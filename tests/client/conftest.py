"""Services with the shipped weights, on real sockets, and photographs for them."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.client import Derain
from app.keys import append_entry, entry_of, new_secret
from app.main import create_app
from app.settings import Settings
from tests.serving import running

MAX_PIXELS = 1_500_000


@pytest.fixture(scope="session")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.toml"


@pytest.fixture(scope="session")
def new_key(keys_file: Path) -> Callable[..., str]:
    """Makes a key, with limits of its own."""

    def new_key(name: str, **limits: Any) -> str:
        secret = new_secret()
        append_entry(keys_file, entry_of(secret, name, **limits))
        return secret

    return new_key


@pytest.fixture(scope="session")
def keys(new_key: Callable[..., str]) -> dict[str, str]:
    """Made before the service starts, which looks for new ones now and then only."""
    return {
        "open": new_key("open"),
        "single": new_key("single", concurrent_requests=1),
        "slow": new_key("slow", requests_per_minute=1),
    }


@pytest.fixture(scope="session")
def url(keys: dict[str, str], keys_file: Path) -> Generator[str]:
    """The service that most tests share; it asks for a key."""
    with running(create_app(Settings(api_keys_file=keys_file, max_image_pixels=MAX_PIXELS))) as url:
        yield url


@pytest.fixture(scope="session")
def small_url() -> Generator[str]:
    """A service that takes one image at a time, and refuses the others; it asks for no key."""
    with running(create_app(Settings(max_images=1, max_queue_images=1))) as url:
        yield url


@pytest.fixture
def derain(url: str, keys: dict[str, str]) -> Generator[Derain]:
    with Derain(url, api_key=keys["open"], timeout=240) as derain:
        yield derain


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of several sizes that nobody takes for one another."""
    folder = tmp_path_factory.mktemp("photos")
    paths: list[Path] = []
    for seed, (width, height) in enumerate([(64, 48), (96, 80), (51, 70), (64, 48), (33, 20), (80, 96)]):
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        paths.append(folder / f"{seed}.png")
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    return paths
