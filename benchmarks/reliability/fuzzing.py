"""Thousands of broken images and requests to a running service, and what is wrong with its answers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, Self

from PIL import Image

from app.formats import FORMATS, PNG
from benchmarks.exchange import TIMEOUT_SECONDS, Answer, Connection, post
from benchmarks.reliability.cases import Case, Cases
from tests.app.pictures import save

HEAD_SECONDS = BODY_SECONDS = 1.0
"""How long the service waits for what was cut off."""

SETTINGS = {
    "DERAIN_HEADER_TIMEOUT_SECONDS": f"{HEAD_SECONDS:g}",
    "DERAIN_BODY_TIMEOUT_SECONDS": f"{BODY_SECONDS:g}",
    "DERAIN_DEADLINE_SECONDS": f"{TIMEOUT_SECONDS:g}",
    "DERAIN_MAX_IMAGE_PIXELS": f"{2**20}",
}
"""The deadline holds where X-Request-Timeout was broken, too."""

LATE_SECONDS = 2.0
"""After its deadline, until an answer is too late."""

PATIENCE_SECONDS = 60.0
FRAMED_CLIENTS = 4
OTHER_CLIENTS = 12
"""Those mostly wait for the service to give up on what was cut off."""

WARM_CLIENTS = 4
BETWEEN_GOOD = 50
"""Cases of a client between two requests that deserve their answer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A case that was not answered as it should be."""

    seed: int
    number: int
    kind: str
    what: str
    why: str
    request: str

    @classmethod
    def of(cls, seed: int, case: Case, why: str) -> Self:
        """With the request in base64."""
        return cls(seed, case.number, case.kind, case.what, why, base64.b64encode(case.request).decode())

    @property
    def case(self) -> Case:
        """What was sent."""
        return Case(self.number, self.kind, self.what, base64.b64decode(self.request))


@dataclass
class Fuzzed:
    """What became of cases.

    Attributes:
        answers: how many of each kind and status; status 0: nothing came.
        good, good_refused: requests between them that deserved their answer, and got it; or got 503,
            with when to come again, as some of those around them are large pictures.
        slowest: seconds until an answer.
    """

    answers: Counter[str] = field(default_factory=Counter[str])
    good: int = 0
    good_refused: int = 0
    slowest: float = 0.0
    faults: list[Fault] = field(default_factory=list[Fault])

    @property
    def cases(self) -> int:
        """How many were sent."""
        return self.answers.total()

    @property
    def kinds(self) -> dict[str, int]:
        """How many of each kind."""
        found: Counter[str] = Counter()
        for name, count in self.answers.items():
            found[name.rsplit(" ", 1)[0]] += count
        return dict(sorted(found.items()))

    @property
    def statuses(self) -> dict[str, int]:
        """How many of each status."""
        found: Counter[str] = Counter()
        for name, count in self.answers.items():
            found[name.rsplit(" ", 1)[1]] += count
        return dict(sorted(found.items()))


async def fuzz(url: str, cases: Iterable[Case], *, seed: int, good: bytes, into: Fuzzed) -> None:
    """Send cases over several connections, those whose end is clear one after another on the same ones."""
    framed: list[Case] = []
    others: list[Case] = []
    for case in cases:
        (framed if case.framed else others).append(case)
    pools = [(iter(framed), FRAMED_CLIENTS, True), (iter(others), OTHER_CLIENTS, False)]
    await asyncio.gather(
        *(
            _client(url, pool, seed=seed, good=good, into=into, keep=keep)
            for pool, count, keep in pools
            for _ in range(count)
        )
    )


async def _client(
    url: str, cases: Iterator[Case], *, seed: int, good: bytes, into: Fuzzed, keep: bool
) -> None:
    async with Connection(url) as connection:
        for place, case in enumerate(cases):
            answer = await connection.ask(case.request, PATIENCE_SECONDS)
            if not keep:
                connection.close()
            into.answers[f"{case.kind} {answer.status}"] += 1
            into.slowest = max(into.slowest, answer.seconds)
            into.faults += [Fault.of(seed, case, why) for why in faults(case, answer)]
            if place % BETWEEN_GOOD == 0:
                answer = await connection.ask(good, PATIENCE_SECONDS)
                if answer.status == 200:
                    into.good += 1
                elif answer.status == 503 and not faults(case, answer):
                    into.good_refused += 1
                else:
                    why = f"{answer.status} {answer.trouble} for a good photograph after this"
                    into.faults.append(Fault.of(seed, case, why))


def faults(case: Case, answer: Answer) -> list[str]:
    """What is wrong with an answer, in words."""
    if not answer.status:
        # the half of a line that is no HTTP at all yet is given up in silence
        return [f"no answer: {answer.trouble}"] if case.request.strip() else []
    found: list[str] = []
    allowed = TIMEOUT_SECONDS + LATE_SECONDS + (0 if case.framed else HEAD_SECONDS + BODY_SECONDS)
    if answer.seconds > allowed:
        found.append(f"{answer.status} after {answer.seconds:.1f} seconds")
    if answer.status >= 500 and answer.status not in (503, 504):
        found.append(f"{answer.status}: {answer.body[:300]!r}")
    if answer.status == 503 and not answer.headers.get("retry-after", "").isdigit():
        found.append("503 that does not say when to come again")
    if answer.status >= 400 and not case.request.lstrip(b"\r\n").startswith(b"HEAD "):
        found += _faults_of_problem(answer)
    if answer.status == 200 and answer.headers.get("content-type", "").startswith("image/"):
        found += _faults_of_picture(answer)
    return found


def _faults_of_problem(answer: Answer) -> list[str]:
    if answer.headers.get("content-type") != "application/problem+json":
        return [f"{answer.status} as {answer.headers.get('content-type')}: {answer.body[:200]!r}"]
    try:
        problem: dict[str, Any] = json.loads(answer.body)
    except ValueError:
        return [f"{answer.status} with a broken problem: {answer.body[:200]!r}"]
    found: list[str] = []
    if problem.get("status") != answer.status or not problem.get("type", "").startswith(
        "urn:derain:problem:"
    ):
        found.append(f"{answer.status} with a problem of something else: {answer.body[:200]!r}")
    if not problem.get("detail"):
        found.append(f"{answer.status} without a reason: {answer.body[:200]!r}")
    if answer.status in (408, 413, 431) and "limit" not in problem:
        found.append(f"{answer.status} without its limit: {answer.body[:200]!r}")
    return found


def _faults_of_picture(answer: Answer) -> list[str]:
    image_format = FORMATS[answer.headers["content-type"].removeprefix("image/")]
    try:
        with Image.open(BytesIO(answer.body), formats=image_format.pillow_names) as image:
            image.draft(None, (1, 1))
            image.load()
    except Exception as error:
        return [f"200 with a picture that cannot be read: {error!r}"]
    return []


def write_faults(path: Path, found: Sequence[Fault]) -> None:
    """A line of JSON each, to be sent again by --repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(fault)) + "\n" for fault in found))


def read_faults(path: Path) -> list[Fault]:
    """What `write_faults` wrote."""
    return [Fault(**json.loads(line)) for line in path.read_text().splitlines()]


async def warm_up(url: str, cases: Cases, pictures: int, largest: int) -> None:
    """Pictures of so many sizes, up to `largest` pixels a side, as broken headers declare: the network keeps
    something for each size that it has seen, up to so many."""
    chance = Random(0)
    requests = [post(_plain(largest, largest))] * WARM_CLIENTS
    requests += [post(_plain(chance.randint(8, 400), chance.randint(8, 400))) for _ in range(pictures)]
    requests += [cases.good()] * WARM_CLIENTS
    waiting = iter(requests)

    async def client() -> None:
        async with Connection(url) as connection:
            for request in waiting:
                await connection.ask(request, PATIENCE_SECONDS)

    await asyncio.gather(*(client() for _ in range(WARM_CLIENTS)))


def _plain(width: int, height: int) -> bytes:
    return save(Image.linear_gradient("L").resize((width, height)).convert("RGB"), PNG)


async def picture_of(url: str, cases: Cases) -> bytes:
    """The answer to a good photograph.

    Raises:
        RuntimeError: there is none.
    """
    async with Connection(url) as connection:
        answer = await connection.ask(cases.good(), PATIENCE_SECONDS)
    if answer.status != 200:
        raise RuntimeError(
            f"a good photograph was answered {answer.status} {answer.trouble}: {answer.body!r}"
        )
    return answer.body
