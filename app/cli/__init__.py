"""`derain ...` on the command line."""

from app.cli.application import cli, main

__all__ = ["cli", "main"]
