"""The judge of reliability. One that finds nothing, or what it found not again, proves nothing."""

import json
from pathlib import Path

import pytest

from app.formats import FORMATS, sniff
from benchmarks.exchange import TIMEOUT_SECONDS, Answer, post
from benchmarks.reliability.cases import Case, Cases
from benchmarks.reliability.fuzzing import Fault, faults, read_faults, write_faults
from benchmarks.reliability.photographs import photographs

CASE = Case(0, "image", "broken", post(b"broken"))
PROBLEM = {"type": "urn:derain:problem:undecodable-image", "status": 422, "detail": "it is broken"}


def refusal(status: int = 422, **changes: object) -> Answer:
    body = json.dumps({**PROBLEM, "status": status, **changes}).encode()
    return Answer(status, {"content-type": "application/problem+json"}, body, 0.1)


def test_a_seed_and_a_number_make_the_same_request_again() -> None:
    one, other, third = Cases(1), Cases(1), Cases(2)
    made = [one.case(number).request for number in range(100)]
    assert made == [other.case(number).request for number in range(100)]
    assert made != [third.case(number).request for number in range(100)]


def test_every_format_that_is_taken_is_broken() -> None:
    assert {sniff(data) for data in photographs().values()} == set(FORMATS.values())


def test_an_honest_refusal_is_no_fault() -> None:
    assert not faults(CASE, refusal())


@pytest.mark.parametrize(
    "answer",
    [
        Answer(0, trouble="reset"),
        Answer(500, {"content-type": "text/plain"}, b"oh"),
        refusal(500),
        refusal(503),
        refusal(413),
        refusal(detail=""),
        refusal(type="about:blank"),
        Answer(422, {"content-type": "text/html"}, b"<p>no"),
        Answer(200, {"content-type": "image/png"}, b"\x89PNG\r\n\x1a\n"),
        Answer(200, {}, b"", TIMEOUT_SECONDS + 3),
    ],
)
def test_what_nobody_deserves_is_a_fault(answer: Answer) -> None:
    assert faults(CASE, answer)


def test_a_fault_is_written_so_that_it_can_be_sent_again(tmp_path: Path) -> None:
    case = Cases(3).case(7)
    write_faults(tmp_path / "faults.jsonl", [Fault.of(3, case, "500")])
    [fault] = read_faults(tmp_path / "faults.jsonl")
    assert fault.case == case
