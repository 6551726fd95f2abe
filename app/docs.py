"""GET /docs: Swagger UI from files of this host, so that reading the documentation tells nobody else."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
"""Of the package fastapi-offline, which carries Swagger UI."""

START = "start.js"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TVI-Derain: the API</title>
<link rel="stylesheet" href="{root}/docs/swagger-ui.css">
<link rel="icon" href="{root}/docs/favicon.png">
</head>
<body>
<div id="swagger-ui" data-openapi="{root}/openapi.json"></div>
<script src="{root}/docs/swagger-ui-bundle.js"></script>
<script src="{root}/docs/start.js"></script>
</body>
</html>
"""

SCRIPT = """SwaggerUIBundle({
  url: document.getElementById("swagger-ui").dataset.openapi,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
"""Not inside the page: its policy forbids scripts there. No validator: it would ask another host."""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The documentation, to read and to try."""
    return HTMLResponse(PAGE.format(root=request.scope.get("root_path", "").rstrip("/")))


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """A file that the documentation is made of."""
    if name == START:
        return Response(SCRIPT, media_type="text/javascript")
    if name not in ASSETS:
        raise HTTPException(404)
    return FileResponse(Path(str(files("fastapi_offline"))) / "static" / name, media_type=ASSETS[name])
