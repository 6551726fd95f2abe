"""`derain models`."""

import dataclasses
import json

import typer

from app.cli.loading import inspect_checkpoints, load_settings
from app.cli.options import AsJSON
from app.cli.terminal import show


def models(as_json: AsJSON = False) -> None:
    """List the checkpoints that can be served. Exits with 1 when one of them is damaged."""
    found, default = inspect_checkpoints(load_settings())
    if as_json:
        described = [{**dataclasses.asdict(one), "default": one.name == default} for one in found]
        typer.echo(json.dumps(described, indent=2))
    else:
        from rich.box import SIMPLE
        from rich.table import Table

        table = Table("name", "parameters", "file", "text encoder", "SHA-256", "", box=SIMPLE)
        for one in found:
            notes = ["default"] * (one.name == default) + ["damaged"] * (not one.intact)
            size = f"{one.bytes / 1e6:.1f} MB"
            table.add_row(one.name, f"{one.parameters:,}", size, one.text, one.sha256[:12], ", ".join(notes))
        show(table)
    if not all(one.intact for one in found):
        raise SystemExit("a damaged checkpoint cannot be loaded")
