"""`derain ...`: serve, restore files, perceive, list models; other packages add commands by entry point."""

import functools
import ipaddress
import json
import logging.config
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from app.checkpoints import Checkpoint
    from app.files import Input
    from app.settings import Settings
    from model.restorer import Restorer

COMMANDS = "derain.commands"
"""Entry points of this group name plain functions with Typer parameters; each becomes a command."""

OPEN_TO_ALL = (
    "ANYBODY WHO REACHES %s MAY USE THIS SERVICE: it listens beyond this machine and asks for no API key. "
    "DERAIN_API_KEYS_FILE names a file of keys (derain key NAME --append FILE makes one)."
)

cli = typer.Typer(
    name="derain",
    help="Takes rain out of photographs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Paths = Annotated[list[Path], typer.Argument(metavar="IN...", help="Images, and folders of images.")]
Model = Annotated[str | None, typer.Option(help="A name that `derain models` lists; else the default model.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...; else DERAIN_DEVICE.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line. A command that comes by entry point is imported only when it is needed."""
    found = entry_points(group=COMMANDS)
    named = sys.argv[1] if len(sys.argv) > 1 else ""
    if named in found.names:
        add_commands(cli, [found[named]])
    elif named not in {command.name for command in cli.registered_commands}:
        add_commands(cli, found)
    cli()


def add_commands(target: typer.Typer, found: Iterable[EntryPoint]) -> None:
    """Register the functions that entry points name.

    One that cannot be imported still becomes a command, which says what is missing. So does one that finds
    only while it runs that a package is missing.
    """
    for point in sorted(found, key=lambda point: point.name):
        try:
            target.command(point.name)(_explaining(point, point.load()))
        except (ImportError, AttributeError) as error:
            anything: dict[str, Any] = {
                "allow_extra_args": True,
                "ignore_unknown_options": True,
                "help_option_names": [],
            }
            target.command(point.name, help=f"(not available: {error})", context_settings=anything)(
                _failing(_missing(point, error))
            )


def _explaining(point: EntryPoint, function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> object:
        try:
            return function(*args, **kwargs)
        except ModuleNotFoundError as error:
            raise _failure(_missing(point, error)) from None

    return run


def _failing(message: str) -> Callable[[typer.Context], None]:
    def fail(ctx: typer.Context) -> None:  # noqa: ARG001 - the context is what takes any arguments
        raise _failure(message)

    return fail


def _missing(point: EntryPoint, error: Exception) -> str:
    message = f"`derain {point.name}` is not available here: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name != point.module:
        message += ". Its extra may be missing: pip install 'tvi-derain[train]'"
    return message


KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open. Longer than proxies and load balancers keep theirs (60 seconds,
mostly): they should be the ones that close, or a request meets a closed door now and then."""


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve POST /derain and the rest over HTTP. Everything else is set by DERAIN_* variables."""
    import uvicorn

    from app.keys import KeyFileError
    from app.main import create_app
    from app.protocol import bounded_protocol

    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter(f"{log_level!r} is not a level", param_hint="--log-level")
    settings = _settings()
    found, _ = _checkpoints(settings)
    if damaged := [one.name for one in found if not one.intact]:
        raise _failure(f"{settings.weights_dir}: damaged: {', '.join(damaged)}")
    logging.config.dictConfig(log_config(log_level))
    try:
        app = create_app(settings)
    except KeyFileError as error:
        raise _failure(f"DERAIN_API_KEYS_FILE: {error}") from None
    if settings.api_keys_file is None and not _is_loopback(host):
        logging.getLogger("app.cli").warning(OPEN_TO_ALL, host)
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=bounded_protocol(settings),
        ws="none",
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.deadline_seconds) + 10,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def log_config(level: str) -> dict[str, Any]:
    """A `logging.config` dictionary: every event is one line on standard error."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "format": "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s",
                "datefmt": "%Y-%m-%dT%H:%M:%S",
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {name: {"level": level.upper()} for name in ("app", "model", "uvicorn")},
    }


@cli.command()
def restore(
    paths: Paths,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A folder for the restored images, named as they came; or a file, for one image.",
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option(help="What is wrong with the pictures; else it is perceived for each.")
    ] = None,
    caption: Annotated[str | None, typer.Option(help="What the pictures show.")] = None,
    model: Model = None,
    image_format: Annotated[
        str | None, typer.Option("--format", help="png, jpeg, webp or avif; else as the image came.")
    ] = None,
    drop_metadata: Annotated[
        bool, typer.Option("--drop-metadata", help="Leave EXIF, XMP and comments out.")
    ] = False,
    device: Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Restore images and whole folders of them. Exits with 1 when one of them failed; the others are done."""
    from app.files import Order, format_of, restore_files
    from app.formats import ANSWER_FORMATS
    from app.image_headers import ImageLimits
    from app.images import set_up_codecs

    if image_format is not None and image_format not in ANSWER_FORMATS:
        raise typer.BadParameter(
            f"{image_format!r} is none of {', '.join(ANSWER_FORMATS)}", param_hint="--format"
        )
    inputs = _inputs(paths)
    named = format_of(output)
    single = len(paths) == 1 and not paths[0].is_dir() and not output.is_dir() and named is not None
    settings = _settings()
    order = Order(
        output=output,
        single=single,
        prompt=prompt,
        caption=caption,
        image_format=ANSWER_FORMATS[image_format] if image_format else (named if single else None),
        overwrite=overwrite,
        keep_metadata=not drop_metadata,
        limits=ImageLimits(settings.max_image_pixels, settings.max_image_side),
    )
    set_up_codecs(settings.max_image_pixels)
    restorer = _restorer(settings, model, device)
    failed = 0
    with _progress() as progress:
        task = progress.add_task("restoring", total=len(inputs))
        for outcome in restore_files(restorer, inputs, order):
            if outcome.error is not None:
                failed += 1
                err.print(f"{outcome.path}: {outcome.error}", markup=False)
            else:
                out.print(f"{outcome.path} -> {outcome.destination} ({outcome.prompt})", markup=False)
            progress.advance(task)
    if failed:
        raise _failure(f"{failed} of {len(inputs)} failed")


@cli.command()
def perceive(paths: Paths, model: Model = None, device: Device = None, as_json: AsJSON = False) -> None:
    """Say what is wrong with images: the scores, and the prompt that `restore` would use."""
    import dataclasses

    from app.files import FileError, read
    from app.formats import ImageError
    from app.image_headers import ImageLimits
    from app.images import set_up_codecs

    inputs = _inputs(paths)
    settings = _settings()
    set_up_codecs(settings.max_image_pixels)
    limits = ImageLimits(settings.max_image_pixels, settings.max_image_side)
    restorer = _restorer(settings, model, device)
    table = Table("image", "type", "density", "direction", "prompt", box=SIMPLE)
    found: list[dict[str, Any]] = []
    failed = 0
    with _progress() as progress:
        task = progress.add_task("perceiving", total=len(inputs))
        for source in inputs:
            try:
                photograph = read(source.path, limits)
            except (FileError, ImageError) as error:
                failed += 1
                err.print(f"{source.path}: {error}", markup=False)
            else:
                perceived = restorer.perceive(photograph.pixels)
                found.append({"image": str(source.path), **dataclasses.asdict(perceived)})
                groups = (perceived.types, perceived.densities, perceived.directions)
                table.add_row(str(source.path), *map(_most_likely, groups), perceived.prompt)
            progress.advance(task)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(table)
    if failed:
        raise _failure(f"{failed} of {len(inputs)} failed")


@cli.command()
def models(as_json: AsJSON = False) -> None:
    """List the checkpoints that can be served."""
    import dataclasses

    found, default = _checkpoints(_settings())
    if as_json:
        described = [{**dataclasses.asdict(one), "default": one.name == default} for one in found]
        typer.echo(json.dumps(described, indent=2))
    else:
        table = Table("name", "parameters", "file", "text encoder", "SHA-256", "", box=SIMPLE)
        for one in found:
            notes = ["default"] * (one.name == default) + ["damaged"] * (not one.intact)
            size = f"{one.bytes / 1e6:.1f} MB"
            table.add_row(one.name, f"{one.parameters:,}", size, one.text, one.sha256[:12], ", ".join(notes))
        _show(table)
    if not all(one.intact for one in found):
        raise _failure("a damaged checkpoint cannot be loaded")


@cli.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key: letters, digits and _.@-, for logs and refusals.")],
    append: Annotated[
        Path | None,
        typer.Option(help="Add the entry to this file (DERAIN_API_KEYS_FILE) instead of printing it."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="In any 60 seconds.")] = None,
    concurrent_requests: Annotated[int | None, typer.Option(min=1, help="At once.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires.")] = None,
) -> None:
    """Make an API key.

    The key itself is shown once and kept nowhere: on standard output with --append, else on standard error,
    and the entry for the file of keys on standard output.
    """
    from datetime import UTC, datetime, timedelta

    from app.keys import KeyFileError, append_entry, entry_of, new_secret

    secret = new_secret()
    try:
        entry = entry_of(
            secret,
            name,
            requests_per_minute=requests_per_minute,
            concurrent_requests=concurrent_requests,
            expires=datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) if days else None,
        )
        if append is not None:
            append_entry(append, entry)
    except KeyFileError as error:
        raise _failure(str(error)) from None
    if append is not None:
        typer.echo(secret)
        err.print(f"The key of {name}, shown this once; its hash is in {append}.", markup=False)
    else:
        err.print(f"The key of {name}, shown this once: {secret}", markup=False)
        typer.echo(entry, nl=False)


def _show(table: Table) -> None:
    """Print a table, as wide as it is where no terminal limits it."""
    Console(width=None if out.is_terminal else 10_000, highlight=False).print(table)


def _most_likely(scores: dict[str, float]) -> str:
    word = max(scores, key=lambda word: scores[word])
    return f"{word} {scores[word]:.2f}"


def _settings() -> "Settings":
    """The settings, or an explanation of what is wrong with them."""
    from app.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        for wrong in error.errors():
            variable = "".join(f"DERAIN_{part}".upper() for part in wrong["loc"][:1]) or "DERAIN_*"
            err.print(f"{variable}: {wrong['msg']}", markup=False)
        raise _failure("the settings are not valid") from None


def _checkpoints(settings: "Settings") -> "tuple[list[Checkpoint], str]":
    """The checkpoints that the settings name and which is the default, or an explanation of what is wrong."""
    from app.checkpoints import default_model, device_type, inspect
    from model.checkpoint_folders import CheckpointError, available

    names = settings.models or tuple(available(settings.weights_dir))
    try:
        default = default_model(names, device_type(settings.device), settings.default_model)
        return [inspect(settings.weights_dir / name) for name in names], default
    except CheckpointError as error:
        raise _failure(f"{settings.weights_dir}: {error}") from None


def _inputs(paths: list[Path]) -> "list[Input]":
    from app.files import FileError, find_inputs

    try:
        return find_inputs(paths)
    except FileError as error:
        raise typer.BadParameter(str(error), param_hint="IN...") from None


def _restorer(settings: "Settings", name: str | None, device: str | None) -> "Restorer":
    """The restorer of this name, else the default one, or an explanation of why it cannot be had."""
    from app.checkpoints import default_model, device_type
    from model.checkpoint_folders import CheckpointError, available
    from model.memory import keep_freed_memory
    from model.restorer import Restorer

    device = device or settings.device
    if settings.keep_freed_memory:
        keep_freed_memory()
    try:
        if name is None:
            names = settings.models or tuple(available(settings.weights_dir))
            name = default_model(names, device_type(device), settings.default_model)
        return Restorer.from_checkpoint(
            settings.weights_dir / name, device=device, precision=settings.precision
        )
    except (CheckpointError, RuntimeError) as error:
        raise _failure(f"{settings.weights_dir}: {error}") from None


def _progress() -> Progress:
    """A progress bar on standard error, shown only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def _failure(message: str) -> typer.Exit:
    """Print why, and the exit that says that it failed."""
    err.print(message, markup=False)
    return typer.Exit(1)


if __name__ == "__main__":
    main()
