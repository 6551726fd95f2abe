"""How a command ends: with a status, and where it failed one line that says why."""

import sys
from collections.abc import Sequence
from typing import Any, Never

from typer.core import TyperGroup
from typer.exceptions import TyperException

from app.cli.terminal import err


class OneLineErrors(TyperGroup):
    """The group of all commands.

    A command ends with status 0, or with `SystemExit(why)`, which is 1; a wrong call, told by typer's own
    exceptions, is 2.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 - this is what it does itself
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Never:
        """Run a command and exit."""
        try:
            status = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except TyperException as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else self.name
            if message := error.format_message():  # empty where the help was shown instead
                err.print(f"{path}: {message} ({path} --help tells more)", markup=False)
            sys.exit(error.exit_code)
        except SystemExit as ended:
            if isinstance(ended.code, str):
                err.print(ended.code, markup=False)
                sys.exit(1)
            raise
        sys.exit(status)
