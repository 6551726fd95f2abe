"""What the OpenAPI document says beyond what the framework reads off the endpoints."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from app.errors import MEDIA_TYPE
from app.formats import FORMATS
from app.schemas import DerainOptions, PerceiveOptions, ProblemDetails

PROBLEM = {"$ref": "#/components/schemas/ProblemDetails"}

REQUEST_ID = {
    "X-Request-ID": {"description": "That of the request, else a new one.", "schema": {"type": "string"}}
}

RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds after which another try has a chance, by measured throughput.",
        "schema": {"type": "integer", "minimum": 1},
    }
}

DERAINED = {
    "Server-Timing": {
        "description": "Milliseconds of decode, queue, inference, encode and total (W3C Server Timing).",
        "schema": {"type": "string"},
        "example": "decode;dur=9.1, queue;dur=0.2, inference;dur=161.8, encode;dur=6.3, total;dur=179.5",
    },
    "X-Derain-Model": {"description": "The model used.", "schema": {"type": "string"}},
    "X-Derain-Prompt": {
        "description": "The degradation prompt used, percent-encoded.",
        "schema": {"type": "string"},
        "example": "a%20photo%20with%20heavy%20rain%20streaks",
    },
    "X-Derain-Batch-Size": {
        "description": "Images in the batch on the device.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "X-Derain-Perception": {
        "description": "Of one image that came without a prompt: the scores that gave one, as JSON.",
        "schema": {"type": "string", "contentMediaType": "application/json"},
        "example": '{"types":{"rain":0.98,"clean":0.02},"densities":{"heavy":1.0},"directions":{"left":1.0}}',
    },
}
"""Headers of every restored image."""


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers that are problems."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "headers": RETRY_AFTER if status in (429, 503) else {},
            "content": {MEDIA_TYPE: {"schema": PROBLEM}},
        }
        for status in statuses
    }


def request_body(options: type[DerainOptions] | type[PerceiveOptions], *, several: bool) -> dict[str, Any]:
    """Both request forms, for an endpoint's `openapi_extra`."""
    schema = without_null(options.model_json_schema())
    binary = {"type": "string", "format": "binary", "description": "The file."}
    schema["properties"] = {
        "image": {"type": "array", "items": binary, "minItems": 1} if several else binary,
        **schema["properties"],
    }
    schema["required"] = ["image"]
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": schema},
                **{image_format.media_type: {"schema": binary} for image_format in FORMATS.values()},
            },
        }
    }


def without_null(schema: Any) -> Any:
    """A schema whose optional parts are left out rather than null: forms and queries know no null."""
    if isinstance(schema, list):
        return [without_null(item) for item in schema]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {key: without_null(value) for key, value in schema.items()}  # pyright: ignore[reportUnknownVariableType]
    if found.get("default", ...) is None:
        del found["default"]
    kinds = [kind for kind in found.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del found["anyOf"]
        found = {**kinds[0], **found}
    return found


def install(app: FastAPI, *, max_images: int) -> None:
    """Complete the document that `app` serves, once, when it is first asked for."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = completed(generate(), max_images)
        return app.openapi_schema

    app.openapi = complete


def completed(document: dict[str, Any], max_images: int) -> dict[str, Any]:
    """The framework's document with problems, headers, parameters and limits as they are."""
    schemas = document["components"]["schemas"]
    schemas.update(_definitions(ProblemDetails))
    for name in ("HTTPValidationError", "ValidationError"):  # the framework's own shape of errors
        schemas.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["parameters"] = without_null(operation.get("parameters", []))
            for status, response in list(operation["responses"].items()):
                if "HTTPValidationError" in str(response):
                    del operation["responses"][status]
                    continue
                response["headers"] = {**REQUEST_ID, **response.get("headers", {})}
    form = document["paths"]["/derain"]["post"]["requestBody"]["content"]["multipart/form-data"]
    form["schema"]["properties"]["image"]["maxItems"] = max_images
    return document


def _definitions(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), model.__name__: schema}
