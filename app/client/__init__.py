"""The client of the service: `Derain`, and `AsyncDerain` for asyncio. Needs httpx (the extra `client`), and
nothing of the service itself."""

try:
    import httpx as _httpx  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ModuleNotFoundError as error:
    raise ImportError(f"{error}: the client needs its extra, pip install 'tvi-derain[client]'") from error

from app.client.answers import Model, Perceived, Restored, RestoredFile, Timings
from app.client.asynchronous import AsyncDerain
from app.client.blocking import Derain
from app.client.errors import DerainConnectionError, DerainError, DerainTimeoutError, FieldProblem, Limit
from app.client.options import RestoreOptions
from app.client.uploads import ImageSource

__all__ = [
    "AsyncDerain",
    "Derain",
    "DerainConnectionError",
    "DerainError",
    "DerainTimeoutError",
    "FieldProblem",
    "ImageSource",
    "Limit",
    "Model",
    "Perceived",
    "RestoreOptions",
    "Restored",
    "RestoredFile",
    "Timings",
]
