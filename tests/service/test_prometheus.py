"""A real Prometheus scrapes a service under load. Were these wrong, the dashboard would be empty when it is
looked at, and an alert would ask for a series that there is not."""

import json
import math
import re
import subprocess
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.settings import Settings
from benchmarks.dashboard.panels import Panel, ask, panels
from benchmarks.dashboard.plot import draw
from benchmarks.dashboard.prometheus import SHIPPED, Prometheus, Series, prometheus
from tests.servers import program

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]

SHOWN = [panel for panel in panels() if panel.kind != "row"]
PATIENCE = 120.0
ELSEWHERE = {"up", "ALERTS"}
"""Series that Prometheus makes itself."""


@dataclass(frozen=True)
class Seen:
    """What Prometheus had seen in the end.

    Attributes:
        answers: what the queries of each panel gave, by title.
        restored: images that clients got back.
        refused: requests that were answered 503.
        exposition: what the service answered at /metrics.
        alerts_when_gone: the state of each alert once the service had gone.
    """

    answers: dict[str, list[tuple[str, Series]]]
    rules: list[dict[str, Any]]
    restored: int
    refused: int
    counted: float
    exposition: str
    alerts_when_gone: dict[str, str]

    def last(self, title: str) -> dict[str, float]:
        """The last values of a panel's series that are numbers."""
        return {
            name: values[-1]
            for name, series in self.answers[title]
            if (values := [value for value in series.values if math.isfinite(value)])
        }


def until(holds: Callable[[], bool], what: str) -> None:
    patience = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < patience, f"{what}: not within {PATIENCE:.0f} seconds"
        time.sleep(0.3)


def value(server: Prometheus, expression: str) -> float:
    return next((series.values[-1] for series in server.instant(expression)), math.nan)


def load(client: httpx.Client, make_image: Make, encode: Encode) -> tuple[int, int]:
    """Photographs of three sizes, with prompts and without; nonsense; and more at once than is taken on."""
    statuses: list[int] = []

    def post(data: bytes, kind: str = "image/png", **options: str) -> None:
        answer = client.post("/derain", content=data, params=options, headers={"Content-Type": kind})
        statuses.append(answer.status_code)

    for seed in range(3):
        post(encode(make_image(seed, 128, 128)), prompt="a photo with rain")
    post(encode(make_image(4, 480, 320)))
    post(encode(make_image(5, 900, 600), "JPEG"), "image/jpeg", prompt="a photo with rain")
    post(b"no image at all")
    post(encode(make_image(6, 128, 128))[:200])
    post(encode(make_image(6, 128, 128)), model="none")
    rush = encode(make_image(7, 320, 240))
    with ThreadPoolExecutor(16) as clients:
        list(clients.map(post, [rush] * 32))
    return statuses.count(200), statuses.count(503)


@pytest.fixture(scope="module")
def seen(
    run_service: Callable[[Settings], AbstractContextManager[str]], make_image: Make, encode: Encode
) -> Generator[Seen]:
    with ExitStack() as service, ExitStack() as rest:
        url = service.enter_context(run_service(Settings(max_queue_images=2, max_images=2)))
        client = rest.enter_context(httpx.Client(base_url=url, timeout=120))
        server = rest.enter_context(
            prometheus(url.removeprefix("http://"), interval="1s", program=program("prometheus"))
        )
        started = time.time()
        # so that what follows is seen as an increase
        until(lambda: value(server, "count(derain_model_info)") > 0, "the first scrape")
        restored, refused = load(client, make_image, encode)
        count = 'sum(derain_images_total{outcome="restored"})'
        until(lambda: value(server, count) == restored, "the last scrape")
        until(lambda: value(server, "derain:refusals:ratio_rate5m") > 0, "the rules")
        # a rate takes two scrapes, and the last step of a range may come before the last scrape
        until(lambda: value(server, "min(count_over_time(derain_model_info[1h]))") >= 5, "more scrapes")
        exposition = client.get("/metrics").text
        asked = {"start": started, "end": time.time(), "step": 1.0, "rate_seconds": 2 * PATIENCE}
        answers = {panel.title: ask(server, panel, **asked) for panel in SHOWN}
        rules, counted = server.rules(), value(server, count)
        service.close()
        until(lambda: value(server, 'up{job="derain"}') == 0, "the scrape of a service that has gone")
        until(lambda: states(server)["DerainDown"] != "inactive", "the alert")
        yield Seen(answers, rules, restored, refused, counted, exposition, states(server))


def states(server: Prometheus) -> dict[str, str]:
    return {rule["name"]: rule["state"] for rule in server.rules() if rule["type"] == "alerting"}


def test_it_is_scraped_and_says_what_clients_saw(seen: Seen) -> None:
    assert seen.restored >= 5
    assert seen.refused > 0
    assert seen.counted == seen.restored
    assert seen.last("Up") == {"": 1}


@pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: panel.title)
def test_every_panel_shows_something(seen: Seen, panel: Panel) -> None:
    assert seen.last(panel.title), "no series with a number in it"
    if panel.kind != "stat" and len(panel.queries) > 1:
        assert len(seen.answers[panel.title]) >= len(panel.queries)


def test_the_dashboard_tells_what_was_sent_and_what_became_of_it(seen: Seen) -> None:
    assert seen.last("Requests by size, in all").keys() >= {"tiny", "small", "medium"}
    assert {name for name, count in seen.last("Requests by size, in all").items() if count > 0} == {
        "tiny",
        "small",
        "medium",
    }
    prompts = {name for name, rate in seen.last("Images by prompt").items() if rate > 0}
    assert "given" in prompts
    assert len(prompts) > 1, "and what was perceived"
    assert seen.last("Problems by kind").keys() >= {
        "no-such-model",
        "overloaded",
        "undecodable-image",
        "unsupported-image-format",
    }
    assert {name for name, rate in seen.last("Turned away by reason").items() if rate > 0} == {"queue"}
    assert 0 < seen.last("Turned away")[""] < 1
    assert seen.last("Failed") == {"": 0}
    stages = seen.last("Where the time of an image goes")
    assert stages.keys() == {"read", "codec_wait", "decode", "queue", "inference", "encode"}
    assert max(stages, key=stages.__getitem__) in ("queue", "inference")


def test_the_picture_in_the_documentation_can_be_drawn_again(seen: Seen, tmp_path: Path) -> None:
    everything = panels()
    draw(everything, [seen.answers.get(panel.title, []) for panel in everything], tmp_path / "picture.png")
    documented = Path(__file__).parents[2] / "docs/images/dashboard.png"
    with Image.open(tmp_path / "picture.png") as drawn, Image.open(documented) as shown:
        assert drawn.size == shown.size, "the dashboard has changed since: python -m benchmarks.dashboard"
        assert len(drawn.convert("RGB").getcolors(2**24) or ()) > 1000


def test_memory_of_the_device_is_told_on_a_cpu_as_well(seen: Seen) -> None:
    kinds = {name.split()[0]: size for name, size in seen.last("Memory of the device").items()}
    assert 0 < kinds["allocated"] < kinds["total"]
    assert all(0 < part < 1 for part in seen.last("Part of the device's memory that is left").values())


def test_every_rule_can_be_evaluated(seen: Seen) -> None:
    assert {rule["type"] for rule in seen.rules} == {"recording", "alerting"}
    assert [rule for rule in seen.rules if rule["health"] != "ok"] == []


def test_every_series_that_is_asked_for_is_there(seen: Seen) -> None:
    """Else an alert would never fire, and nobody would know."""
    recorded = {rule["name"] for rule in seen.rules if rule["type"] == "recording"}
    exposed = set(re.findall(r"^(\w+?)(?:\{.*\})? \S+$", seen.exposition, re.MULTILINE))
    asked = [rule["query"] for rule in seen.rules]
    asked += [query.expression for panel in SHOWN for query in panel.queries]
    named = {
        name
        for expression in asked
        for name in re.findall(r"\b(?:derain|process)[\w:]+", re.sub(r'"[^"]*"', "", expression))
    }
    assert len(named) > 30
    assert named - recorded - exposed - ELSEWHERE == set()


def test_every_series_of_the_service_is_asked_for(seen: Seen) -> None:
    """What nobody looks at need not be kept."""
    families = set(re.findall(r"^# TYPE (derain_\w+) ", seen.exposition, re.MULTILINE))
    everything = (SHIPPED / "rules/alerts.yml").read_text() + (SHIPPED / "rules/recording.yml").read_text()
    everything += json.dumps([query.expression for panel in SHOWN for query in panel.queries])
    everything += "derain_model_info"  # the dashboard's variables
    assert {family for family in families if family not in everything} == set()


def test_a_service_that_has_gone_is_noticed(seen: Seen) -> None:
    assert seen.alerts_when_gone["DerainDown"] in ("pending", "firing")
    assert seen.alerts_when_gone["DerainOutOfMemory"] == "inactive"


def test_the_exposition_is_as_prometheus_would_have_it(seen: Seen) -> None:
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=seen.exposition,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
