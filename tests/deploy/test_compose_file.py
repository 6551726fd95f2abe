"""The compose file, read as text: what it opens, what it mounts and what it bounds.

Whether it runs is for tests/containers to say, which needs an engine.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]
SERVICE = {"cpu": "derain", "gpu": "derain-gpu"}
"""By profile."""

IDLE_BYTES = 1 * 2**30
"""What the process takes with nothing in flight, at most: docs/performance.md."""


def interpolated(text: str) -> str:
    """With the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


COMPOSE: dict[str, Any] = yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text()))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
each_service = pytest.mark.parametrize("name", SERVICES)


def mounts(service: dict[str, Any]) -> list[list[str]]:
    """Source, target and, where it says one, mode of each."""
    return [volume.split(":") for volume in service.get("volumes", [])]


def test_every_profile_has_one_service_and_what_watches_it() -> None:
    for profile, service in SERVICE.items():
        started = {name for name, one in SERVICES.items() if profile in one.get("profiles", [profile])}
        assert started == {service, "prometheus", "grafana"}


def test_without_a_profile_it_is_the_one_for_cpus() -> None:
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text().splitlines()


@each_service
def test_only_the_service_is_reached_from_other_machines(name: str) -> None:
    for port in SERVICES[name]["ports"]:
        assert port.startswith("127.0.0.1:") or (name in SERVICE.values() and port == "8000:8000")


@each_service
def test_every_image_is_one_version(name: str) -> None:
    """An upgrade is a decision: `latest`, or no tag, would make it at the next pull."""
    tag = SERVICES[name]["image"].rpartition("/")[2].partition(":")[2]
    assert tag
    assert tag != "latest"
    assert "build" in SERVICES[name] or re.search(r"\d+\.\d+\.\d+", tag)


def test_the_base_image_is_one_version() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)


@each_service
def test_everything_that_is_mounted_is_there(name: str) -> None:
    """An engine would make an empty folder of what is not."""
    for source, *_ in mounts(SERVICES[name]):
        if source.startswith("."):
            assert (ROOT / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]


@each_service
def test_nothing_of_the_repository_can_be_written(name: str) -> None:
    assert all(mode == ["ro"] for source, _, *mode in mounts(SERVICES[name]) if source.startswith("."))


@each_service
def test_every_container_is_bounded_and_has_no_rights_to_lose(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", str(service["mem_limit"]))
    assert float(service["cpus"]) > 0
    assert service["pids_limit"] > 0
    assert service["logging"]["driver"] == "json-file"
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()
    assert service["restart"] == "unless-stopped"


@each_service
def test_whatever_is_waited_for_says_when_it_is_healthy(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[other]


def test_the_image_says_when_the_service_is_ready() -> None:
    assert re.search(r"^HEALTHCHECK .*\n +CMD \[.*/readyz.*\]$", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("profile", SERVICE)
def test_prometheus_scrapes_what_the_profile_starts(profile: str) -> None:
    service = SERVICES[SERVICE[profile]]
    names = {SERVICE[profile], *service.get("networks", {}).get("default", {}).get("aliases", [])}
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    ((target,),) = (config["targets"] for config in jobs["derain"]["static_configs"])
    assert target in {f"{name}:8000" for name in names}


@pytest.mark.parametrize("name", SERVICE.values())
def test_a_stop_waits_for_the_longest_request(name: str) -> None:
    """The engine kills what is not gone by then; the server waits ten seconds beyond the deadline."""
    grace = SERVICES[name]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= Settings().deadline_seconds + 10


@pytest.mark.parametrize("name", SERVICE.values())
def test_a_full_service_has_room(name: str) -> None:
    """It refuses what is more than it may hold; a kernel that came first would end it instead."""
    gib = int(SERVICES[name]["mem_limit"].removesuffix("g"))
    assert gib * 2**30 > Settings().max_inflight_bytes + IDLE_BYTES


def test_nobody_can_log_in_to_grafana_with_a_password_that_everybody_knows() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert not any("PASSWORD" in variable for variable in environment)


def test_only_the_service_for_gpus_asks_for_one() -> None:
    asking = {name for name, service in SERVICES.items() if "deploy" in service}
    assert asking == {"derain-gpu"}
    (device,) = SERVICES["derain-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["count"], device["capabilities"]) == (1, ["gpu"])


def test_the_label_of_the_image_says_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nARG VERSION={version}\n" in DOCKERFILE
