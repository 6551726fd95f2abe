"""What can be said of an image that is to be restored."""

from typing import Literal, TypedDict


class RestoreOptions(TypedDict, total=False):
    """All may be left out.

    Attributes:
        prompt: what is wrong with the picture; else the service perceives it.
        caption: what the picture shows.
        model: a name of `models()`; else the default one.
        format: of the restored image; else that of the image sent.
        metadata: whether EXIF, XMP and comments go into the restored image; kept unless it is said.
        timeout: seconds for all of it, tries and waits included; else the client's.
    """

    prompt: str | None
    caption: str | None
    model: str | None
    format: Literal["png", "jpeg", "webp", "avif"] | None
    metadata: Literal["keep", "drop"]
    timeout: float | None


def form_of(options: RestoreOptions) -> dict[str, str]:
    """The fields of the form."""
    fields = {name: value for name, value in options.items() if name != "timeout"}
    return {name: str(value) for name, value in fields.items() if value is not None}
