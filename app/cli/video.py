"""`derain video`."""

import dataclasses
import json
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

from app.cli.interrupts import Interrupts
from app.cli.loading import choose_model, load_restorer, load_settings
from app.cli.options import AsJSON, Device, Model, Overwrite
from app.cli.terminal import err, out, progress


def video(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A video.", exists=True, dir_okay=False)],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The restored video; its ending chooses the container.", dir_okay=False
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option(help="What is wrong with the video; else it is perceived for each scene.")
    ] = None,
    caption: Annotated[str | None, typer.Option(help="What the video shows.")] = None,
    model: Model = None,
    codec: Annotated[
        str | None, typer.Option(help="h264, hevc or av1; else the input's where OUT can hold it.")
    ] = None,
    crf: Annotated[
        int | None,
        typer.Option(
            min=0, help="Constant quality, lower is better: of h264 18, of hevc 20, of av1 24 unless given."
        ),
    ] = None,
    device: Device = None,
    overwrite: Overwrite = False,
    as_json: AsJSON = False,
) -> None:
    """Take the rain out of a video. Sound, subtitles, times, rotation and colour description stay.

    OUT appears when it is whole. Interrupted, the command leaves nothing behind, and begins anew the next
    time.
    """
    try:
        from app.video import VideoError, VideoOrder, restore_video
        from app.video_writing import available_codecs
        from model.restorer import AbandonedError
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise SystemExit("derain video needs PyAV: pip install 'tvi-derain[video]'") from None

    if codec is not None and codec not in available_codecs():
        raise typer.BadParameter(
            f"{codec!r} is none of {', '.join(available_codecs())}", param_hint="--codec"
        )
    order = VideoOrder(prompt=prompt, caption=caption, codec=codec, crf=crf, overwrite=overwrite)
    settings = load_settings()
    device = device or settings.device
    restorer = load_restorer(settings, choose_model(settings, model, device), device)
    interrupted, cancelled = Interrupts(), Event()
    with interrupted.calling(cancelled.set), progress("restoring", None, unit="frames") as advance:
        try:
            summary = restore_video(
                restorer,
                source,
                target,
                order,
                progress=advance,
                cancelled=cancelled.is_set,
            )
        except VideoError as error:
            raise SystemExit(str(error)) from None
        except AbandonedError:
            raise SystemExit(128 + interrupted.signal) from None
    if as_json:
        described = {
            "input": str(source),
            "output": str(target),
            **dataclasses.asdict(summary),
            "frames_per_second": summary.frames_per_second,
        }
        typer.echo(json.dumps(described, indent=2))
        return
    for note in summary.notes:
        err.print(f"{target}: {note}", markup=False)
    said = summary.prompts[0].prompt if len(summary.prompts) == 1 else f"{len(summary.prompts)} prompts"
    out.print(
        f"{source} -> {target} ({summary.frames} frames, {summary.frames_per_second:.1f} a second, "
        f"{summary.codec} at {summary.crf}; {said})",
        markup=False,
    )
