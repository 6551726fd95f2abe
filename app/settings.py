"""Every knob of the service: `DERAIN_*` environment variables, validated together at start."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.headers import MAX_SIDE
from model.weights import default_weights_dir

MIB = 1024 * 1024


class Settings(BaseSettings):
    """Configuration of one service process.

    Every field is read from the environment as `DERAIN_<FIELD>` (`DERAIN_MAX_IMAGE_PIXELS=12000000`).

    Raises:
        pydantic.ValidationError: a value is out of its range, or two values contradict each other.
    """

    model_config = SettingsConfigDict(env_prefix="DERAIN_", frozen=True)

    weights_dir: Path = Field(
        default_factory=default_weights_dir, description="Folder that holds one folder per checkpoint."
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Checkpoints to load, separated by commas; empty: all under weights_dir."
    )
    default_model: str | None = Field(
        default=None,
        description="Model of a request that names none; unset: tvi-derain-s on a CPU, tvi-derain-m on a "
        "GPU, where it is loaded, else the first by name.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1 ...")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Arithmetic of the network; auto: what is fastest and exact enough here."
    )

    captioner: str | None = Field(
        default=None,
        description="CoCa model of open_clip that says what an image shows where the client does not "
        "(coca_ViT-B-32, local-dir:FOLDER, hf-hub:OWNER/NAME); unset: none.",
    )
    captioner_pretrained: str | None = Field(
        default=None, description="Its weights: open_clip's tag or a local checkpoint file."
    )

    keep_freed_memory: bool = Field(
        default=True,
        description="Use freed memory again instead of giving it back and asking for it with every layer; "
        "with glibc only.",
    )

    max_body_bytes: PositiveInt = Field(default=384 * MIB, description="Largest request body, bytes.")
    max_image_bytes: PositiveInt = Field(default=256 * MIB, description="Largest encoded image, bytes.")
    max_image_pixels: PositiveInt = Field(default=128 * MIB, description="Largest image, width x height.")
    max_image_side: PositiveInt = Field(default=MAX_SIDE, description="Longest side of an image, pixels.")
    max_images: PositiveInt = Field(default=16, description="Most images in one request.")
    max_prompt_chars: PositiveInt = Field(default=500, description="Longest prompt or caption, characters.")

    max_queue_images: PositiveInt = Field(
        default=256, description="Most images admitted and not yet restored; beyond it requests get 503."
    )
    max_inflight_bytes: PositiveInt = Field(
        default=1536 * MIB,
        description="Most bytes held for requests in flight (encoded, decoded and restored); beyond it 503.",
    )
    deadline_seconds: PositiveFloat = Field(
        default=300.0, description="Longest wait from admission to restored image; beyond it 504."
    )
    batch_pixels: NonNegativeInt = Field(
        default=0, description="Padded pixels in one batch at most; 0: measured at warm-up."
    )
    codec_threads: NonNegativeInt = Field(
        default=0, description="Threads that decode and encode; 0: one per CPU core."
    )

    @field_validator("models", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.max_image_bytes > self.max_body_bytes:
            raise ValueError(
                "max_image_bytes is larger than max_body_bytes: such an image could never arrive"
            )
        largest = self.max_image_bytes + WORKING_BYTES_PER_PIXEL * self.max_image_pixels
        if largest > self.max_inflight_bytes:
            raise ValueError(
                f"max_inflight_bytes is smaller than the {largest} bytes that one image of max_image_bytes "
                "and max_image_pixels holds: such an image would always be refused"
            )
        if self.max_images > self.max_queue_images:
            raise ValueError(
                "max_images is larger than max_queue_images: such a request would always be refused"
            )
        if self.captioner_pretrained is not None and self.captioner is None:
            raise ValueError("captioner_pretrained are the weights of a captioner, and none is named")
        if self.default_model is not None and self.models and self.default_model not in self.models:
            raise ValueError(
                f"default_model {self.default_model!r} is not among models {', '.join(self.models)}"
            )
        return self


WORKING_BYTES_PER_PIXEL = 8
"""Bytes that an image of 8 bits holds per pixel at most while in flight, beside its encoded bytes; one of 16
bits holds twice as many, so that not every one of `max_image_pixels` has room.

One of alpha, three of colour, and four more: Pillow's copy while it is decoded or encoded, the three of the
restored image between. The encoded bytes of what came stay accounted for until the answer, which takes about
as many.
"""
