"""The dashboard's files. Were these wrong, Grafana would show an error in place of a panel, or nothing."""

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from benchmarks.dashboard.panels import DASHBOARD, VARIABLES, Panel, panels

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = {value for name, value in vars(units).items() if not name.startswith("_")}
SHOWN = [panel for panel in panels() if panel.kind != "row"]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def lost(before: object, after: object, path: str = "") -> Iterator[str]:
    """What of `before` is not in `after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after[key], f"{path}.{key}") if key in after else [f"{path}.{key}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{path}[{place}]")
    elif before != after:
        yield f"{path}: {before!r}"


def test_grafana_knows_every_field(dashboard: dict[str, Any]) -> None:
    """Read and written by Grafana's own types, which drop what they do not know."""
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))
    assert list(lost(dashboard, again)) == []
    wrong = dashboard | {"panels": [dashboard["panels"][0] | {"discription": "a field that there is not"}]}
    again = json.loads(json.dumps(Dashboard.from_json(wrong), cls=JSONEncoder))
    assert list(lost(wrong, again)) == [".panels[0].discription"]


def test_it_is_for_grafana_11_and_later(dashboard: dict[str, Any]) -> None:
    assert 39 <= dashboard["schemaVersion"] <= 41, "what Grafana 11.0 to 12 write; later ones migrate"
    assert dashboard["uid"] == "tvi-derain"
    assert "id" not in dashboard, "it is given by the Grafana that takes it in"


def test_where_the_data_is_from_is_chosen_by_a_variable(dashboard: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables.keys() - {"datasource"} == VARIABLES.keys()
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == chosen
            assert all(target["datasource"] == chosen for target in panel["targets"])
    assert all(variables[name]["datasource"] == chosen for name in VARIABLES)


def test_panels_lie_on_the_grid_and_none_upon_another() -> None:
    everything = panels()
    for panel in everything:
        assert 0 <= panel.x < panel.x + panel.width <= 24
    for one, other in combinations(everything, 2):
        assert (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        ), f"{one.title} and {other.title}"


def test_its_rows_are_the_questions_that_it_answers() -> None:
    assert [panel.title for panel in panels() if panel.kind == "row"] == [
        "How loaded",
        "Why slow",
        "What is refused, and why",
        "Prompts and sizes",
        "Memory and process",
        "Cameras",
    ]


@pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: panel.title)
def test_a_panel_says_what_it_means_and_in_which_unit(panel: Panel) -> None:
    assert len(panel.description) > 40
    assert panel.description.endswith(".")
    assert panel.unit in UNITS or panel.unit.startswith(("count:", "suffix:"))
    assert panel.queries
    assert panel.thresholds[0][0] is None, "the colour of the lowest values"


def test_titles_and_numbers_are_each_used_once(dashboard: dict[str, Any]) -> None:
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert len({(panel.title, panel.kind) for panel in SHOWN}) == len(SHOWN)


def test_grafana_finds_prometheus_and_the_dashboard_by_itself() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == (
        "prometheus",
        "http://prometheus:9090",
        True,
    )
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/derain.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
