"""The reference of the command line, from the commands themselves."""

import re
from importlib.metadata import entry_points

import typer
from typer.cli import get_docs_for_click

from app.cli.application import cli
from app.cli.entry_points import COMMANDS, add_commands

PAGE = """# Commands

What `derain --help` and `derain COMMAND --help` say. This page is written from the commands; `derain` is in
`.venv/bin` after `make serve`. Commands of training and measuring (`evaluate`, `rain-sheet`, `train`,
`train-clip`, `train-text-tower`, `distill-text`) need the extra `train`:
`pip install -c constraints.txt -e '.[train]'`.

"""

HEADING = re.compile(r"^#(#+ )`(.*)`$", re.MULTILINE)


def page() -> str:
    """The page, as Markdown."""
    if "train" not in {command.name for command in cli.registered_commands}:
        add_commands(cli, entry_points(group=COMMANDS))
    command = typer.main.get_command(cli)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="derain", indent=1)
    return PAGE + HEADING.sub(r"\1\2", text)
