"""`derain compare`."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.loading import image_limits, load_settings
from app.cli.options import AsJSON, Overwrite
from app.cli.terminal import check_pipe, out, show
from app.inputs import PIPE, reason

if TYPE_CHECKING:
    from app.comparison import Fidelity, Panel
    from app.formats import ImageFormat
    from app.images import Photograph

EXAMPLES = """
Examples:

derain compare rainy.jpg restored.jpg -o both.jpg

derain compare rainy.jpg restored.jpg --reference clean.jpg -o all.png

derain compare rainy.jpg restored.jpg --reference clean.jpg --json

derain restore rainy.jpg -o - | derain compare rainy.jpg - -o both.jpg
"""


def compare(
    rainy: Annotated[str, typer.Argument(help="The photograph as it came; - for standard input.")],
    restored: Annotated[str, typer.Argument(help="What became of it; - for standard input.")],
    reference: Annotated[
        str | None,
        typer.Option(help="The scene without rain, to measure PSNR and SSIM (on Y) against."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The picture to write, in the format of its ending; - for a PNG on standard output. "
            "Not needed with --reference.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJSON = False,
) -> None:
    """Put a photograph and its restored version side by side, and measure both against a reference."""
    named = [name for name in (rainy, restored, reference) if name is not None]
    image_format = _format(named, output, overwrite=overwrite, as_json=as_json)
    photographs = _read(named)

    from app.comparison import Panel, compose, fidelity
    from app.formats import UnencodableImageError

    fidelities: list[Fidelity | None] = [None] * len(named)
    if reference is not None:
        try:
            fidelities = [fidelity(one, photographs[-1]) for one in photographs[:-1]] + [None]
        except ValueError as error:
            raise SystemExit(str(error)) from None
    titles = ("rainy", "restored", "reference")
    panels = [Panel(*panel) for panel in zip(photographs, titles, fidelities, strict=False)]
    if output is not None:
        try:
            _write(compose(panels, image_format), output)
        except (UnencodableImageError, OSError) as error:
            raise SystemExit(f"cannot write {output}: {reason(error)}") from None
    if as_json:
        typer.echo(json.dumps(_described(named, panels, output), indent=2))
    elif output != PIPE:
        _show(named, panels, output)


def _format(named: list[str], output: Path | None, *, overwrite: bool, as_json: bool) -> "ImageFormat":
    """The format of the picture to write, if the call is right."""
    from app.formats import PNG
    from app.outputs import format_of

    if named.count(str(PIPE)) > 1:
        raise typer.BadParameter("only one image can come by standard input", param_hint="-")
    if output is None:
        if len(named) < 3:
            raise typer.BadParameter(
                "say where to, or give a reference to measure against", param_hint="--output"
            )
        return PNG
    if output == PIPE:
        check_pipe(as_json=as_json)
        return PNG
    image_format = format_of(output)
    if image_format is None:
        raise typer.BadParameter(f"{output} has no ending of an image format", param_hint="--output")
    if output.is_file() and not overwrite:
        raise typer.BadParameter(f"{output} exists; --overwrite replaces it", param_hint="--output")
    return image_format


def _read(named: list[str]) -> "list[Photograph]":
    """The photographs, of one size."""
    from app import inputs
    from app.formats import ImageError
    from app.images import decode

    limits = image_limits(load_settings())
    photographs: list[Photograph] = []
    for name in named:
        try:
            photographs.append(decode(inputs.read(Path(name)), limits))
        except (OSError, ImageError) as error:
            raise SystemExit(f"{name}: {reason(error)}") from None
    sizes = [f"{one.width}x{one.height}" for one in photographs]
    if len(set(sizes)) > 1:
        told = ", ".join(f"{name} is {size}" for name, size in zip(named, sizes, strict=True))
        raise SystemExit(f"the images are not of one size: {told}")
    return photographs


def _write(data: bytes, output: Path) -> None:
    from app.whole_files import write_whole

    if output == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_whole(output, data)


def _described(named: list[str], panels: "list[Panel]", output: Path | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "output": None if output is None else str(output),
        "width": panels[0].photograph.width,
        "height": panels[0].photograph.height,
    }
    for name, panel in zip(named, panels, strict=True):
        described[panel.label] = {"path": name}
        if panel.fidelity is not None:
            psnr = panel.fidelity.psnr if math.isfinite(panel.fidelity.psnr) else None
            described[panel.label] |= {"psnr": psnr, "ssim": panel.fidelity.ssim}
    return described


def _show(named: list[str], panels: "list[Panel]", output: Path | None) -> None:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    if len(panels) > 2:
        table = Table("", "image", box=SIMPLE)
        for title in ("PSNR", "SSIM"):
            table.add_column(title, justify="right")
        for name, panel in zip(named, panels, strict=True):
            found = panel.fidelity
            figures = ("", "") if found is None else (f"{found.psnr:.2f} dB", f"{found.ssim:.4f}")
            table.add_row(panel.label, escape(name), *figures)
        show(table)
    if output is not None:
        out.print(str(output), markup=False)
