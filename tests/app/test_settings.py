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


def test_without_settings_no_origin_may_call_and_any_host_may_be_named() -> None:
    settings = Settings()
    assert settings.cors_origins == ()
    assert settings.trusted_hosts == ()
    assert settings.api_keys_file is None
    assert settings.metrics_port is None
    assert settings.metrics_host == "127.0.0.1"


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERAIN_CORS_ORIGINS", "https://a.example, http://127.0.0.1:8080,https://[::1]:8443")
    monkeypatch.setenv("DERAIN_TRUSTED_HOSTS", "a.example,*.b.example, 127.0.0.1,[::1]")
    settings = Settings()
    assert settings.cors_origins == ("https://a.example", "http://127.0.0.1:8080", "https://[::1]:8443")
    assert settings.trusted_hosts == ("a.example", "*.b.example", "127.0.0.1", "[::1]")


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
        ({"metrics_port": 65_536}, "metrics_port"),
        ({"cors_origins": "https://a.example/path"}, "not an origin"),
        ({"cors_origins": "a.example"}, "not an origin"),
        ({"trusted_hosts": "a.example:8000"}, "not a host"),
        ({"trusted_hosts": "a.*.example"}, "not a host"),
        ({"body_timeout_seconds": 0}, "body_timeout_seconds"),
    ],
)
def test_contradictions_stop_the_start(contradiction: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Settings.model_validate(contradiction)
