"""The reference of the HTTP interface, from the service's OpenAPI document."""

import json
from functools import cache
from typing import Any

from app.main import create_app
from app.settings import Settings
from documentation.tables import table

PAGE = """# HTTP API

Written from the service's [OpenAPI document](openapi.json), which a running service has at
`GET /openapi.json`; at `GET /docs` it shows the same to try.

Every error is a problem ([ProblemDetails](#problemdetails), RFC 9457): `type` is `urn:derain:problem:` and a
fixed name, `detail` says what was wrong, `limit` which limit was hit, if one was. Every answer carries
`X-Request-ID`.

"""

PROBLEM = "application/problem+json"

METHODS = ("get", "post", "put", "delete")

JSON = dict[str, Any]


@cache
def _document() -> JSON:
    return create_app(Settings()).openapi()


def document() -> str:
    """The OpenAPI document itself."""
    return json.dumps(_document(), indent=2) + "\n"


def page() -> str:
    """The page, as Markdown."""
    described = _document()
    operations = [
        _operation(f"{method.upper()} {path}", item[method])
        for path, item in described["paths"].items()
        for method in METHODS
        if method in item
    ]
    schemas = [_schema(name, schema) for name, schema in described["components"]["schemas"].items()]
    return PAGE + "".join(operations) + "## What is sent and answered\n\n" + "".join(schemas)


def _operation(name: str, operation: JSON) -> str:
    text = f"## {name}\n\n{operation['summary']}.\n\n"
    if description := operation.get("description"):
        text += " ".join(description.split()) + "\n\n"
    responses = operation["responses"]
    problems = [status for status, response in responses.items() if PROBLEM in response.get("content", {})]
    rows = [_response(status, response) for status, response in responses.items() if status not in problems]
    if problems:
        refusals = ", ".join(f"`{status}`" for status in problems)
        rows.append((refusals, "a problem: [ProblemDetails](#problemdetails)", f"`{PROBLEM}`"))
    return text + _request(operation) + table(("status", "answer", "media type"), rows)


def _request(operation: JSON) -> str:
    text = ""
    parameters = operation.get("parameters", [])
    content = operation.get("requestBody", {}).get("content", {})
    fields: set[str] = set()
    if form := content.get("multipart/form-data", {}).get("schema"):
        bare = ", ".join(f"`{kind}`" for kind in content if kind != "multipart/form-data")
        fields = set(form["properties"])
        text += (
            "The body is a form (`multipart/form-data`) with these fields, or the image itself, and the "
            f"other fields as query parameters. Images are {bare}.\n\n"
        )
        text += table(
            ("field", "value", "meaning"),
            [_field(field, schema, form.get("required", ())) for field, schema in form["properties"].items()],
        )
    rows = [
        (f"`{one['name']}`", one["in"], _kind(one["schema"]), one.get("description", ""))
        for one in parameters
        if not (one["in"] == "query" and one["name"] in fields)
    ]
    return text + (table(("parameter", "in", "value", "meaning"), rows) if rows else "")


def _response(status: str, response: JSON) -> tuple[str, str, str]:
    content = response.get("content", {})
    kinds = dict.fromkeys(_kind(body["schema"]) for body in content.values() if body.get("schema"))
    shown = ", ".join(kind for kind in kinds if "](" in kind)
    text = response["description"].rstrip(".")
    headers = [f"`{header}`" for header in response.get("headers", {}) if header != "X-Request-ID"]
    if headers:
        text += f"; headers {', '.join(headers)}"
    return f"`{status}`", text + (f": {shown}" if shown else ""), ", ".join(f"`{kind}`" for kind in content)


def _schema(name: str, schema: JSON) -> str:
    text = f"### {name}\n\n"
    if description := schema.get("description"):
        text += " ".join(description.split()) + "\n\n"
    required = schema.get("required", ())
    rows = [_field(field, one, required) for field, one in schema.get("properties", {}).items()]
    return text + (table(("field", "value", "meaning"), rows) if rows else "")


def _field(name: str, schema: JSON, required: tuple[str, ...] | list[str]) -> tuple[str, str, str]:
    meaning = schema.get("description", "")
    if "default" in schema and schema["default"] is not None:
        meaning = f"{meaning} Without it `{schema['default']}`."
    return f"`{name}`" + ("" if name in required else " (optional)"), _kind(schema), meaning


def _kind(schema: JSON) -> str:
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_kind(one) for one in schema[several] if one.get("type") != "null")
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return ", ".join(f"`{choice}`" for choice in choices)
    match schema.get("type"):
        case "array":
            return "one or more files" if "minItems" in schema else f"list of {_kind(schema['items'])}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"{_kind(schema['additionalProperties'])} by name"
        case "string" if schema.get("format") == "binary":
            return "file"
        case str() as kind:
            return kind
        case _:
            return "any"
