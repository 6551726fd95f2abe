"""docs/scaling.md: its tables are what the figures and the assumptions give, so they cannot drift."""

import json
from dataclasses import replace

import pytest

from benchmarks.scaling import DEVICES, EFFICIENCY, IN_USE, PAGE, RESULTS, TABLES, Measured, filled
from tests.deploy.test_kubernetes import ALL, CHART, GPU, container, kind


def test_the_page_holds_what_the_figures_give() -> None:
    page = PAGE.read_text()
    measured = Measured.read()
    assert filled(page, measured) == page, "python -m benchmarks.scaling --write"
    slower = replace(measured, service_megapixels_per_second=measured.service_megapixels_per_second / 2)
    assert filled(page, slower) != page
    with pytest.raises(ValueError, match="missing"):
        filled(page.replace(f"<!-- table: {next(iter(TABLES))} -->", ""), measured)


def test_the_sentences_say_what_the_figures_do() -> None:
    page = " ".join(PAGE.read_text().split())
    measured = Measured.read()
    assert f"takes {measured.gflop_per_megapixel:.0f} GFLOP a megapixel" in page
    assert "gets a fifth of the dense bfloat16 peak" in page
    assert EFFICIENCY == 1 / 5
    peaks = [f"{device.peak:g}" for device in DEVICES if device.peak]
    assert f"({', '.join(peaks[:-1])} and {peaks[-1]} TFLOP/s)" in page
    # on the CPU: three quarters of a large convolution's
    network = json.loads((RESULTS / "network.json").read_text())
    assert network["flops_of_one_large_convolution"]["tvi-derain-s"] == pytest.approx(3 / 4, abs=0.05)
    ratio = 2 / measured.service_megapixels_per_second / measured.codec_seconds["jpeg"]
    assert ratio == pytest.approx(117, abs=15), "more than a hundred times as much as the codecs"
    assert measured.codec_seconds["png"] / measured.codec_seconds["jpeg"] == pytest.approx(5, abs=0.5)
    assert measured.bytes_per_pixel["png"] / measured.bytes_per_pixel["jpeg"] == pytest.approx(5, abs=0.5)
    assert measured.codec_seconds["webp"] / measured.codec_seconds["jpeg"] == pytest.approx(4, abs=0.5)
    photograph = 2 * measured.bytes_per_pixel["jpeg"]
    assert f"is {photograph:.1f} MB as JPEG each way" in page


def test_the_chart_is_set_to_what_the_page_plans_with() -> None:
    page = PAGE.read_text()
    triggers = {one["name"]: one["metadata"] for one in kind("ScaledObject", *ALL)["spec"]["triggers"]}
    assert float(triggers["busy"]["threshold"]) == IN_USE
    for term in ("sum(derain_backlog_seconds) / 2", "[2m])) / 0.7"):
        assert term in page
    assert float(triggers["backlog"]["threshold"]) == 2
    assert (CHART / "values-gpu.yaml").is_file()
    [small] = [device for device in DEVICES if device.name == "L4"]
    assert container(*GPU)["resources"]["limits"]["cpu"] == str(small.cores)
