"""The short form of the soak. A service that keeps something of every request dies at night."""

import sys

import pytest

from benchmarks.soak import soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_minute_of_mixed_requests_leaves_the_service_as_it_was() -> None:
    # a warm-up of twenty seconds has not met every mixture of sizes, so memory may settle a little higher
    soaked = soak(0.7, warm_up_minutes=0.35, clients=4, rate=8, memory_growth=0.15)
    assert soaked.visits["image: 200"] > 10
    assert soaked.visits["leave_early: left"] > 0
    assert not soaked.failures
