"""GET /: the page for people, and the files that it is made of."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException

from app.security_headers import PAGE_HEADERS

WEB = Path(__file__).parent / "web"

MEDIA_TYPES = {
    ".css": "text/css",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}

FILES = {
    path.relative_to(WEB).as_posix(): path for path in sorted(WEB.rglob("*")) if path.suffix in MEDIA_TYPES
}
"""What can be had below /static/, by name."""

VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in FILES.values())).hexdigest()[:12]
"""Of all files together. It stands in their addresses, so that browsers may keep them for good."""

PAGE = (WEB / "index.html").read_text("utf-8").replace("{static}", f"static/{VERSION}")
"""Every address in it is relative: the page works below any path that a proxy puts it under."""

HEADERS = {
    "ETag": f'"{hashlib.sha256(PAGE.encode()).hexdigest()[:16]}"',
    "Cache-Control": "no-cache",
    # stricter than what all pages have: nothing here makes a script or markup out of a string
    "Content-Security-Policy": f"{PAGE_HEADERS['Content-Security-Policy']}; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
}

FOR_GOOD = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    """Take the rain out of photographs in a browser."""
    if HEADERS["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=HEADERS)
    return HTMLResponse(PAGE, headers=HEADERS)


@router.get("/static/{version}/{name:path}")
async def file(version: str, name: str) -> Response:
    """A file that the page is made of. Another version than this one's is asked for while several run behind
    one address: it gets what there is, and must ask again the next time.
    """
    if name not in FILES:
        raise HTTPException(404)
    caching = FOR_GOOD if version == VERSION else "no-cache"
    path = FILES[name]
    return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers={"Cache-Control": caching})
