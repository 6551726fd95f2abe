"""Probes and metrics on a port of their own, which only the operator reaches."""

import asyncio
import logging
import socket
from asyncio import Protocol
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI
from starlette.datastructures import State

from app import api, errors
from app.metrics import Metrics
from app.middleware import NO_TELEMETRY, LastResort, LingeringClose, RequestContext
from app.security_headers import SecurityHeaders
from app.tracing import Tracing

logger = logging.getLogger(__name__)

LEAVE_SECONDS = 5
"""How long an answer that is being written may take when the service ends."""


def create_operations(state: State, metrics: Metrics) -> FastAPI:
    """`/livez`, `/readyz` and `/metrics` of the service with this state, and nothing else."""
    app = FastAPI(openapi_url=None, telemetry=NO_TELEMETRY)
    app.state = state
    app.include_router(api.probes)
    app.include_router(api.scraping)
    errors.install(app)
    app.add_middleware(LingeringClose)
    app.add_middleware(LastResort)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestContext, metrics=metrics, tracing=Tracing())
    return app


@asynccontextmanager
async def serving(
    app: FastAPI, host: str, port: int, http: type[Protocol]
) -> AsyncGenerator[tuple[str, int]]:
    """Serve on the running event loop for as long as the context lasts; gives the address.

    Raises:
        OSError: nothing can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    address: tuple[str, int] = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=LEAVE_SECONDS,
    )
    server = _Guest(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    logger.info("probes and metrics on %s port %d", *address)
    try:
        yield address
    finally:
        server.should_exit = True
        await running


class _Guest(uvicorn.Server):
    """A server beside the main one, to which it leaves the signals."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
