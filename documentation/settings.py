"""The reference of settings, from `app.settings.Settings`."""

from pathlib import Path
from typing import Any

from app.settings import MIB, Settings
from documentation.repository_pages import ROOT
from documentation.tables import table

PAGE = """# Settings

Every knob is an environment variable. All are checked together at the start: a value out of its range, or two
that contradict each other, end the service with a line for each. This page is written from `app/settings.py`.

```sh
DERAIN_MAX_IMAGE_PIXELS=12000000 DERAIN_DEADLINE_SECONDS=60 derain serve
```

"""

KINDS = {
    "boolean": "`true`, `false`",
    "integer": "integer",
    "number": "number",
    "array": "names, commas between",
}


def page() -> str:
    """The page, as Markdown."""
    properties = Settings.model_json_schema()["properties"]
    rows = [
        (
            f"`DERAIN_{name.upper()}`",
            field.description or "",
            _kind(properties[name]),
            _default(name, field.get_default(call_default_factory=True)),
        )
        for name, field in Settings.model_fields.items()
    ]
    return PAGE + table(("variable", "meaning", "value", "default"), rows)


def _kind(schema: dict[str, Any]) -> str:
    schema = next((kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"), schema)
    if choices := schema.get("enum"):
        return ", ".join(f"`{choice}`" for choice in choices)
    if schema.get("format") == "path":
        return "path"
    kind = KINDS.get(schema["type"], "text")
    least = schema.get("exclusiveMinimum")
    return f"{kind} over {least}" if least is not None else kind


def _default(name: str, value: object) -> str:
    match value:
        case None | ():
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case Path():
            inside = value.is_relative_to(ROOT)
            return f"`{value.relative_to(ROOT)}/` of the repository" if inside else f"`{value}`"
        case int() if name.endswith("_bytes") and value % MIB == 0:
            return f"`{value}` ({value // MIB} MiB)"
        case _:
            return f"`{value}`"
