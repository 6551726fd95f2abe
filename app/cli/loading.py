"""What commands need before they begin, or one line on why it cannot be had."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.cli.terminal import err

if TYPE_CHECKING:
    from app.checkpoints import Checkpoint
    from app.image_headers import ImageLimits
    from app.inputs import Input
    from app.settings import Settings
    from model.restorer import Restorer


def load_settings() -> "Settings":
    """The settings of the environment."""
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        for wrong in error.errors():
            variable = "".join(f"DERAIN_{part}".upper() for part in wrong["loc"][:1]) or "DERAIN_*"
            err.print(f"{variable}: {wrong['msg']}", markup=False)
        raise SystemExit("the settings are not valid") from None


def image_limits(settings: "Settings") -> "ImageLimits":
    """The largest image that is taken; sets up what reads images."""
    from app.image_headers import ImageLimits
    from app.images import set_up_codecs

    set_up_codecs(settings.max_image_pixels)
    return ImageLimits(settings.max_image_pixels, settings.max_image_side)


def inspect_checkpoints(settings: "Settings") -> "tuple[list[Checkpoint], str]":
    """The checkpoints that the settings name, and which is the default."""
    from app.checkpoints import default_model, device_type, inspect
    from model.checkpoint_folders import CheckpointError, available

    names = settings.models or tuple(available(settings.weights_dir))
    try:
        default = default_model(names, device_type(settings.device), settings.default_model)
        return [inspect(settings.weights_dir / name) for name in names], default
    except CheckpointError as error:
        raise SystemExit(f"{settings.weights_dir}: {error}") from None


def choose_model(settings: "Settings", name: str | None, device: str) -> str:
    """The name of a checkpoint that is there, else of the default one."""
    from app.checkpoints import default_model, device_type
    from model.checkpoint_folders import CheckpointError, available

    names = settings.models or tuple(available(settings.weights_dir))
    if name is not None:
        if name not in names:
            there = ", ".join(names) or "none"
            raise typer.BadParameter(f"there is no {name!r}; there is: {there}", param_hint="--model")
        return name
    try:
        return default_model(names, device_type(device), settings.default_model)
    except CheckpointError as error:
        raise SystemExit(f"{settings.weights_dir}: {error}") from None


def load_restorer(settings: "Settings", name: str, device: str) -> "Restorer":
    """The restorer of this name."""
    from model.checkpoint_folders import CheckpointError
    from model.memory import keep_fewer_convolutions, keep_freed_memory
    from model.restorer import Restorer

    keep_fewer_convolutions()
    if settings.keep_freed_memory:
        keep_freed_memory()
    try:
        return Restorer.from_checkpoint(
            settings.weights_dir / name, device=device, precision=settings.precision
        )
    except (CheckpointError, RuntimeError) as error:
        message = str(error).partition("\n")[0]
        raise SystemExit(f"{settings.weights_dir / name}: {message}") from None


def find_inputs(named: Iterable[str], *, but_not_below: Path | None = None) -> "list[Input]":
    """See `app.inputs.find_inputs`."""
    from app import inputs

    try:
        return inputs.find_inputs(named, but_not_below=but_not_below)
    except inputs.InputError as error:
        raise typer.BadParameter(str(error), param_hint="IN") from None
