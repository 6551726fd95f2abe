"""The commands of `derain` that come from here, by entry point; heavy imports wait until one of them runs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.restorer import Restorer
    from training.evaluate import SetResult

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


Photographs = Annotated[
    Path, typer.Option(metavar="DIR", help="Holds clean/*/, and streaks/*/ and pairs_train/.")
]
Rate = Annotated[float, typer.Option("--lr", min=1e-7, help="Learning rate after the warm-up.")]
Bfloat16 = Annotated[bool, typer.Option("--bfloat16/--no-bfloat16", help="Compute in bfloat16.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]

CAPTIONERS = "TAG|FILE"
CAPTIONER = (
    "CoCa, which says what the rainy images show where no caption is given: an open_clip tag or local "
    "checkpoint of coca_ViT-B-32, MODEL: and one of that, local-dir:FOLDER or hf-hub:OWNER/NAME."
)


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
    prompts: Annotated[
        bool,
        typer.Option(
            "--prompts",
            help="Measure prompts instead, on held-out scenes of a folder that `derain train` reads: each "
            "prompt on each degradation against the target that it asks for.",
        ),
    ] = False,
    perception: Annotated[
        bool,
        typer.Option(
            "--perception",
            help="Measure what is perceived instead, on held-out scenes of a folder that `derain train` "
            "reads: top-1, calibration, and clean photographs taken for such.",
        ),
    ] = False,
    unpaired: Annotated[
        bool,
        typer.Option(
            "--unpaired",
            help="Measure a folder of rainy photographs without clean originals instead: how far colours "
            "drift, and how much texture is left, where it does not rain, and how steep all is.",
        ),
    ] = False,
    captions: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Columns file and caption: what the rainy images show."),
    ] = None,
    captioner: Annotated[str | None, typer.Option(metavar=CAPTIONERS, help=CAPTIONER)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Measure a model on paired sets: PSNR and SSIM on Y, before and after."""
    from model.captioner import Captioner
    from model.checkpoint_folders import CheckpointError
    from training.captions import SemanticPrompts, read_captions
    from training.evaluate import evaluate_set, report
    from training.pairs import PairsError, find_sets
    from training.scenes import DataError

    if json_path is not None and not json_path.parent.is_dir():
        raise typer.BadParameter(f"{json_path.parent} is not a folder", param_hint="--json")
    for chosen, name, measure in (
        (prompts, "--prompts", _evaluate_prompts),
        (perception, "--perception", _evaluate_perception),
        (unpaired, "--unpaired", _evaluate_unpaired),
    ):
        if not chosen:
            continue
        others = any(option is not None for option in (prompt, save, captions, captioner))
        if others or prompts + perception + unpaired > 1:
            raise typer.BadParameter("goes with --model, --limit and --json only", param_hint=name)
        measure(data, _restorer(model, device, precision), limit, json_path)
        return
    try:
        sets = find_sets(data)
    except PairsError as error:
        raise typer.BadParameter(str(error), param_hint="--data") from None
    try:
        semantic = SemanticPrompts(
            {} if captions is None else read_captions(captions),
            None if captioner is None else Captioner.from_source(captioner, device),
        )
    except (CheckpointError, DataError) as error:
        raise SystemExit(str(error)) from None
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
                    semantic=semantic,
                    limit=limit,
                    save=save,
                    progress=lambda: progress.advance(task),
                )
            except (CheckpointError, PairsError, ValueError) as error:
                raise SystemExit(f"{found.name}: {error}") from None
            results.append(result)
    out.print(f"{restorer.name}, {restorer.device}, {restorer.precision}", markup=False)
    out.print(_figures(results))
    out.print(_prompts(results))
    if json_path is not None:
        json_path.write_text(json.dumps(report(restorer, results, prompt=prompt), indent=2) + "\n")


def _evaluate_prompts(data: Path, restorer: Restorer, limit: int | None, json_path: Path | None) -> None:
    from training.scenes import DataError, TrainingData
    from training.steering import DEGRADATIONS, steer

    try:
        held_out = TrainingData(data, validation=True)
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="--data") from None
    if not held_out.photographs:
        raise typer.BadParameter(f"no scene in {data} is held out from training", param_hint="--data")
    with _progress() as progress:
        task = progress.add_task("evaluating", total=len(DEGRADATIONS))
        found = steer(restorer, held_out, scenes=limit or 24, progress=lambda: progress.advance(task))
    out.print(f"{restorer.name}, {restorer.device}, {restorer.precision}", markup=False)
    out.print(f"{found.scenes} scenes each; dB on Y against what the prompt asks for: input, restored")
    table = Table("prompt")
    for degradation in found.restored:
        table.add_column(degradation, justify="right")
    for text in found.restored["clean"]:
        cells = [
            f"{found.input[d][text]:.1f}  [bold]{found.restored[d][text]:.1f}[/]" for d in found.restored
        ]
        table.add_row(text, *cells)
    out.print(table)
    for title, rows, digits in (
        ("prompted by, dB against the clean image", found.wordings, 2),
        ("share of the rain removed", found.removed, 3),
    ):
        table = Table(title)
        for degradation in found.wordings["correct"]:
            table.add_column(degradation, justify="right")
        for name, values in rows.items():
            table.add_row(name, *(f"{value:.{digits}f}" for value in values.values()))
        out.print(table)
    done = ", ".join(f"{wish} {share:.0%}" for wish, share in found.obeyed.items())
    out.print(f"sentences never seen that are done, by what they ask for: {done}")
    mean, lowest = found.preserved
    out.print(f"clean photographs, perceived prompt, against themselves: {mean:.1f} dB, lowest {lowest:.1f}")
    if json_path is not None:
        report = {"model": restorer.name, "precision": str(restorer.precision), **found.to_dict()}
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def _evaluate_perception(data: Path, restorer: Restorer, limit: int | None, json_path: Path | None) -> None:
    from training.calibration import measure_perception
    from training.clip import SIDE, held_out_images
    from training.scenes import DataError, TrainingData

    if restorer.perception is None:
        raise SystemExit(f"{restorer.name} has nothing to perceive with")
    count = limit or 480
    try:
        held_out = TrainingData(data, validation=True)
        with _progress() as progress:
            task = progress.add_task("evaluating", total=count + len(held_out.photographs))
            found = measure_perception(
                restorer.perception,
                held_out_images(held_out, count, SIDE, restorer.device),
                held_out.photographs,
                progress=lambda: progress.advance(task),
            )
    except (DataError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--data") from None
    out.print(f"{restorer.name}; degraded held-out scenes of {SIDE} pixels", markup=False)
    table = Table("attribute")
    for title in ("images", "top-1", "ECE"):
        table.add_column(title, justify="right")
    for name, score in found.attributes.items():
        table.add_row(name, str(score.images), f"{score.top1:.3f}", f"{score.ece:.3f}")
    out.print(table)
    out.print(f"rain is found in {found.rain_found:.1%} of the rainy ones")
    out.print(f"{found.clean_kept:.1%} of {found.photographs} clean photographs, whole, are taken for clean")
    if json_path is not None:
        json_path.write_text(json.dumps({"model": restorer.name, **found.to_dict()}, indent=2) + "\n")


def _evaluate_unpaired(data: Path, restorer: Restorer, limit: int | None, json_path: Path | None) -> None:
    from training.pairs import PairsError
    from training.scenes import images_in
    from training.unpaired import evaluate_unpaired

    photographs = images_in(data)[:limit] if data.is_dir() else []
    if not photographs:
        raise typer.BadParameter(f"no photographs in {data}", param_hint="--data")
    try:
        with _progress() as progress:
            task = progress.add_task("evaluating", total=len(photographs))
            changes = evaluate_unpaired(restorer, photographs, progress=lambda: progress.advance(task))
    except PairsError as error:
        raise SystemExit(str(error)) from None
    out.print(f"{restorer.name}, {restorer.device}, {restorer.precision}", markup=False)
    out.print("where it does not rain: restored minus input, of 255, and texture left; steepness of all")
    table = Table("photograph")
    for title in ("rain-free", "R", "G", "B", "texture", "steep before", "after"):
        table.add_column(title, justify="right")
    for change in changes:
        cells = ("-",) * 4
        if change.drift is not None:
            texture = "-" if change.texture is None else f"{change.texture:.0%}"
            cells = (*(f"{value:+.2f}" for value in change.drift), texture)
        steep = (f"{value:.2f}" for value in change.steepness)
        table.add_row(escape(change.name), f"{change.rain_free:.1%}", *cells, *steep)
    out.print(table)
    before, after = (
        geometric_mean(max(v, 1e-3) for v in way) for way in zip(*(c.steepness for c in changes), strict=True)
    )
    out.print(f"steepness {before:.3f} before, {after:.3f} after, in the geometric mean", markup=False)
    measured = [change for change in changes if change.largest_drift is not None]
    if measured:
        worst = max(measured, key=lambda change: change.largest_drift or 0)
        out.print(f"largest drift {worst.largest_drift:.2f} of 255, in {worst.name}", markup=False)
    if json_path is not None:
        report = {"model": restorer.name, "photographs": [change.to_dict() for change in changes]}
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def train(
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Holds clean/*/, and streaks/*/ and pairs_train/; or a paired set as published.",
        ),
    ],
    out_dir: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Checkpoints and curves; resumed from.")
    ],
    preset: Annotated[str, typer.Option(help="s, m or paper.")] = "s",
    steps: Annotated[int | None, typer.Option(min=1, help="How long, in steps.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="How long, in minutes of training.")] = None,
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Train with prompts, or the twin that hears nothing.")
    ] = True,
    start_from: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Start with a run's last.pt or a checkpoint folder, a smaller network's too."
        ),
    ] = None,
    revive: Annotated[
        bool, typer.Option("--revive", help="Let units of --start-from that have died begin anew.")
    ] = False,
    layerwise_rates: Annotated[
        bool,
        typer.Option("--layerwise-rates", help="Let each layer learn at a rate in proportion to its size."),
    ] = False,
    upright: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the photographs that is stretched upright.")
    ] = 0.0,
    fine: Annotated[float, typer.Option(min=0, max=1, help="Share of the photographs that is shrunk.")] = 0.0,
    lined: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the photographs with bars, grids or wires drawn in.")
    ] = 0.0,
    grey: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the photographs whose colours go.")
    ] = 0.0,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a checkpoint to serve from at the end.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Export in float16: half the bytes.")] = False,
    seed: Annotated[int, typer.Option(help="Data and initial weights follow from it.")] = 0,
    crop: Annotated[int | None, typer.Option(min=16, help="One crop size instead of three stages.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Crops per step with --crop.")] = 8,
    rate: Annotated[
        float | None, typer.Option("--lr", min=1e-7, help="Learning rate after the warm-up.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="An open_clip tag or local checkpoint of the preset's CLIP.")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Columns file and caption: what the pairs of a set show."),
    ] = None,
    captioner: Annotated[str | None, typer.Option(metavar=CAPTIONERS, help=CAPTIONER)] = None,
    bfloat16: Bfloat16 = False,
    threads: Threads = None,
) -> None:
    """Train a network on photographs and synthetic rain, resuming where OUT has a checkpoint."""
    from model.checkpoint_folders import CheckpointError, default_weights_dir
    from model.config import PRESETS
    from training.export import export_run
    from training.grow import GrowthError
    from training.scenes import DataError
    from training.train import Stage, TrainConfig
    from training.train import train as run
    from training.variety import Variety

    if preset not in PRESETS:
        raise typer.BadParameter(f"choose {', '.join(PRESETS)}", param_hint="--preset")
    if (steps is None) == (minutes is None):
        raise typer.BadParameter("give either --steps or --minutes", param_hint="--steps")
    if revive and start_from is None:
        raise typer.BadParameter("goes with --start-from", param_hint="--revive")
    if layerwise_rates and PRESETS[preset].restoration.block != "convolution":
        raise typer.BadParameter(f"{preset} has normalised layers", param_hint="--layerwise-rates")
    if upright + fine > 1:
        raise typer.BadParameter("at most 1 with --upright", param_hint="--fine")
    if half and export is None:
        raise typer.BadParameter("goes with --export", param_hint="--half")
    weights = default_weights_dir()
    config = TrainConfig(
        preset=preset,
        weights=str(weights),
        text=text,
        start_from=None if start_from is None else str(start_from),
        revive=revive,
        layerwise_rates=layerwise_rates,
        variety=Variety(upright=upright, fine=fine, lined=lined, grey=grey),
        steps=steps,
        minutes=minutes,
        seed=seed,
        clip=clip,
        captions=None if captions is None else str(captions),
        captioner=captioner,
        bfloat16=bfloat16,
        threads=threads,
    )
    if rate is not None:
        config = replace(config, learning_rate=rate)
    if crop is not None:
        config = replace(config, stages=(Stage(until=1.0, crop=crop, batch=batch),))
    try:
        run(config, data, out_dir)
        if export is not None and os.environ.get("RANK", "0") == "0":
            export_run(out_dir, export, weights=weights, half=half)
    except (CheckpointError, DataError, GrowthError) as error:
        raise SystemExit(str(error)) from None


def train_clip(
    data: Photographs,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="The checkpoint folder to write.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="How long.")] = 12,
    batch: Annotated[int, typer.Option(min=2, help="Crops per step.")] = 32,
    seed: Annotated[int, typer.Option(help="Data and initial weights follow from it.")] = 0,
    lock_text: Annotated[
        bool, typer.Option(help="Go on from OUT with its text tower fixed: only the image tower learns.")
    ] = False,
    threads: Threads = None,
) -> None:
    """Train the compact CLIP that perceives degradations and encodes prompts."""
    from model.checkpoint_folders import CheckpointError
    from training.clip import ClipConfig
    from training.clip import train_clip as run
    from training.scenes import DataError

    config = ClipConfig(minutes=minutes, batch=batch, seed=seed, lock_text=lock_text, threads=threads)
    try:
        run(config, data, out_dir)
    except (CheckpointError, DataError) as error:
        raise SystemExit(str(error)) from None


def train_text_tower(
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="The checkpoint folder to write.")],
    clip: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The compact CLIP to go on from; else the served one.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="How long.")] = 1000,
    batch: Annotated[int, typer.Option(min=2, help="Sentences per step.")] = 128,
    rate: Rate = 8e-4,
    merges: Annotated[
        int | None, typer.Option(min=1, help="Merges of a new vocabulary; else the tower keeps its own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The sentences follow from it.")] = 0,
    bfloat16: Bfloat16 = False,
    threads: Threads = None,
) -> None:
    """Teach the compact CLIP's text tower what sentences ask for; what it perceives stays as it is."""
    from model.checkpoint_folders import CheckpointError, default_weights_dir
    from model.weights import PERCEIVER
    from training.text_tower import TowerConfig
    from training.text_tower import train_text_tower as run

    config = TowerConfig(
        steps=steps,
        batch=batch,
        learning_rate=rate,
        merges=merges,
        seed=seed,
        bfloat16=bfloat16,
        threads=threads,
    )
    try:
        run(config, clip or default_weights_dir() / PERCEIVER, out_dir)
    except CheckpointError as error:
        raise SystemExit(str(error)) from None


def distill_text(
    data: Photographs,
    teacher: Annotated[
        Path, typer.Option(metavar="DIR", help="A network's checkpoint folder, its compact CLIP beside it.")
    ],
    weights: Annotated[
        Path, typer.Option(metavar="DIR", help="Holds the compact CLIP that the new network is to have.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="The checkpoint folder to write.")],
    steps: Annotated[int, typer.Option(min=1, help="How long.")] = 700,
    batch: Annotated[int, typer.Option(min=6, help="Sentences per step.")] = 96,
    rate: Rate = 2e-3,
    half: Annotated[bool, typer.Option("--half", help="Write float16: half the bytes.")] = False,
    seed: Annotated[int, typer.Option(help="Sentences and images follow from it.")] = 0,
    bfloat16: Bfloat16 = False,
    threads: Threads = None,
) -> None:
    """Teach a network many more ways to say what it knows, or another text tower, by sentences alone."""
    from model.checkpoint_folders import CheckpointError
    from training.distill import DistillConfig, distill
    from training.scenes import DataError

    config = DistillConfig(
        steps=steps, batch=batch, learning_rate=rate, seed=seed, bfloat16=bfloat16, threads=threads
    )
    try:
        distill(config, teacher, weights, data, out_dir, half=half)
    except (CheckpointError, DataError) as error:
        raise SystemExit(str(error)) from None


def rain_sheet(
    data: Photographs,
    picture: Annotated[Path, typer.Option("--out", metavar="SHEET.png", help="The picture to write.")],
    seed: Annotated[int, typer.Option(help="Which samples.")] = 0,
) -> None:
    """Draw samples of the rain that the network trains on: rainy beside layer, named by what they show."""
    from training.scenes import DataError, TrainingData
    from training.sheet import render_sheet

    try:
        render_sheet(TrainingData(data), picture, seed=seed)
    except DataError as error:
        raise SystemExit(str(error)) from None


def _restorer(model: str, device: str, precision: str) -> Restorer:
    """The restorer of a name or folder, or an explanation of why it cannot be had."""
    from model.checkpoint_folders import CheckpointError, available, default_weights_dir
    from model.restorer import Restorer

    root = default_weights_dir()
    folder = root / model if model in available(root) else Path(model)
    if not folder.is_dir():
        names = ", ".join(available(root)) or "none"
        raise SystemExit(f"{model!r} is neither a checkpoint in {root} (there: {names}) nor a folder")
    try:
        return Restorer.from_checkpoint(folder, device=device, precision=precision)
    except (CheckpointError, RuntimeError, ValueError) as error:
        raise SystemExit(str(error)) from None


def _figures(results: Sequence[SetResult]) -> Table:
    table = Table("set", "images")
    for title in ("input dB", "SSIM", "restored dB", "SSIM", "gain dB"):
        table.add_column(title, justify="right")
    for result in results:
        before, after = result.input, result.restored
        table.add_row(
            escape(result.name),
            str(len(result.pairs)),
            f"{before.psnr:.2f}",
            f"{before.ssim:.4f}",
            f"{after.psnr:.2f}",
            f"{after.ssim:.4f}",
            f"{after.psnr - before.psnr:+.2f}",
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
    return Progress(console=err, transient=True, disable=not err.is_terminal)
