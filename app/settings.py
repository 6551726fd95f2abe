"""Every knob of the service: `DERAIN_*` environment variables, validated together at start."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.image_headers import MAX_SIDE
from model.checkpoint_folders import default_weights_dir

MIB = 1024 * 1024

ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?|https?://\[[0-9A-Fa-f:.]+\](:\d+)?")
HOST = re.compile(r"(\*\.)?[A-Za-z0-9_.-]+|\[?[0-9A-Fa-f:.]+\]?")


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
    hang_seconds: PositiveFloat = Field(
        default=120.0,
        description="Longest run of the network, on a batch or a tile; a device that takes longer is given "
        "up, and the process ends.",
    )
    batch_pixels: NonNegativeInt = Field(
        default=0, description="Padded pixels at most in the batches that run; 0: measured at warm-up."
    )
    device_lanes: NonNegativeInt = Field(
        default=0,
        description="Batches that run side by side, each on its share of the cores, when several images "
        "wait; 0: one per core up to four on a CPU, one on a GPU.",
    )
    codec_threads: NonNegativeInt = Field(
        default=0, description="Threads that decode and encode; 0: one per CPU core."
    )

    max_streams: NonNegativeInt = Field(
        default=32,
        description="Most connections of WS /stream; beyond it 503. Each may hold three frames of "
        "max_frame_bytes besides those that max_inflight_bytes counts.",
    )
    max_frame_bytes: PositiveInt = Field(
        default=8 * MIB, description="Largest encoded frame of WS /stream, bytes."
    )
    stream_idle_seconds: PositiveFloat = Field(
        default=60.0, description="How long a connection of WS /stream may send no frame."
    )

    api_keys_file: Path | None = Field(
        default=None,
        description="TOML file of API keys, see app/keys.py; unset: whoever gets here may use it.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins whose pages may call the service, separated by commas (https://example.com), or "
        "*; empty: none.",
    )
    trusted_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts that requests may name, separated by commas (example.com, *.example.com); empty: "
        "any.",
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None,
        description="Port of its own for /metrics, /livez and /readyz; /metrics is then not on the main one. "
        "0: any free one.",
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address that metrics_port listens on.")

    header_timeout_seconds: PositiveFloat = Field(
        default=10.0, description="Longest wait for the head of a request; with `derain serve` only."
    )
    body_timeout_seconds: PositiveFloat = Field(
        default=20.0, description="Longest wait for the next bytes of a body; beyond it 408."
    )
    body_bytes_per_second: PositiveFloat = Field(
        default=16 * 1024.0, description="Slowest body, bytes per second; below it 408."
    )
    body_deadline_seconds: PositiveFloat = Field(
        default=600.0, description="Longest wait for all of a body; beyond it 408."
    )

    log_format: Literal["console", "json"] = Field(
        default="console", description="Lines for people, or a JSON object a line."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What is logged at least; requests are at info."
    )
    tracing: bool | None = Field(
        default=None,
        description="Send traces to an OpenTelemetry collector, see docs/tracing.md; needs the extra otel. "
        "Unset: where OTEL_EXPORTER_OTLP_ENDPOINT names one.",
    )

    @field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("models", "cors_origins", "trusted_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin: write https://example.com, without a path")
        return value

    @field_validator("trusted_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} is not a host: write example.com or *.example.com, without a port"
                )
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
