"""Commands of other packages: imported when they are needed, explained when they cannot be."""

import functools
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint
from typing import Any

import typer

COMMANDS = "derain.commands"
"""Entry points of this group name plain functions with Typer parameters; each becomes a command."""


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
            raise SystemExit(_missing(point, error)) from None

    return run


def _failing(message: str) -> Callable[[typer.Context], None]:
    def fail(ctx: typer.Context) -> None:  # noqa: ARG001 - the context is what takes any arguments
        raise SystemExit(message)

    return fail


def _missing(point: EntryPoint, error: Exception) -> str:
    message = f"`derain {point.name}` is not available here: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name != point.module:
        message += ". Its extra may be missing: pip install 'tvi-derain[train]'"
    return message
