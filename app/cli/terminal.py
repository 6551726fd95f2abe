"""What commands show: lines and tables on standard output, errors and a progress bar on standard error.

Colours and bars appear on terminals only; NO_COLOR is obeyed.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

RATE_SECONDS = 600.0
"""The time left follows from the images of so many seconds: a large one takes a while."""


def show(table: "Table") -> None:
    """Print a table, as wide as it is where no terminal limits it."""
    Console(width=None if out.is_terminal else 10_000, highlight=False).print(table)


def check_pipe(*, as_json: bool) -> None:
    """Refuse to put an image where it does no good, before the work."""
    if as_json:
        raise typer.BadParameter("- and --json both go to standard output", param_hint="--output")
    if sys.stdout.isatty():
        raise typer.BadParameter("- would show an image as text: redirect it", param_hint="--output")


@contextmanager
def progress(what: str, total: int | None, *, unit: str = "images") -> Generator[Callable[..., None]]:
    """A bar with images per second and the time left; what the context gets is called after each image, with
    the total where that was not known before.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    class Rate(ProgressColumn):
        """Images per second."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.3g} {unit}/s", "progress.data.speed")

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeLeft()
    with Progress(
        *columns,
        console=err,
        transient=True,
        speed_estimate_period=RATE_SECONDS,
        # lines of output go above the bar; those that go elsewhere must not be shown instead
        redirect_stdout=out.is_terminal,
        disable=not err.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance(total: int | None = total) -> None:
            bar.update(task, advance=1, total=total)

        yield advance
