"""Classes of size. Were they wrong, the target of a small photograph would be asked of a large one."""

import pytest

from app.metrics import size_class


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1, 1, "tiny"),
        (256, 256, "tiny"),
        (257, 256, "small"),
        (800, 600, "small"),
        (1280, 720, "medium"),
        (1920, 1080, "medium"),
        (2560, 1440, "large"),
        (3840, 2160, "large"),
        (4000, 3000, "huge"),
        (12246, 8164, "huge"),
    ],
)
def test_usual_formats_are_in_the_class_that_is_named_after_them(width: int, height: int, size: str) -> None:
    assert size_class(width * height) == size
