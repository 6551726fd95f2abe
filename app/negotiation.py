"""Content negotiation: what an `Accept` header admits (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One element of an `Accept` header: `image/*;q=0.8`."""

    type: str
    subtype: str
    quality: float

    @property
    def specificity(self) -> int:
        """0 for `*/*`, 1 for `image/*`, 2 for `image/png`."""
        return (self.type != "*") + (self.subtype != "*")

    def admits(self, media_type: str) -> bool:
        """Whether `media_type`, such as `image/png`, falls into this range."""
        kind, _, subtype = media_type.partition("/")
        return self.type in ("*", kind) and self.subtype in ("*", subtype)


class Accept:
    """A parsed `Accept` header; an absent or empty one admits everything, elements that make no sense
    nothing."""

    def __init__(self, header: str | None) -> None:
        self._ranges = [_parse(element) for element in (header or "*/*").split(",") if element.strip()]

    def rank(self, media_type: str) -> tuple[float, bool]:
        """How welcome a media type is: its quality, and whether it was named rather than met by `*/*`.

        The most specific range that admits the type decides. `(0.0, ...)` is not admitted.
        """
        matching = [element for element in self._ranges if element.admits(media_type)]
        if not matching:
            return 0.0, False
        closest = max(matching, key=lambda element: element.specificity)
        return closest.quality, closest.specificity > 0

    def admits(self, media_type: str) -> bool:
        """Whether an answer of this media type is acceptable."""
        return self.rank(media_type)[0] > 0.0

    def best(self, offers: Sequence[str]) -> str | None:
        """The most welcome of the offered media types, the earlier one in a tie; None when none is
        acceptable."""
        admitted = [offer for offer in offers if self.admits(offer)]
        return max(admitted, key=self.rank) if admitted else None


def _parse(element: str) -> MediaRange:
    name, *parameters = (part.strip() for part in element.lower().split(";"))
    kind, _, subtype = name.partition("/")
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return MediaRange(type=kind.strip(), subtype=subtype.strip(), quality=quality)
