"""`derain ...`: serve, restore files, perceive, compare, list models; other packages add commands by entry
point. Heavy imports wait until a command runs."""

import sys
from importlib.metadata import entry_points, version
from io import TextIOWrapper
from typing import Annotated, cast

import typer

from app.cli import compare, restore
from app.cli.entry_points import COMMANDS, add_commands
from app.cli.group import OneLineErrors
from app.cli.key import key
from app.cli.models import models
from app.cli.perceive import perceive
from app.cli.serve import serve
from app.cli.video import video

cli = typer.Typer(name="derain", cls=OneLineErrors, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"derain {version('tvi-derain')}")
        raise typer.Exit


@cli.callback()
def derain(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Takes rain out of photographs."""


cli.command("serve")(serve)
cli.command("restore", epilog=restore.EXAMPLES)(restore.restore)
cli.command("compare", epilog=compare.EXAMPLES)(compare.compare)
cli.command("perceive")(perceive)
cli.command("video")(video)
cli.command("models")(models)
cli.command("key")(key)


def main() -> None:
    """Run the command line. A command that comes by entry point is imported only when it is needed."""
    cast(TextIOWrapper, sys.stdout).reconfigure(errors="surrogateescape")  # file names need not be UTF-8
    found = entry_points(group=COMMANDS)
    named = sys.argv[1] if len(sys.argv) > 1 else ""
    if named in found.names:
        add_commands(cli, [found[named]])
    elif named not in {command.name for command in cli.registered_commands}:
        add_commands(cli, found)
    cli(prog_name="derain")
