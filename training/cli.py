"""The commands of `derain` that come from here, by entry point; heavy imports wait until one of them runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.restorer import Restorer
    from training.evaluate import SetResult

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="A paired set (input/ and target/, or clean and rainy side by side), or a folder of some.",
        ),
    ],
    model: Annotated[
        str, typer.Option(help="A name that `derain models` lists, or the folder of a checkpoint.")
    ] = "tvi-derain-s",
    prompt: Annotated[
        str | None, typer.Option(help="What is wrong with the pictures; else it is perceived for each.")
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="OUT.json", help="Write all figures to this file.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs of each set.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the restored images here, as SET/NAME.png.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Measure a model on paired sets: PSNR and SSIM on Y, before and after."""
    from training.evaluate import evaluate_set, report
    from training.pairs import PairsError, find_sets

    if json_path is not None and not json_path.parent.is_dir():
        raise typer.BadParameter(f"{json_path.parent} is not a folder", param_hint="--json")
    try:
        sets = find_sets(data)
    except PairsError as error:
        raise typer.BadParameter(str(error), param_hint="--data") from None
    restorer = _restorer(model, device, precision)
    total = sum(len(found.pairs[:limit]) for found in sets)
    results: list[SetResult] = []
    with _progress() as progress:
        task = progress.add_task("evaluating", total=total)
        for found in sets:
            try:
                result = evaluate_set(
                    restorer,
                    found,
                    prompt=prompt,
                    limit=limit,
                    save=save,
                    progress=lambda: progress.advance(task),
                )
            except (PairsError, ValueError) as error:
                raise _failure(f"{found.name}: {error}") from None
            results.append(result)
    out.print(f"{restorer.name}, {restorer.device}, {restorer.precision}", markup=False)
    out.print(_figures(results))
    out.print(_prompts(results))
    if json_path is not None:
        json_path.write_text(json.dumps(report(restorer, results, prompt=prompt), indent=2) + "\n")


def _restorer(model: str, device: str, precision: str) -> Restorer:
    """The restorer of a name or folder, or an explanation of why it cannot be had."""
    from model.restorer import Restorer
    from model.weights import CheckpointError, available, default_weights_dir

    root = default_weights_dir()
    folder = root / model if model in available(root) else Path(model)
    if not folder.is_dir():
        names = ", ".join(available(root)) or "none"
        raise _failure(f"{model!r} is neither a checkpoint in {root} (there: {names}) nor a folder")
    try:
        return Restorer.from_checkpoint(folder, device=device, precision=precision)
    except (CheckpointError, RuntimeError, ValueError) as error:
        raise _failure(str(error)) from None


def _figures(results: Sequence[SetResult]) -> Table:
    table = Table("set", "images")
    for title in ("input PSNR", "input SSIM", "restored PSNR", "restored SSIM", "gain"):
        table.add_column(title, justify="right")
    for result in results:
        before, after = result.input, result.restored
        table.add_row(
            escape(result.name),
            str(len(result.pairs)),
            f"{before.psnr:.2f} dB",
            f"{before.ssim:.4f}",
            f"{after.psnr:.2f} dB",
            f"{after.ssim:.4f}",
            f"{after.psnr - before.psnr:+.2f} dB",
        )
    return table


def _prompts(results: Sequence[SetResult]) -> Table:
    table = Table("set", "prompt")
    table.add_column("share", justify="right")
    for result in results:
        for prompt, share in result.prompts.items():
            table.add_row(escape(result.name), escape(prompt), f"{share:.0%}")
    return table


def _progress() -> Progress:
    """A progress bar on standard error, shown only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def _failure(message: str) -> typer.Exit:
    """Print why, and the exit that says that it failed."""
    err.print(message, markup=False)
    return typer.Exit(1)
