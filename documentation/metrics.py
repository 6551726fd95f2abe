"""The reference of metrics, from `app.metrics.Metrics`."""

from typing import Any, cast

from app.metrics import Metrics
from documentation.tables import table

PAGE = """# Metrics

What `GET /metrics` renders, in the text format that the scraper asks for. No label carries anything that a
client chooses. This page is written from `app/metrics.py`. What each is good for, with alerts and a
dashboard, is in [Observability](../observability.md).

"""


def page() -> str:
    """The page, as Markdown."""
    metrics = Metrics()
    metrics.watch_text_cache(lambda: (0, 0))
    metrics.watch_device(busy_seconds=lambda: 0.0, steps=lambda: 0, out_of_memory=lambda: 0)
    metrics.watch_device_memory(lambda: {"allocated": 0, "reserved": 0, "free": 0, "total": 0})
    declared = {
        family.name: cast(Any, one)._labelnames  # where no series has been made yet, only it knows
        for one in vars(metrics).values()
        if hasattr(one, "describe")
        for family in one.describe()
        if hasattr(one, "_labelnames")
    }
    ours: list[tuple[str, str, str, str]] = []
    process: list[tuple[str, str, str]] = []
    for family in metrics.registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        if not name.startswith("derain_"):
            process.append((f"`{name}`", family.type, family.documentation))
            continue
        observed = {label: None for sample in family.samples for label in sample.labels if label != "le"}
        labels = ", ".join(f"`{label}`" for label in declared.get(family.name) or observed)
        ours.append((f"`{name}`", family.type, labels, family.documentation))
    return (
        PAGE
        + table(("series", "kind", "labels", "meaning"), ours)
        + "\nAbout the process, as every Prometheus client tells it:\n\n"
        + table(("series", "kind", "meaning"), process)
    )
