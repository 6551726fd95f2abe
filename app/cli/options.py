"""Arguments and options that several commands have, and what completes them."""

from typing import Annotated, Literal

import typer

FormatName = Literal["png", "jpeg", "webp", "avif"]
"""`app.formats.ANSWER_FORMATS`."""


def complete_models() -> list[str]:
    """The checkpoints that there are."""
    from model.checkpoint_folders import available, default_weights_dir

    return available(default_weights_dir())


def complete_devices() -> list[str]:
    """Kinds of devices."""
    return ["auto", "cpu", "cuda"]


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="IN",
        help="Images, folders of images, quoted patterns ('photos/**/*.jpg'), or - for standard input.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="A name that `derain models` lists; else the default model.", autocompletion=complete_models
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="auto, cpu, cuda, cuda:1 ...; else DERAIN_DEVICE, else a GPU where there is one.",
        autocompletion=complete_devices,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, help="Threads that decode and encode beside the network; else one per core."
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
