"""`derain restore`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.interrupts import Interrupts
from app.cli.loading import choose_model, find_inputs, image_limits, load_restorer, load_settings
from app.cli.options import Device, FormatName, Inputs, Jobs, Model
from app.cli.report import Report
from app.cli.terminal import check_pipe, err, progress
from app.inputs import PIPE

if TYPE_CHECKING:
    from app.outputs import Plan

EXAMPLES = """
Examples:

derain restore photo.jpg -o restored.png

derain restore photos/ -o restored/ --format webp

derain restore 'trip/**/*.jpg' -o out/ --prompt "a photo with heavy rain"

curl https://example.com/rainy.jpg | derain restore - > restored.jpg

Exit status: 0 all done, 1 some failed, 2 a wrong command, nothing done,

130 interrupted: the same command goes on from there.
"""


def restore(
    named: Inputs,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A folder for the restored images, which keep their names and their places; for one image a "
            "file, or - for standard output.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What is wrong with the pictures; else it is perceived for each.")
    ] = None,
    caption: Annotated[str | None, typer.Option(help="What the pictures show.")] = None,
    model: Model = None,
    format_name: Annotated[
        FormatName | None, typer.Option("--format", help="Of the restored images; else as each came.")
    ] = None,
    drop_metadata: Annotated[
        bool, typer.Option("--drop-metadata", help="Leave EXIF, XMP and comments out.")
    ] = False,
    jobs: Jobs = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace restored images that exist, instead of skipping them."),
    ] = False,
    device: Device = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each image as it is done.")
    ] = False,
) -> None:
    """Take the rain out of images. A broken one does not stop the others; those that exist are skipped."""
    if output is None:
        if named != [str(PIPE)]:
            raise typer.BadParameter("say where to", param_hint="--output")
        output = PIPE
    if output == PIPE:
        check_pipe(as_json=as_json)
    tasks = _plan(named, output, format_name, overwrite)
    settings = load_settings()
    device = device or settings.device
    name = choose_model(settings, model, device)
    report = Report("json" if as_json else "nothing" if output == PIPE else "text")

    from app.cores import usable_cores
    from app.files import Order, Outcome, Restoration
    from app.whole_files import remove_unfinished

    for done in tasks.existing:
        report.add(Outcome(done.path, "skipped", destination=done.destination))
    for unreadable in tasks.unreadable:
        report.add(Outcome(unreadable.path, "failed", error=unreadable.error))
    interrupted = Interrupts()
    if tasks.ready:
        for folder in {task.destination.parent for task in tasks.ready}:
            remove_unfinished(folder)
        order = Order(
            prompt=prompt,
            caption=caption,
            keep_metadata=not drop_metadata,
            limits=image_limits(settings),
        )
        run = Restoration(load_restorer(settings, name, device), order, jobs=jobs or usable_cores())
        report.begin()
        with interrupted.calling(run.stop), progress("restoring", len(tasks.ready)) as advance:
            for outcome in run.run(tasks.ready):
                report.add(outcome)
                advance()
    report.end()
    if interrupted.signal:
        left = len(tasks.ready) + len(tasks.existing) + len(tasks.unreadable) - report.total
        err.print(f"interrupted with {left} images left; the same command goes on from here", markup=False)
        raise typer.Exit(128 + interrupted.signal)
    if report.failed:
        raise SystemExit(f"{report.failed} of {report.total} failed")


def _plan(named: list[str], output: Path, format_name: str | None, overwrite: bool) -> "Plan":
    from app import outputs
    from app.formats import ANSWER_FORMATS

    inputs = find_inputs(named, but_not_below=None if output == PIPE else output)
    image_format = None if format_name is None else ANSWER_FORMATS[format_name]
    try:
        return outputs.plan(inputs, output, image_format, overwrite=overwrite)
    except outputs.OutputError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from None
