"""As little of an HTTP client as there can be: what a client computes is taken from the service's cores."""

from asyncio import StreamReader
from collections.abc import Mapping
from urllib.parse import quote


def post_photograph(
    photograph: bytes, media_type: str, prompt: str, fields: Mapping[str, str] | None = None
) -> bytes:
    """A whole request: `POST /derain` with the photograph as its body, and more header fields."""
    lines = {"Host": "here", "Content-Type": media_type, "Content-Length": len(photograph), **(fields or {})}
    head = f"POST /derain?prompt={quote(prompt)} HTTP/1.1\r\n"
    return (
        head + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    ).encode() + photograph


async def answer(reader: StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The next answer of a connection: its status, its header fields by their names in small letters, and
    its body.

    Raises:
        asyncio.IncompleteReadError: the connection ended before.
    """
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), fields, await reader.readexactly(int(fields["content-length"]))
