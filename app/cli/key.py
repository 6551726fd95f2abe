"""`derain key`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from app.cli.terminal import err


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
        raise SystemExit(str(error)) from None
    if append is not None:
        typer.echo(secret)
        err.print(f"The key of {name}, shown this once; its hash is in {append}.", markup=False)
    else:
        err.print(f"The key of {name}, shown this once: {secret}", markup=False)
        typer.echo(entry, nl=False)
