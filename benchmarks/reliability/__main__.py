"""Whether a service survives what it is sent, clients that leave, and its own sudden end; from outside.

python -m benchmarks.reliability --output benchmarks/results/reliability.json

`derain serve` runs as a process of its own on 127.0.0.1, and knows nothing of all this. First, small
photographs in every format that is taken, broken in every way that was thought of, and requests that are
broken themselves; then clients that leave at every stage of a request; last, SIGKILL under load. Fails (exit
status 1) where an answer is not what it should be, something is held that nobody waits for, memory, threads
or descriptors grow, or the service answers a good photograph otherwise than before. What was answered wrongly
is written with its bytes, to be sent again:

python -m benchmarks.reliability --repeat build/reliability-faults.jsonl

The client computes on the last core of the machine and the service on the others, as long as there are two.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.process import compute_on_last_core, service
from benchmarks.reliability.cases import Cases
from benchmarks.reliability.fuzzing import SETTINGS, Fuzzed, fuzz, picture_of, read_faults, write_faults
from benchmarks.reliability.run import Amounts, Report, run

FAULTS = Path("build/reliability-faults.jsonl")


def main(
    cases: Annotated[int, typer.Option(min=1, help="Broken images and requests.")] = 20_000,
    clients: Annotated[
        int, typer.Option(min=1, help="Clients that leave, at each cheap stage and way.")
    ] = 320,
    kills: Annotated[int, typer.Option(min=1, help="SIGKILLs.")] = 5,
    seed: Annotated[int, typer.Option(help="Of what is broken, and how.")] = 0,
    repeat: Annotated[
        Path | None, typer.Option(help="Send the faults of this file again, and nothing else.")
    ] = None,
    faults: Annotated[Path, typer.Option(help="Where faults go.")] = FAULTS,
    output: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
) -> None:
    """Try a service and judge it."""
    cores = compute_on_last_core()
    if repeat is not None:
        raise typer.Exit(again(repeat, cores))
    report = run(Amounts(cases=cases, clients=clients, kills=kills, seed=seed), cores, log=True)
    print(table(report))
    for failure in report.failures:
        print(failure)
    if report.fuzzed.faults:
        write_faults(faults, report.fuzzed.faults)
        print(f"{faults}: {len(report.fuzzed.faults)} faults")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report.figures(), indent=2) + "\n")
    raise typer.Exit(1 if report.failures else 0)


def again(path: Path, cores: list[int]) -> int:
    """Send what was answered wrongly once more, one after another; how many still are, as an exit status."""
    found = read_faults(path)
    made = Cases(0)
    still: list[str] = []
    with service(cores, **SETTINGS) as server:
        picture = asyncio.run(picture_of(server.url, made))
        for fault in found:
            fuzzed = Fuzzed()
            asyncio.run(fuzz(server.url, [fault.case], seed=fault.seed, good=made.good(), into=fuzzed))
            still += [f"{one.number} {one.what}: {one.why}" for one in fuzzed.faults]
        if asyncio.run(picture_of(server.url, made)) != picture:
            still.append("a good photograph is answered otherwise than before")
    print("\n".join([*still, f"{len(found)} sent again, {len(still)} faults"]))
    return 1 if still else 0


def table(report: Report) -> str:
    """As Markdown."""
    lines = ["| fault | how often tried | what was lost |", "|---|---|---|"]
    lines += [f"| {fault} | {tried} | {lost} |" for fault, tried, lost in report.rows()]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
