"""Were these wrong, clients would get JSON for an image, an image for JSON, or a 406 for nothing."""

import pytest

from app.negotiation import Accept

IMAGE_OR_JSON = ("image/png", "application/json")


@pytest.mark.parametrize(
    ("header", "best"),
    [
        (None, "image/png"),
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/json", "application/json"),
        ("APPLICATION/JSON", "application/json"),
        ("application/json, text/plain, */*", "application/json"),  # what axios sends
        ("image/avif,image/webp,image/*,*/*;q=0.8", "image/png"),
        ("image/*, application/json", "image/png"),
        ("image/*;q=0.5, application/json", "application/json"),
        ("application/json;q=0, */*", "image/png"),
        ("image/png;q=0, */*", "application/json"),
        ("image/png;q=0", None),
        ("text/html", None),
        ("image/webp", None),
        ("*/*;q=0", None),
        ("nonsense", None),
        ("image/png;q=nonsense", None),
        ("image/png; version=1 ; q=0.3 , application/json ; q=0.4", "application/json"),
    ],
)
def test_the_most_welcome_answer_is_chosen(header: str | None, best: str | None) -> None:
    assert Accept(header).best(IMAGE_OR_JSON) == best


def test_the_most_specific_range_decides() -> None:
    accept = Accept("image/*;q=0.2, image/png;q=0.9, */*;q=0.5")
    assert accept.rank("image/png") == (0.9, True)
    assert accept.rank("image/webp") == (0.2, True)
    assert accept.rank("text/html") == (0.5, False)
