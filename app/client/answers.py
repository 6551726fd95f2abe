"""What the service answers, as the client gives it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import httpx

from app.client.errors import foreign
from app.client.options import RestoreOptions
from app.whole_files import write_whole

if TYPE_CHECKING:
    from os import PathLike

    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the service spent its time, in milliseconds."""

    decode: float = 0.0
    queue: float = 0.0
    inference: float = 0.0
    encode: float = 0.0
    total: float = 0.0

    @classmethod
    def of(cls, server_timing: str) -> Self:
        """From the header `Server-Timing`; what is not there is 0."""
        durations: dict[str, float] = {}
        for metric in server_timing.split(","):
            name, *parameters = (part.strip() for part in metric.split(";"))
            for parameter in parameters:
                key, _, value = parameter.partition("=")
                if key == "dur":
                    durations[name] = float(value)
        return cls(**{one.name: durations[one.name] for one in fields(cls) if one.name in durations})


@dataclass(frozen=True, slots=True)
class Scores:
    """Probabilities of what is wrong with an image; those of each group add up to 1."""

    types: Mapping[str, float]
    densities: Mapping[str, float]
    directions: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the service says beside an image.

    Attributes:
        media_type: of the image, `image/jpeg` for example.
        prompt: the degradation prompt used.
        perceived: whether the service perceived that itself.
        scores: what it was perceived from.
        model: the name of the checkpoint.
        batch_size: images that were restored together.
    """

    media_type: str
    prompt: str
    perceived: bool
    scores: Scores | None
    model: str
    batch_size: int
    timings: Timings
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored(Described):
    """A restored image: `data` is the file."""

    data: bytes

    def image(self) -> "Image":
        """The image, decoded; needs Pillow."""
        from PIL import Image

        return Image.open(BytesIO(self.data))

    def save(self, path: "str | PathLike[str]") -> Path:
        """Write the file as it is, whole or not at all. Raises OSError."""
        write_whole(Path(path), self.data)
        return Path(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredFile(Described):
    """A restored image that has been written to `path`."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Perceived(Scores):
    """What is wrong with an image, and the prompt that follows."""

    prompt: str
    model: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint that is served, `default` if it is that of requests which name none."""

    name: str
    default: bool
    parameters: int
    device: str
    precision: str
    multiple: int


def described(response: httpx.Response, options: RestoreOptions) -> dict[str, Any]:
    """The members of `Described`, from the headers of an answer. Raises DerainError for what is no image."""
    headers = response.headers
    media_type = headers.get("content-type", "")
    if not media_type.startswith("image/"):
        raise foreign(response)
    return {
        "media_type": media_type,
        "prompt": unquote(headers.get("x-derain-prompt", "")),
        "perceived": not (options.get("prompt") or "").strip(),
        "scores": _scores_of(response),
        "model": headers.get("x-derain-model", ""),
        "batch_size": int(headers.get("x-derain-batch-size", 1)),
        "timings": Timings.of(headers.get("server-timing", "")),
        "request_id": headers.get("x-request-id", ""),
    }


def _scores_of(response: httpx.Response) -> Scores | None:
    try:
        return Scores(**_known(Scores, json.loads(response.headers["x-derain-perception"])))
    except KeyError:  # the prompt was given, or the service is older
        return None
    except (ValueError, TypeError) as error:
        raise foreign(response) from error


def perceived_of(response: httpx.Response, body: bytes) -> Perceived:
    """The answer of POST /perceive. Raises DerainError."""
    try:
        return Perceived(**_known(Perceived, json.loads(body)))
    except (ValueError, KeyError, TypeError) as error:
        raise foreign(response) from error


def models_of(response: httpx.Response, body: bytes) -> list[Model]:
    """The answer of GET /models. Raises DerainError."""
    try:
        return [Model(**_known(Model, one)) for one in json.loads(body)["models"]]
    except (ValueError, KeyError, TypeError) as error:
        raise foreign(response) from error


def _known(kind: type[Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """A later service may tell more."""
    return {one.name: members[one.name] for one in fields(kind)}
