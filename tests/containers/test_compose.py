"""The whole composition up, and used as an operator would use it."""

import io
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.containers.engine import ROOT, Compose, Composition, eventually, inspect, run, succeeds

pytestmark = pytest.mark.containers

RAINY = sorted((ROOT / "tests/data/pairs/input").iterdir())[0]


def pixels(data: bytes) -> npt.NDArray[np.float64]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)


def derain(url: str, image: bytes) -> httpx.Response:
    return httpx.post(f"{url}/derain", content=image, headers={"Content-Type": "image/jpeg"}, timeout=300)


def inflight_bytes(url: str) -> float:
    found = re.search(r"^derain_inflight_bytes (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def bounds(container: Mapping[str, Any]) -> dict[str, object]:
    names = ("Memory", "NanoCpus", "PidsLimit", "ReadonlyRootfs", "CapDrop", "SecurityOpt", "LogConfig")
    return {name: container["HostConfig"][name] for name in names}


@pytest.mark.parametrize(("profile", "service"), [("cpu", "derain"), ("gpu", "derain-gpu")])
def test_a_profile_starts_its_service_and_no_other(
    composes: list[Compose], image: str, profile: str, service: str
) -> None:
    """Created, not started, so that neither a GPU nor Grafana's image has to be there."""
    for one in composes:
        environment = {**one.environment, "GRAFANA_IMAGE": image}
        compose = replace(one, project=f"derain-test-{profile}", environment=environment)
        profiles = ["--profile", profile] if profile != "cpu" else []
        compose(*profiles, "config", "--quiet")
        try:
            compose(*profiles, "up", "--no-start", "--no-build")
            created = {name: inspect(container) for name, container in compose.containers().items()}
            assert created.keys() == {service, "prometheus", "grafana"}
            asked = created[service]["HostConfig"]["DeviceRequests"] or []
            assert [request["Capabilities"] for request in asked] == ([[["gpu"]]] if profile == "gpu" else [])
        finally:
            compose(*profiles, "down", "--volumes")


def test_a_photograph_comes_back_restored(composition: Composition) -> None:
    answer = derain(composition.service, RAINY.read_bytes())
    print(answer.status_code, dict(answer.headers))
    assert answer.status_code == 200, answer.text
    clean = ROOT / "tests/data/pairs/target" / RAINY.name
    rainy, wanted, restored = map(pixels, (RAINY.read_bytes(), clean.read_bytes(), answer.content))
    assert restored.shape == rainy.shape
    before, after = (np.square(image - wanted).mean() for image in (rainy, restored))
    print(f"mean squared error {before:.1f} before, {after:.1f} after")
    assert after < before / 2


def test_the_page_is_there(composition: Composition) -> None:
    page = httpx.get(composition.service, headers={"Accept": "text/html"}).raise_for_status()
    assert page.headers["content-type"].startswith("text/html")
    for script in re.findall(r'<script[^>]* src="([^"]+)"', page.text):
        httpx.get(httpx.URL(composition.service).join(script)).raise_for_status()


def test_the_service_started_when_prometheus_was_healthy(composition: Composition) -> None:
    checks = composition.at_start["prometheus"]["State"]["Health"]["Log"]
    healthy = min(datetime.fromisoformat(check["End"]) for check in checks if check["ExitCode"] == 0)
    started = datetime.fromisoformat(composition.at_start["derain"]["State"]["StartedAt"])
    print(f"Prometheus healthy {healthy}, service started {started}")
    assert healthy < started


def test_docker_reports_the_service_healthy(composition: Composition) -> None:
    def healthy() -> bool:
        return inspect(composition.container)["State"]["Health"]["Status"] == "healthy"

    eventually(healthy, seconds=90, what="healthy")


def test_prometheus_sees_the_service_and_its_requests(composition: Composition) -> None:
    derain(composition.service, RAINY.read_bytes()).raise_for_status()

    def value(expression: str) -> float:
        samples = composition.ask_prometheus("query", query=expression)["result"]
        return float(samples[0]["value"][1]) if samples else 0

    def scraped() -> bool:
        up, requests = value('up{job="derain"}'), value("sum(derain_requests_total)")
        print("up:", up, "requests:", requests, flush=True)
        return up == 1 and requests >= 1

    eventually(scraped, seconds=60, what="scraped")


def test_prometheus_has_every_rule_and_can_evaluate_it(composition: Composition) -> None:
    files = {file.name for file in (ROOT / "deploy/prometheus/rules").glob("*.yml")}
    assert files

    def groups() -> list[dict[str, Any]]:
        return composition.ask_prometheus("rules")["groups"]

    assert {group["file"].rpartition("/")[2] for group in groups()} == files
    rules = [rule for group in groups() for rule in group["rules"]]
    print(len(rules), "rules:", ", ".join(rule["name"] for rule in rules))
    eventually(
        lambda: all(rule["health"] != "unknown" for group in groups() for rule in group["rules"]),
        seconds=120,
        what="every rule evaluated",
    )
    assert [rule for group in groups() for rule in group["rules"] if rule["health"] != "ok"] == []


def test_it_can_write_nowhere_but_to_memory(composition: Composition) -> None:
    for user in ("10001", "0"):
        for path in ("/x", "/etc/x", "/opt/derain/weights/x", "/home/x", "/var/tmp/x"):
            assert not succeeds("docker", "exec", "--user", user, composition.container, "touch", path), path
    run("docker", "exec", composition.container, "touch", "/tmp/x")
    assert inspect(composition.container)["Mounts"] == []


def test_the_service_has_no_rights_to_lose(composition: Composition) -> None:
    status = run("docker", "exec", composition.container, "cat", "/proc/1/status").splitlines()
    said = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert said["Uid"].split() == said["Gid"].split() == ["10001"] * 4
    assert {int(said[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert said["NoNewPrivs"] == "1"
    command = run("docker", "exec", composition.container, "cat", "/proc/1/cmdline").split("\0")
    assert "/opt/derain/bin/derain" in command


def test_the_bounds_of_the_file_are_those_of_the_container(composition: Composition) -> None:
    for container in composition.compose.containers().values():
        found = bounds(inspect(container))
        print(found)
        assert min(int(str(found[name])) for name in ("Memory", "NanoCpus", "PidsLimit")) > 0
        assert found["ReadonlyRootfs"] is True
        assert found["CapDrop"] == ["ALL"]
        assert found["SecurityOpt"] == ["no-new-privileges:true"]
        assert found["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "5", "max-size": "10m"}}


def test_only_the_service_is_reached_from_other_machines(composition: Composition) -> None:
    for name, container in composition.compose.containers().items():
        published = inspect(container)["NetworkSettings"]["Ports"]
        addresses = {binding["HostIp"] for bindings in published.values() for binding in bindings or []}
        assert addresses <= ({"0.0.0.0", "::"} if name == "derain" else {"127.0.0.1"})


def test_killed_it_comes_back(composition: Composition) -> None:
    """From outside, for the engine takes a `docker kill` as a wish to have it stopped."""
    state = inspect(composition.container)["State"]
    started = time.monotonic()
    run(
        *("docker", "run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "python"),
        *(inspect(composition.container)["Config"]["Image"], "-c", f"import os; os.kill({state['Pid']}, 9)"),
    )
    eventually(
        lambda: inspect(composition.container)["RestartCount"] == 1 and composition.is_ready(),
        seconds=300,
        what="killed and ready again",
    )
    print(f"killed and ready again in {time.monotonic() - started:.0f} s")
    assert inspect(composition.container)["State"]["Pid"] != state["Pid"]
    assert derain(composition.service, RAINY.read_bytes()).status_code == 200


def test_a_stop_under_load_finishes_what_was_taken_on_and_takes_on_nothing_more(
    composition: Composition,
) -> None:
    url, image = composition.service, enlarged(RAINY.read_bytes(), 600, 450)
    began = time.monotonic()
    assert derain(url, image).status_code == 200
    # as many as take a quarter of a minute here
    clients = min(64, max(4, round(15 / (time.monotonic() - began))))

    def answered() -> tuple[httpx.Response, float]:
        return derain(url, image), time.monotonic()

    def newcomer() -> tuple[str, float]:
        try:
            return str(derain(url, RAINY.read_bytes()).status_code), time.monotonic()
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            return "turned away", time.monotonic()

    with ThreadPoolExecutor(clients) as threads, ThreadPoolExecutor(64) as others:
        first = [threads.submit(answered) for _ in range(clients)]
        # seven bytes a pixel are accounted for besides the file
        eventually(
            lambda: inflight_bytes(url) >= clients * 600 * 450 * 7 or any(one.done() for one in first),
            seconds=60,
            what="all taken on",
        )
        stopping = time.monotonic()
        stop = others.submit(composition.compose, "stop", "derain")
        late = [others.submit(newcomer)]
        while not stop.done():
            time.sleep(0.5)
            late.append(others.submit(newcomer))
        took = time.monotonic() - stopping
        taken_on = [one.result() for one in first]
        outcomes = [one.result() for one in late]
    stop.result()
    assert [answer.status_code for answer, _ in taken_on] == [200] * clients
    assert all(pixels(answer.content).shape == (450, 600, 3) for answer, _ in taken_on)
    said = [outcome for outcome, _ in outcomes]
    turned_away = said.count("turned away") + said.count("503")
    early = len(said) - turned_away
    assert turned_away > 0
    assert said[:early] == ["200"] * early, "taken on after somebody had been turned away"
    after = sum(at > outcomes[early][1] for _, at in taken_on)
    print(
        f"{clients} under way, stopped in {took:.1f} s, {after} answered after somebody had been turned away"
    )
    print("those who came late:", ", ".join(said))
    assert after > 0, "nothing was under way any more"
    state = inspect(composition.container)["State"]
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    assert took < 330


def enlarged(data: bytes, width: int, height: int) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        file = io.BytesIO()
        image.convert("RGB").resize((width, height)).save(file, "JPEG", quality=90)
    return file.getvalue()
