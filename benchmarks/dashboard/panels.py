"""What deploy/grafana/dashboards/derain.json shows: its panels and their queries."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.dashboard.prometheus import Prometheus, Series
from benchmarks.process import ROOT

DASHBOARD = ROOT / "deploy/grafana/dashboards/derain.json"

VARIABLES = {"job": ".+", "instance": ".+"}
"""Those that a viewer chooses, as they are when all is chosen."""


@dataclass(frozen=True, slots=True)
class Query:
    """An expression with its variables, and how its series are called."""

    expression: str
    legend: str
    instant: bool

    def filled(self, variables: Mapping[str, str]) -> str:
        """The expression as Grafana would send it.

        Raises:
            KeyError: it has a variable that is not among those given.
        """
        return re.sub(r"\$(\w+)", lambda found: variables[found[1]], self.expression)

    def name(self, labels: Mapping[str, str]) -> str:
        """What the series with these labels is called."""
        if self.legend == "__auto":
            return ", ".join(value for name, value in labels.items() if name != "__name__")
        return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), self.legend)


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel, or the title of a row (kind `row`).

    Attributes:
        kind: Grafana's name of its type.
        unit: Grafana's name of the unit of its values.
        x, y, width, height: place on a grid of 24 columns, in its units.
        thresholds: the value from which on a colour holds, None for the lowest.
        lines: whether thresholds are drawn as lines.
        limits: names of series that are limits of the others.
    """

    kind: str
    title: str
    description: str
    unit: str
    x: int
    y: int
    width: int
    height: int
    queries: tuple[Query, ...]
    thresholds: tuple[tuple[float | None, str], ...]
    stacked: bool
    lines: bool
    limits: frozenset[str]
    maximum: float | None


def panels(file: Path = DASHBOARD) -> list[Panel]:
    """All panels, in the order of the file."""
    return [_panel(found) for found in json.loads(file.read_text())["panels"]]


def ask(
    server: Prometheus, panel: Panel, *, start: float, end: float, step: float, rate_seconds: float
) -> list[tuple[str, Series]]:
    """The series of a panel with their names, as Grafana would ask for them.

    Args:
        start, end: the time shown, seconds since the epoch.
        step: between two samples, seconds.
        rate_seconds: over which rates are taken; Grafana takes at least four scrape intervals.
    """
    variables = VARIABLES | {"__rate_interval": f"{rate_seconds:.0f}s", "__range": f"{end - start:.0f}s"}
    found: list[tuple[str, Series]] = []
    for query in panel.queries:
        expression = query.filled(variables)
        if query.instant:
            answer = server.instant(expression, at=end)
        else:
            answer = server.range(expression, start=start, end=end, step=step)
        found += [(query.name(series.labels), series) for series in answer]
    return found


def _panel(found: Mapping[str, Any]) -> Panel:
    fields: Mapping[str, Any] = found.get("fieldConfig", {"defaults": {}, "overrides": []})
    defaults, custom = fields["defaults"], fields["defaults"].get("custom", {})
    place = found["gridPos"]
    return Panel(
        kind=found["type"],
        title=found["title"],
        description=found.get("description", ""),
        unit=defaults.get("unit", ""),
        x=place["x"],
        y=place["y"],
        width=place["w"],
        height=place["h"],
        queries=tuple(
            Query(target["expr"], target["legendFormat"], target.get("instant", False))
            for target in found.get("targets", ())
        ),
        thresholds=tuple(
            (step["value"], step["color"]) for step in defaults.get("thresholds", {"steps": ()})["steps"]
        ),
        stacked=custom.get("stacking", {}).get("mode") == "normal",
        lines="thresholdsStyle" in custom,
        limits=frozenset(override["matcher"]["options"] for override in fields["overrides"]),
        maximum=defaults.get("max"),
    )
