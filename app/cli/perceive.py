"""`derain perceive`."""

import dataclasses
import json
from typing import Any

import typer

from app.cli.loading import choose_model, find_inputs, image_limits, load_restorer, load_settings
from app.cli.options import AsJSON, Device, Inputs, Jobs, Model
from app.cli.terminal import err, progress, show
from app.inputs import reason


def perceive(
    named: Inputs, model: Model = None, device: Device = None, jobs: Jobs = None, as_json: AsJSON = False
) -> None:
    """Say what is wrong with images: the scores, and the prompt that `restore` would use.

    Exits with 1 when an image could not be read; the others are told.
    """
    inputs = find_inputs(named)
    settings = load_settings()
    device = device or settings.device
    name = choose_model(settings, model, device)

    from app.cores import usable_cores
    from app.files import perceive_files

    restorer = load_restorer(settings, name, device)
    if restorer.perception is None:
        raise SystemExit(f"{name} has nothing to perceive with")
    found: list[dict[str, Any]] = []
    with progress("perceiving", len(inputs)) as advance:
        paths = (source.path for source in inputs)
        for path, perceived in perceive_files(
            restorer, paths, image_limits(settings), jobs=jobs or usable_cores()
        ):
            if isinstance(perceived, Exception):
                err.print(f"{path}: {reason(perceived)}", markup=False)
                found.append({"image": str(path), "error": reason(perceived)})
            else:
                found.append({"image": str(path), **dataclasses.asdict(perceived)})
            advance()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    if failed := sum("error" in one for one in found):
        raise SystemExit(f"{failed} of {len(inputs)} failed")


def _show(found: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    table = Table("image", "type", "density", "direction", "prompt", box=SIMPLE)
    for one in found:
        if "error" not in one:
            groups = (_most_likely(one[group]) for group in ("types", "densities", "directions"))
            table.add_row(escape(one["image"]), *groups, one["prompt"])
    show(table)


def _most_likely(scores: dict[str, float]) -> str:
    word = max(scores, key=lambda word: scores[word])
    return f"{word} {scores[word]:.2f}"
