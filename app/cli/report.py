"""What `derain restore` tells of its files: a line for each, in words or in JSON, and a table at the end."""

import json
import time
from typing import TYPE_CHECKING, Literal

import typer

from app.cli.terminal import err, out, show

if TYPE_CHECKING:
    from app.files import Outcome


class Report:
    """Counts outcomes and tells them; why files failed goes to standard error.

    Args:
        form: `text`, `json` (a line for each file), or `nothing` where standard output is the image.
    """

    def __init__(self, form: Literal["text", "json", "nothing"]) -> None:
        self._form = form
        self._counts = {"restored": 0, "skipped": 0, "failed": 0}
        self._pixels = 0
        self._started = time.monotonic()

    @property
    def total(self) -> int:
        """All files."""
        return sum(self._counts.values())

    @property
    def failed(self) -> int:
        """Files that failed."""
        return self._counts["failed"]

    def begin(self) -> None:
        """Measure time from now on."""
        self._started = time.monotonic()

    def add(self, outcome: "Outcome") -> None:
        """Tell what became of a file."""
        self._counts[outcome.status] += 1
        self._pixels += outcome.width * outcome.height
        if self._form == "json":
            typer.echo(json.dumps(_described(outcome)))
        elif self._form == "text" and outcome.status == "restored":
            out.print(f"{outcome.path} -> {outcome.destination} ({outcome.prompt})", markup=False)
        if outcome.error is not None:
            err.print(f"{outcome.path}: {outcome.error}", markup=False)

    def end(self) -> None:
        """Show the table."""
        if self._form != "text":
            return
        from rich.box import SIMPLE
        from rich.table import Table

        seconds = time.monotonic() - self._started
        table = Table("", box=SIMPLE)
        for title in ("images", "megapixels", "seconds", "images/s"):
            table.add_column(title, justify="right")
        done = self._counts["restored"]
        if done:
            figures = f"{self._pixels / 1e6:.1f}", f"{seconds:.1f}", f"{done / seconds:.3g}"
            table.add_row("restored", str(done), *figures)
        if self._counts["skipped"]:
            table.add_row("skipped, existed", str(self._counts["skipped"]))
        if self.failed:
            table.add_row("failed", str(self.failed))
        show(table)


def _described(outcome: "Outcome") -> dict[str, object]:
    return {
        "input": str(outcome.path),
        "output": None if outcome.destination is None else str(outcome.destination),
        "status": outcome.status,
        "prompt": outcome.prompt,
        "width": outcome.width or None,
        "height": outcome.height or None,
        "error": outcome.error,
    }
