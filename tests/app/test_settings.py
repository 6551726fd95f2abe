"""Were these wrong, a service with contradictory limits would start, and refuse for ever what it should
take."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_every_knob_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERAIN_WEIGHTS_DIR", "elsewhere")
    monkeypatch.setenv("DERAIN_MODELS", "tvi-derain-s, tvi-derain-m")
    monkeypatch.setenv("DERAIN_MAX_IMAGE_PIXELS", "1000000")
    settings = Settings()
    assert settings.weights_dir == Path("elsewhere")
    assert settings.models == ("tvi-derain-s", "tvi-derain-m")
    assert settings.max_image_pixels == 1_000_000


@pytest.mark.parametrize(
    ("contradiction", "complaint"),
    [
        ({"max_image_bytes": 2000, "max_body_bytes": 1000}, "max_body_bytes"),
        ({"max_image_pixels": 10**9, "max_inflight_bytes": 10**9}, "max_inflight_bytes"),
        ({"max_images": 20, "max_queue_images": 10}, "max_queue_images"),
        ({"models": ("a", "b"), "default_model": "c"}, "default_model"),
        ({"captioner_pretrained": "laion2b_s13b_b90k"}, "captioner"),
        ({"max_images": 0}, "max_images"),
        ({"deadline_seconds": -1}, "deadline_seconds"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_contradictions_stop_the_start(contradiction: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Settings.model_validate(contradiction)
