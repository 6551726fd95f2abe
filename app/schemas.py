"""What the endpoints take and give."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _blank_to_none(value: object) -> object:
    return (" ".join(value.split()) or None) if isinstance(value, str) else value


def _or_none(value: str | None) -> str | None:
    return value or None


Text = Annotated[str | None, BeforeValidator(_blank_to_none)]
"""Text of a client; white space is collapsed, and a blank is the same as nothing."""


class DerainOptions(BaseModel):
    """Everything that a client can say besides the image."""

    prompt: Text = Field(
        default=None,
        description="The degradation prompt: what is wrong with the picture. Without one the service "
        "perceives it.",
        examples=["a photo with heavy rain streaks slanting to the left"],
    )
    caption: Text = Field(
        default=None,
        description="The semantic prompt: what the picture shows. Without one the captioner writes it, where "
        "one is configured.",
        examples=["a street at night with parked cars"],
    )
    model: Text = Field(default=None, description="A name that GET /models lists; else the default model.")
    format: Annotated[Literal["png", "jpeg", "webp", "avif", ""] | None, AfterValidator(_or_none)] = Field(
        default=None,
        description="Format of the restored image; if none or empty that of the image sent (of HEIC: JPEG, "
        "where the service cannot write HEIC).",
    )
    metadata: Literal["keep", "drop", ""] = Field(
        default="keep",
        description="Whether EXIF (but for orientation, which is applied, and the thumbnail), XMP and "
        "comments go into the restored image; if empty they do. The colour profile always does.",
    )


class PerceiveOptions(BaseModel):
    """What a client can say besides the image to be perceived."""

    model: Text = Field(default=None, description="A name that GET /models lists; else the default model.")


class Scores(BaseModel):
    """What was perceived: probabilities that add up to 1 in each group; the latter two hold if it rains."""

    model_config = ConfigDict(from_attributes=True)

    types: dict[str, float]
    densities: dict[str, float]
    directions: dict[str, float]


class RestoredImage(BaseModel):
    """One restored image in a JSON answer."""

    image: str = Field(description="The file, in base64.", json_schema_extra={"contentEncoding": "base64"})
    media_type: str
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")


class Timings(BaseModel):
    """Milliseconds. Of several images: `queue` and `inference` are those of the slowest."""

    decode: float = Field(description="Decoding, and perceiving where no prompt was given.")
    queue: float = Field(description="Waiting for the device.")
    inference: float = Field(description="The batch on the device.")
    encode: float
    total: float = Field(description="From the first byte of the request until the answer was ready.")


class DerainResponse(BaseModel):
    """The JSON answer of POST /derain; the images are in the order sent."""

    images: list[RestoredImage]
    model: str
    prompt: str = Field(
        description="The degradation prompt used. Where the service perceived different ones for several "
        "images: all of them, in order, separated by semicolons."
    )
    caption: str | None = Field(
        description="The semantic prompt used: the client's, else the captioner's where there is one; of "
        "several images as with `prompt`."
    )
    perceived: bool = Field(description="Whether the service perceived the prompt itself.")
    batch_size: int = Field(description="Images in the batch on the device; of several images, the largest.")
    timings_ms: Timings
    request_id: str


class PerceiveResponse(BaseModel):
    """The answer of POST /perceive; the scores of each group are probabilities that add up to 1."""

    prompt: str = Field(
        description="The sentence that the scores give; POST /derain uses it without a prompt."
    )
    types: dict[str, float]
    densities: dict[str, float]
    directions: dict[str, float]
    model: str
    request_id: str


class ModelDescription(BaseModel):
    """A loaded checkpoint."""

    name: str
    default: bool = Field(description="Whether requests that name no model get this one.")
    parameters: int
    device: str
    precision: str
    multiple: int = Field(description="Images are padded to multiples of so many pixels, and cropped again.")


class ModelList(BaseModel):
    """The answer of GET /models."""

    models: list[ModelDescription]


class Health(BaseModel):
    """The answer of the probes."""

    status: Literal["alive", "ready"]


class InferenceServer(BaseModel):
    """The Open Inference Protocol's metadata of a server."""

    name: str
    version: str
    extensions: list[str]


class InferenceServerLive(BaseModel):
    """The protocol's answer to a liveness probe."""

    live: bool


class InferenceServerReady(BaseModel):
    """The protocol's answer to a readiness probe."""

    ready: bool


class InferenceModelReady(BaseModel):
    """The protocol's answer to a readiness probe of one model."""

    name: str
    ready: bool


class InferenceTensor(BaseModel):
    """The protocol's description of a tensor; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class InferenceModel(BaseModel):
    """The Open Inference Protocol's metadata of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[InferenceTensor]
    outputs: list[InferenceTensor]


class FieldError(BaseModel):
    """A field that was refused."""

    field: str
    message: str


class Limit(BaseModel):
    """The limit that was hit."""

    name: str = Field(examples=["image_pixels"])
    max: int | float
    actual: int | float | None = Field(default=None, description="What was sent, where it is known.")


class ProblemDetails(BaseModel):
    """RFC 9457 problem details, with what there is to tell besides."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    limit: Limit | None = None
    image: int | None = Field(default=None, description="Which of several images, counted from 1.")
    errors: list[FieldError] | None = None


class StreamOptions(BaseModel):
    """What a client of WS /stream can say in a text message; it holds for the frames that follow."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text = Field(
        default=None, description="The degradation prompt; without one it is perceived, scene by scene."
    )
    caption: Text = Field(default=None, description="The semantic prompt.")
    model: Text = Field(default=None, description="A name that GET /models lists; else the default model.")
    format: Literal["png", "jpeg", "webp", "avif"] | None = Field(
        default=None, description="Format of the restored frames; else each as it came."
    )
    quality: int | None = Field(
        default=None, ge=1, le=100, description="Of restored frames in formats with loss; else 95."
    )
    timeout: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a frame may take from its arrival to its answer; else 30, or the deadline "
        "of the service if that is shorter.",
    )


class StreamTimings(Timings):
    """Milliseconds that a frame took."""

    wait: float = Field(description="For a frame that came before it, before it was decoded.")


class StreamFrame(BaseModel):
    """The text message before the binary message of a restored frame."""

    type: Literal["frame"] = "frame"
    sequence: int = Field(description="Which of the frames sent over this connection it is, from 0.")
    dropped: int = Field(description="Frames dropped, for newer ones, since the last answer.")
    dropped_total: int = Field(description="Frames dropped since the connection was opened.")
    media_type: str
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    model: str
    prompt: str
    perceived: bool = Field(description="Whether the service perceived the prompt itself.")
    batch_size: int = Field(description="Frames and images of whomever in the batch on the device.")
    timings_ms: StreamTimings


class StreamProblem(BaseModel):
    """The text message about a frame that was not restored; no binary message follows."""

    type: Literal["problem"] = "problem"
    sequence: int = Field(description="Which frame.")
    dropped: int
    dropped_total: int
    problem: ProblemDetails
    retry_after_seconds: int | None = Field(
        default=None, description="How long no frame is taken, where there is no room for one."
    )
