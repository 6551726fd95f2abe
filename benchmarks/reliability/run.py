"""All of it in turn, and what does not hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.process import MIB, Resources, Server, service
from benchmarks.reliability.cases import Cases
from benchmarks.reliability.ending import Killed, kill
from benchmarks.reliability.fuzzing import SETTINGS, Fuzzed, fuzz, picture_of, warm_up
from benchmarks.reliability.leaving import Left, leave_at_every_stage
from benchmarks.soak import at_rest, left_behind

MEMORY_GROWTH = 1.10
LATE_THREADS = 2
"""libvips makes workers when it first needs them, and keeps them: the last of them may come late. What leaks
a thread now and then leaks more of them in a run."""

STRETCH = 1000
"""Cases that are made at a time."""

LARGEST = 1024
"""Side of the largest pictures of the fuzzing, which no broken header goes beyond."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is tried.

    Attributes:
        cases: broken images and requests; a tenth more come before, as a warm-up.
        clients: that leave, at each cheap stage and way; a fifth more come before.
        kills: by SIGKILL.
        pictures: good ones, of as many sizes, that warm the service up.
        rest_seconds: before and while it is measured at rest.
    """

    cases: int
    clients: int
    kills: int
    seed: int = 0
    pictures: int = 500
    rest_seconds: float = 3.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What a service holds at rest, after a warm-up and in the end, and whether it answers as before."""

    warm: Resources
    final: Resources
    held: dict[str, float]
    same_picture: bool

    def failures(self, after: str) -> list[str]:
        """What does not hold, in words."""
        found: list[str] = []
        if self.final.resident_bytes > MEMORY_GROWTH * self.warm.resident_bytes:
            grown = self.final.resident_bytes / self.warm.resident_bytes - 1
            found.append(f"resident memory grew by {grown:.1%}")
        if self.final.threads > self.warm.threads + LATE_THREADS:
            found.append(f"threads grew from {self.warm.threads} to {self.final.threads}")
        if self.final.descriptors > self.warm.descriptors:
            found.append(f"descriptors grew from {self.warm.descriptors} to {self.final.descriptors}")
        if not self.same_picture:
            found.append("a good photograph is answered otherwise than before")
        found += [f"{name} is {value:g}" for name, value in self.held.items() if value]
        return [f"after {after} {failure}" for failure in found]

    @property
    def growth(self) -> float:
        """Of resident memory, as a part of what it was."""
        return self.final.resident_bytes / self.warm.resident_bytes - 1


@dataclass(frozen=True, slots=True)
class Report:
    """What a run showed; `seconds` of all of it."""

    seconds: float
    fuzzed: Fuzzed
    after_fuzzing: Kept
    left: Left
    after_leaving: Kept
    killed: Killed

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words."""
        left, found = self.left, self.after_fuzzing.failures("fuzzing")
        found += self.after_leaving.failures("disconnects")
        if self.fuzzed.faults:
            first = self.fuzzed.faults[0]
            found.append(
                f"{len(self.fuzzed.faults)} faults, the first: {first.number} {first.what}: {first.why}"
            )
        if left.answered < left.stayed:
            found.append(f"{left.stayed - left.answered} of {left.stayed} clients that stayed got no picture")
        if left.computed_for_the_dead > left.allowed_pixels:
            found.append(f"{left.computed_for_the_dead} pixels computed for clients that had left")
        if left.seconds_until_nothing_is_held is None:
            found.append("something was still held for clients that had left")
        if self.killed.other_pictures:
            found.append("another picture after a restart")
        return found

    def figures(self) -> dict[str, Any]:
        """Numbers alone."""
        fuzzed, left = self.fuzzed, self.left
        return {
            "seconds": round(self.seconds),
            "fuzzing": {
                "cases": fuzzed.kinds,
                "statuses": fuzzed.statuses,
                "good_answered": fuzzed.good,
                "good_refused": fuzzed.good_refused,
                "slowest_seconds": round(fuzzed.slowest, 2),
                "faults": len(fuzzed.faults),
                **_kept(self.after_fuzzing),
            },
            "disconnects": {**asdict(left), "computed_for_the_dead": left.computed_for_the_dead}
            | _kept(self.after_leaving),
            "kills": asdict(self.killed),
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """Fault, how often it was tried, what was lost."""
        kinds, left, killed = self.fuzzed.kinds, self.left, self.killed
        images = sum(kinds.get(kind, 0) for kind in ("image", "form", "bomb"))
        wrong = f"{len(self.fuzzed.faults)} wrong answers; memory {self.after_fuzzing.growth:+.1%}"
        part = left.computed_for_the_dead / max(1, left.dead_pixels)
        return [
            ("broken images and bombs", f"{images:,}", wrong),
            ("broken requests", f"{self.fuzzed.cases - images:,}", "the same run"),
            (
                "clients that leave, at seven stages, by FIN and by RST",
                f"{sum(left.clients.values()):,}",
                f"{left.stayed - left.answered} of {left.stayed} good requests; {part:.1%} of what they sent "
                f"was computed to its end; memory {self.after_leaving.growth:+.1%}",
            ),
            (
                "kill -9 under load",
                f"{len(killed.seconds_until_ready)}",
                f"the {killed.cut_off} requests under way; ready again in "
                f"{max(killed.seconds_until_ready):.1f} seconds at most",
            ),
        ]


def _kept(kept: Kept) -> dict[str, Any]:
    return {
        "memory_mib_warm": round(kept.warm.resident_bytes / MIB),
        "memory_mib_final": round(kept.final.resident_bytes / MIB),
        "threads": [kept.warm.threads, kept.final.threads],
        "descriptors": [kept.warm.descriptors, kept.final.descriptors],
        "held": sum(kept.held.values()),
    }


def run(amounts: Amounts, cores: Collection[int] = (), *, log: bool = False) -> Report:
    """Try a service with all of it."""
    started = time.monotonic()
    cases = Cases(amounts.seed)
    fuzzed, after_fuzzing = _fuzz(cases, amounts, cores, log=log)
    left, after_leaving = _leave(cases, amounts, cores)
    if log:
        print(left, flush=True)
    killed = kill(amounts.kills, cases, cores)
    return Report(time.monotonic() - started, fuzzed, after_fuzzing, left, after_leaving, killed)


def _fuzz(cases: Cases, amounts: Amounts, cores: Collection[int], *, log: bool) -> tuple[Fuzzed, Kept]:
    warming, fuzzed = Fuzzed(), Fuzzed()
    with service(cores, **SETTINGS) as server:
        picture = asyncio.run(picture_of(server.url, cases))
        asyncio.run(warm_up(server.url, cases, amounts.pictures, LARGEST))
        first, last = amounts.cases, amounts.cases + amounts.cases // 10
        _stretch(server, cases, first, last, amounts.seed, warming)
        warm = at_rest(server, amounts.rest_seconds)
        for begin in range(0, amounts.cases, STRETCH):
            _stretch(server, cases, begin, min(begin + STRETCH, amounts.cases), amounts.seed, fuzzed)
            if log:
                now = server.resources()
                print(
                    f"{fuzzed.cases} cases: {fuzzed.statuses}, {now.resident_bytes / MIB:.0f} MiB", flush=True
                )
        kept = _at_the_end(server, cases, picture, warm, amounts)
    fuzzed.faults += warming.faults
    return fuzzed, kept


def _stretch(server: Server, cases: Cases, first: int, last: int, seed: int, into: Fuzzed) -> None:
    made = [cases.case(number) for number in range(first, last)]
    asyncio.run(fuzz(server.url, made, seed=seed, good=cases.good(), into=into))


def _leave(cases: Cases, amounts: Amounts, cores: Collection[int]) -> tuple[Left, Kept]:
    with service(cores) as server:
        picture = asyncio.run(picture_of(server.url, cases))
        asyncio.run(leave_at_every_stage(server, max(1, amounts.clients // 5)))
        warm = at_rest(server, amounts.rest_seconds)
        left = asyncio.run(leave_at_every_stage(server, amounts.clients))
        return left, _at_the_end(server, cases, picture, warm, amounts)


def _at_the_end(server: Server, cases: Cases, picture: bytes, warm: Resources, amounts: Amounts) -> Kept:
    same = asyncio.run(picture_of(server.url, cases)) == picture
    final = at_rest(server, amounts.rest_seconds)
    return Kept(warm, final, left_behind(server), same)
