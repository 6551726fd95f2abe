"""The alerts. Were these wrong, nobody would be woken, or everybody for nothing."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import program

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "rules/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_configuration_with_its_rules() -> None:
    said = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert "2 rule files found" in said


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


def test_every_alert_is_seen_to_fire_and_not_to() -> None:
    firing: set[str] = set()
    silent: set[str] = set()
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for asked in test["alert_rule_test"]:
                (firing if asked.get("exp_alerts") else silent).add(asked["alertname"])
    names = {alert["alert"] for alert in ALERTS}
    assert names
    assert firing == names
    assert silent == names


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_the_matter_and_where_it_is_told_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower()
    assert anchor in {heading.lower() for heading in headings}
