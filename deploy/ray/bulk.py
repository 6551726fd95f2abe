"""Takes the rain out of every photograph below a folder or a bucket, on all devices of a Ray cluster.

    python deploy/ray/bulk.py s3://rainy/2026 s3://dry/2026 --address auto

The same command goes on where an earlier one ended: what is there and whole is skipped.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import fsspec
import numpy as np
import obstore.fsspec
import ray
import typer
from fsspec.implementations.local import LocalFileSystem
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from app import heic
from app.cli.loading import choose_model, image_limits, load_restorer
from app.files import Order, Outcome, Restoration
from app.formats import ANSWER_FORMATS, FORMATS, ImageError, ImageFormat
from app.images import decode
from app.inputs import SUFFIXES, reason
from app.outputs import Task
from app.settings import Settings
from app.whole_files import remove_unfinished, write_whole

OBJECT_STORES = ("s3", "gs", "az", "abfs")
"""Protocols that obstore speaks, with the credentials that it finds in the environment."""

TRANSFERS = 16
"""Files that a device's process reads and writes at once, where they are elsewhere."""

RESTARTS = 3
"""How often a process that died is begun again, with the batch that it had; after that the images of this
batch are tried one by one, elsewhere."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked for.

    Attributes:
        source, destination: URLs that fsspec understands, or folders that every node sees.
        prompt, caption, drop_metadata: as `derain restore` takes them.
        model: the name of a checkpoint; None: the default one.
        overwrite: restore again what is there.
        environment: variables of every process, over its node's own.
    """

    source: str
    destination: str
    prompt: str | None
    caption: str | None
    model: str | None
    drop_metadata: bool
    overwrite: bool
    environment: dict[str, str]


class Store:
    """The files below a URL."""

    def __init__(self, url: str) -> None:
        protocol = url.partition("://")[0]
        if protocol in OBJECT_STORES:
            obstore.fsspec.register(protocol)
        self._files, root = fsspec.url_to_fs(url)
        self._root = root.rstrip("/")

    def holds(self, other: "Store") -> bool:
        """Whether what is below the other URL is below this one, too."""
        same = type(self._files) is type(other._files)
        return same and f"{other._root}/".startswith(f"{self._root}/")

    def names(self) -> list[str]:
        """Of every image, below the URL, sorted; hidden ones left out."""
        names = (path.removeprefix(self._root).lstrip("/") for path in self._files.find(self._root))
        return sorted(
            name
            for name in names
            if PurePosixPath(name).suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in PurePosixPath(name).parts)
        )

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, or whatever else the file system does."""
        return self._files.cat_file(f"{self._root}/{name}")

    def local(self, name: str) -> Path | None:
        """Where the file is on this machine; None where it is elsewhere."""
        return Path(self._root, name) if isinstance(self._files, LocalFileSystem) else None

    def tidy(self, names: Iterable[str]) -> None:
        """Remove what writers of these files that were killed have left on this machine."""
        for folder in {path.parent for name in names if (path := self.local(name)) is not None}:
            remove_unfinished(folder)

    def write(self, name: str, data: bytes) -> None:
        """The file is whole or not there, as far as the file system can do that; object stores can."""
        if (path := self.local(name)) is not None:
            write_whole(path, data)
        else:
            self._files.pipe_file(f"{self._root}/{name}", data)


class Device:
    """One process with one device, which Ray Data gives batches of names."""

    def __init__(self, job: Job, cpus: int) -> None:
        os.environ.update(job.environment)
        settings = Settings()
        self._job = job
        self._source, self._destination = Store(job.source), Store(job.destination)
        self._order = Order(
            prompt=job.prompt,
            caption=job.caption,
            keep_metadata=not job.drop_metadata,
            limits=image_limits(settings),
        )
        try:
            model = choose_model(settings, job.model, settings.device)
            self._restorer = load_restorer(settings, model, settings.device)
        except SystemExit as error:  # for Ray that would be a process that was told to leave
            raise RuntimeError(str(error)) from None
        self._cpus = cpus

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Restore `name` as `result` in `format`; gives name, status and, of a failure, error."""
        rows = zip(batch["name"].tolist(), batch["result"].tolist(), batch["format"].tolist(), strict=True)
        with TemporaryDirectory(prefix="derain-") as folder, ThreadPoolExecutor(TRANSFERS) as transfers:
            done = list(self._restore(list(rows), Path(folder), transfers))
        names, outcomes, errors = zip(*done, strict=True)
        return {"name": list(names), "status": list(outcomes), "error": list(errors)}

    def _restore(
        self, rows: list[tuple[str, str, str]], folder: Path, transfers: ThreadPoolExecutor
    ) -> Iterator[tuple[str, str, str]]:
        names: dict[Path, tuple[str, str]] = {}
        settled: list[tuple[str, str, str]] = []

        def tasks() -> Iterator[Task]:
            """Those that are to be done, as they arrive; the restoration asks for them one by one."""
            arriving = [
                (index, row, transfers.submit(self._fetch, row[0], row[1], folder / f"{index}.in"))
                for index, row in enumerate(rows)
            ]
            for index, (name, result, format_name), fetched in arriving:
                try:
                    path = fetched.result()
                except Exception as error:  # whatever it is, the others go on
                    settled.append((name, "failed", reason(error)))
                    continue
                if path is None:
                    settled.append((name, "skipped", ""))
                    continue
                names[path] = name, result
                place = self._destination.local(result) or folder / f"{index}.out"
                yield Task(path, place, FORMATS[format_name])

        leaving: list[tuple[str, Future[None]]] = []
        run = Restoration(self._restorer, self._order, jobs=self._cpus)
        for outcome in run.run(tasks()):
            name, result = names[outcome.path]
            if outcome.error is not None:
                yield name, "failed", outcome.error
            else:
                leaving.append((name, transfers.submit(self._put, outcome, result)))
        yield from settled
        for name, left in leaving:
            error = left.exception()
            yield (name, "restored", "") if error is None else (name, "failed", f"cannot write: {error}")

    def _fetch(self, name: str, result: str, place: Path) -> Path | None:
        """Where the photograph can be read; None where its result is there already."""
        if not self._job.overwrite and self._is_whole(result):
            return None
        if (path := self._source.local(name)) is not None:
            return path
        place.write_bytes(self._source.read(name))
        return place

    def _is_whole(self, result: str) -> bool:
        try:
            decode(self._destination.read(result), self._order.limits)
        except (FileNotFoundError, ImageError):
            return False
        return True

    def _put(self, outcome: Outcome, result: str) -> None:
        if self._destination.local(result) is None and outcome.destination is not None:
            self._destination.write(result, outcome.destination.read_bytes())
            outcome.destination.unlink()
            outcome.path.unlink(missing_ok=True)


def plan(names: Iterable[str], wanted: ImageFormat | None) -> tuple[list[dict[str, str]], dict[str, str]]:
    """What becomes of each name, told by the names alone, and of those that cannot be done, why.

    Returns:
        Rows of name, result and format; and errors by name.
    """
    rows: list[dict[str, str]] = []
    claimed: dict[str, str] = {}
    errors: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name)
        came_in = FORMATS[SUFFIXES[path.suffix.lower()]]
        written = wanted or heic.answer_format(came_in)
        result = name if written is came_in else str(path.with_suffix(f".{written.extension}"))
        if result in claimed:
            errors[name] = f"{result} is the result of {claimed[result]} already"
            continue
        claimed[result] = name
        rows.append({"name": name, "result": result, "format": written.name})
    return rows, errors


def shares() -> tuple[int, int, int]:
    """Devices in the cluster now, and the GPUs and cores of each: a GPU, or else a node."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if gpus:
        return gpus, 1, max(1, sum(nodes) // gpus)
    computing = [cores for cores in nodes if cores]
    return len(computing), 0, min(computing)


def restore(job: Job, rows: list[dict[str, str]], batch: int) -> Iterator[dict[str, Any]]:
    """Name, status and error of each row as it is done. Those whose process died again and again are left
    out."""
    devices, gpus, cpus = shares()
    context = DataContext.get_current()
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = RESTARTS
    context.enable_progress_bars = sys.stderr.isatty()
    yield from (
        ray.data.from_items(rows, override_num_blocks=-(-len(rows) // batch))
        .map_batches(
            Device,
            batch_size=batch,
            fn_constructor_args=(job, cpus),
            compute=ActorPoolStrategy(min_size=1, max_size=devices, initial_size=devices),
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=RESTARTS,
        )
        .iter_rows()
    )


def main(
    source: Annotated[str, typer.Argument(metavar="IN", help="A folder, or a URL: s3://bucket/folder.")],
    destination: Annotated[str, typer.Argument(metavar="OUT", help="The same, for the restored images.")],
    address: Annotated[
        str | None, typer.Option(help="Of the cluster: auto, HOST:PORT; else RAY_ADDRESS, else this machine.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What is wrong with the pictures; else perceived.")
    ] = None,
    caption: Annotated[str | None, typer.Option(help="What the pictures show.")] = None,
    model: Annotated[str | None, typer.Option(help="A checkpoint; else the default one.")] = None,
    format_name: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(ANSWER_FORMATS)}; else what the name of each image says."),
    ] = None,
    drop_metadata: Annotated[bool, typer.Option(help="Leave EXIF, XMP and comments out.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Restore again what is there.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images given to a device at a time.")] = 64,
    report: Annotated[Path | None, typer.Option(help="JSON: how many, and what failed and why.")] = None,
) -> None:
    """Exits with 0 when all are done, 1 when some failed, 2 when the call is wrong and nothing was done."""
    if format_name is not None and format_name not in ANSWER_FORMATS:
        raise typer.BadParameter(f"none of {', '.join(ANSWER_FORMATS)}", param_hint="--format")
    try:
        inputs, results = Store(source), Store(destination)
        names = inputs.names()
    except (OSError, ValueError, ImportError) as error:
        raise typer.BadParameter(str(error)) from None
    if inputs.holds(results):
        raise typer.BadParameter("results among the images would be taken for images", param_hint="OUT")
    if not names:
        raise typer.BadParameter(f"{source} holds no image", param_hint="IN")
    environment = {name: value for name, value in os.environ.items() if name.startswith("DERAIN_")}
    job = Job(source, destination, prompt, caption, model, drop_metadata, overwrite, environment)
    rows, errors = plan(names, None if format_name is None else ANSWER_FORMATS[format_name])
    results.tidy(row["result"] for row in rows)
    counts = Counter(failed=len(errors), restored=0, skipped=0)
    ray.init(address=address)
    # what was not done because its process died is tried alone: one image may be the death of its whole batch
    for size in (batch, 1):
        if rows:
            done = set[str]()
            try:
                for row in restore(job, rows, size):
                    done.add(row["name"])
                    counts[row["status"]] += 1
                    if row["status"] == "failed":
                        errors[row["name"]] = row["error"]
            except RayError as error:  # no process can begin: no weights, for example
                raise SystemExit(str(error)) from None
            rows = [row for row in rows if row["name"] not in done]
    for row in rows:
        counts["failed"] += 1
        errors[row["name"]] = "the process that restored it died; its log says why"
    _tell(counts, errors, report)


def _tell(counts: Counter[str], errors: dict[str, str], report: Path | None) -> None:
    for name, error in sorted(errors.items()):
        print(f"{name}: {error}", file=sys.stderr)
    print(", ".join(f"{number} {status}" for status, number in sorted(counts.items())))
    if report is not None:
        failures = [{"name": name, "error": error} for name, error in sorted(errors.items())]
        text = json.dumps({**counts, "failures": failures}, indent=2)
        write_whole(report, f"{text}\n".encode())
    if counts["failed"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
