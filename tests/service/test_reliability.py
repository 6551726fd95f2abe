"""The short form of benchmarks.reliability. What anybody may send, and whoever leaves, must cost nobody else
anything: neither an answer, nor memory that is never given back, nor the service."""

import os
import sys

import pytest

from benchmarks.reliability.run import Amounts, Report, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def report() -> Report:
    cores = sorted(os.sched_getaffinity(0))
    return run(Amounts(cases=600, clients=32, kills=1, pictures=60, rest_seconds=1.0), cores[:-1])


def test_broken_images_and_requests_are_refused_with_a_reason_and_leave_nothing(report: Report) -> None:
    fuzzed = report.fuzzed
    assert not fuzzed.faults
    assert fuzzed.kinds.keys() == {"image", "form", "request", "fields", "bomb"}
    assert {"200", "400", "408", "413", "415", "422"} <= fuzzed.statuses.keys()
    assert fuzzed.good > 0
    assert not report.after_fuzzing.failures("fuzzing")


def test_clients_that_leave_take_nothing_from_those_that_stay(report: Report) -> None:
    left = report.left
    assert left.answered == left.stayed
    assert left.seconds_until_nothing_is_held is not None
    assert not report.after_leaving.failures("disconnects")


def test_nothing_more_is_computed_for_clients_that_left_than_was_begun(report: Report) -> None:
    assert report.left.computed_for_the_dead <= report.left.allowed_pixels < report.left.dead_pixels


def test_a_service_that_was_killed_is_back_on_its_port_with_the_same_picture(report: Report) -> None:
    assert report.killed.answered > 0, "there was no load"
    assert len(report.killed.seconds_until_ready) == 1
    assert not report.killed.other_pictures
